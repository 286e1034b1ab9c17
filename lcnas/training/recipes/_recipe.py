"""A recipe: all that decides how a network is trained, but for the network, the data and the seed."""

from __future__ import annotations

import dataclasses
import functools
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from lcnas.arch import Resolution, check_resolution
from lcnas.errors import ArchError, LcnasError, RecipeError, not_among, shorten
from lcnas.training.augment import Augment
from lcnas.training.recipes import _values

VERSION = 1  # of the JSON form
_FORMAT = "lcnas-recipe"


@dataclass(frozen=True)
class About:
    """The meaning of a field, and its limits (both allowed)."""

    words: str
    low: float | None = None
    high: float | None = None

    def check(self, value: object, what: str) -> None:
        """Refuse a number outside the limits."""
        if not isinstance(value, int | float):
            return
        if self.low is not None and value < self.low:
            raise RecipeError(f"{what}: {value} is less than {self.low:g}")
        if self.high is not None and value > self.high:
            raise RecipeError(f"{what}: {value} is more than {self.high:g}")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. Each field's meaning and unit stand beside it, and in ``--help``."""

    name: Annotated[str, About("a label")] = "custom"

    resolution: Annotated[
        Resolution | None,
        About(
            "pixels (a side, or HEIGHTxWIDTH) the network is built and tested for; none: its own"
        ),
    ] = None
    train_resolution: Annotated[
        Resolution | None, About("pixels to train at; none: the resolution")
    ] = None
    epochs: Annotated[int, About("passes over the training images", 1)] = 30
    batch: Annotated[int, About("images a step, over all devices and micro-batches", 1)] = 128
    accumulate: Annotated[int, About("micro-batches that make up a step's batch", 1)] = 1
    augment: Augment = field(default_factory=Augment)

    optimizer: Annotated[Literal["sgd", "adamw"], About("which one")] = "sgd"
    learning_rate: Annotated[float, About("at its peak, for the batch as it is", 0)] = 0.1
    warmup_epochs: Annotated[float, About("epochs of linear warm-up", 0)] = 1.0
    final_learning_rate: Annotated[float, About("at the end of the cosine", 0)] = 0.0
    momentum: Annotated[float, About("of SGD", 0, 1)] = 0.9
    nesterov: Annotated[bool, About("Nesterov's momentum, of SGD")] = False
    beta1: Annotated[float, About("of AdamW: decay of the mean gradient", 0, 0.999999)] = 0.9
    beta2: Annotated[float, About("of AdamW: decay of the mean squared gradient", 0, 0.999999)] = (
        0.999
    )
    epsilon: Annotated[float, About("of AdamW, in the denominator", 0)] = 1e-8
    weight_decay: Annotated[
        float, About("of kernels; SGD adds it to the gradient, AdamW keeps it apart", 0)
    ] = 1e-4
    clip: Annotated[float, About("largest norm of the whole gradient; 0: no limit", 0)] = 0.0

    label_smoothing: Annotated[float, About("share of a label spread over all classes", 0, 1)] = 0.0
    distill: Annotated[
        Literal["kl", "js", "symmetric_kl"],
        About("how far the student is from the teacher, where there is one"),
    ] = "kl"
    distill_weight: Annotated[
        float, About("share of the teacher in the loss; the label has the rest", 0, 1)
    ] = 0.5
    temperature: Annotated[
        float, About("by which the logits of teacher and student are divided", 0.01)
    ] = 1.0
    needs_teacher: Annotated[bool, About("whether the recipe makes no sense without a teacher")] = (
        False
    )

    dropout: Annotated[
        float | None, About("rate of the dropout layers; none: the network's own", 0, 0.99)
    ] = None
    ema: Annotated[
        float, About("decay of the average of all weights, which is then tested; 0: none", 0, 1)
    ] = 0.0
    precision: Annotated[
        Literal["float32", "bfloat16"], About("of the computation; weights stay float32")
    ] = "float32"

    log_steps: Annotated[int, About("steps that one line of metrics sums up", 1)] = 50
    evaluate_epochs: Annotated[
        int, About("epochs between two looks at the validation images", 1)
    ] = 1

    def __post_init__(self) -> None:
        for name, setting in _fields().items():
            value = _values.converted(getattr(self, name), setting.kind, f"recipe: {name}")
            setting.about.check(value, f"recipe: {name}")
            object.__setattr__(self, name, value)
        if not isinstance(self.augment, Augment):
            raise RecipeError(f"recipe: augment: {shorten(self.augment)} is not an Augment")
        self._check_together()

    def _check_together(self) -> None:
        for name in ("resolution", "train_resolution"):
            value = getattr(self, name)
            if value is not None:
                try:
                    object.__setattr__(self, name, check_resolution(value, f"recipe: {name}"))
                except ArchError as error:
                    raise RecipeError(str(error)) from None
        if self.batch % self.accumulate:
            raise RecipeError(
                f"recipe: batch {self.batch} cannot be cut into {self.accumulate} equal micro-batches"
            )
        if self.warmup_epochs > self.epochs:
            raise RecipeError(
                f"recipe: warmup_epochs {self.warmup_epochs} is more than epochs {self.epochs}"
            )

    # -- changes --

    def override(self, changes: Mapping[str, object]) -> Recipe:
        """Return the recipe with other values of some fields.

        Args:
            changes: name -> value, as an object or as text; ``augment.mixup`` names a field of the
                augmentation.

        Raises:
            RecipeError: no such field (with the nearest), or no such value.

        Example:
            >>> Recipe().override({"epochs": "5", "learning_rate": 0.2}).epochs
            5
        """
        own = _fields()
        inside: dict[str, object] = {}
        changed: dict[str, Any] = {}
        for name, value in changes.items():
            if name.startswith("augment."):
                inside[name.removeprefix("augment.")] = value
            elif name == "augment":
                changed[name] = _augment(value)
            elif name in own:
                changed[name] = _values.converted(value, own[name].kind, f"recipe: {name}")
            else:
                raise RecipeError(not_among("recipe: field", name, _names()))
        recipe = dataclasses.replace(self, **changed)
        if inside:
            recipe = dataclasses.replace(recipe, augment=_changed(recipe.augment, inside))
        return recipe

    def differences(self, other: Recipe) -> list[str]:
        """Return each field in which two recipes differ, in words; the label is none."""
        own, others = values(self), values(other)
        return [
            f"{name} is {others[name]} there and {own[name]} here"
            for name in own
            if name != "name" and own[name] != others[name]
        ]

    # -- JSON --

    def to_data(self) -> dict[str, Any]:
        """Return the recipe as plain data."""
        data: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return {"format": _FORMAT, "version": VERSION} | data

    def to_json(self) -> str:
        """Return the recipe as JSON text, one field a line."""
        return json.dumps(self.to_data(), indent=1) + "\n"

    @classmethod
    def from_data(cls, data: object, source: str = "recipe") -> Recipe:
        """Return the recipe of plain data; fields that are left out have their defaults.

        Raises:
            RecipeError: not a recipe, another version, an unknown field or a wrong value.
        """
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            raise RecipeError(f"{source}: not a recipe (its format is not {_FORMAT!r})")
        if data.get("version") != VERSION or isinstance(data["version"], bool):
            raise RecipeError(
                f"{source}: version: {shorten(data.get('version'))} is not {VERSION}, "
                "the one this lcnas reads"
            )
        fields = {k: v for k, v in data.items() if k not in ("format", "version")}
        try:
            return cls().override(fields)
        except RecipeError as error:
            raise RecipeError(f"{source}: {error}") from None

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Return the recipe of a JSON file."""
        try:
            text = Path(path).read_bytes()
        except OSError as error:
            raise RecipeError(f"{path}: cannot be read: {error.strerror}") from None
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RecipeError(f"{path}: not JSON: {shorten(str(error))}") from None
        return cls.from_data(data, str(path))


# -- the augmentation inside -----------------------------------------------------------------------


def _augment(value: object) -> Augment:
    if isinstance(value, Augment):
        return value
    if not isinstance(value, Mapping):
        raise RecipeError(f"recipe: augment: {shorten(value)} is not a mapping of its fields")
    return _changed(Augment(), value)


def _changed(augment: Augment, changes: Mapping[str, object]) -> Augment:
    kinds = _values.hints(Augment)
    values = {}
    for name, value in changes.items():
        if name not in kinds:
            full_name = f"augment.{name}"
            raise RecipeError(not_among("recipe: field", full_name, [f"augment.{k}" for k in kinds]))
        values[name] = _values.converted(value, kinds[name], f"recipe: augment.{name}")
    try:
        return dataclasses.replace(augment, **values)
    except LcnasError as error:
        words = str(error).removeprefix("augment: ")
        raise RecipeError(f"recipe: augment.{words}") from None


# -- what there is to set --------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One field of a recipe, for command lines."""

    name: str  # "epochs", "augment.mixup"
    kind: Any  # its type hint
    about: About

    @property
    def kind_in_words(self) -> str:
        """Its type: "a whole number"."""
        return _values.described(self.kind)


@functools.cache
def _fields() -> dict[str, Setting]:
    """Return the recipe's own fields, without the augmentation's."""
    hints = typing.get_type_hints(Recipe, include_extras=True)
    return {
        name: Setting(name, *typing.get_args(hint))
        for name, hint in hints.items()
        if typing.get_origin(hint) is Annotated
    }


def settings() -> tuple[Setting, ...]:
    """Return all fields that can be set, those of the augmentation included."""
    inside = _values.hints(Augment).items()
    about = About("of the augmentation, see docs/training.md")
    return (
        *_fields().values(),
        *(Setting(f"augment.{name}", kind, about) for name, kind in inside),
    )


def _names() -> list[str]:
    return [setting.name for setting in settings()]


def values(recipe: Recipe) -> dict[str, Any]:
    """Return the value of each field, by the names of :func:`settings`."""
    own = {name: getattr(recipe, name) for name in _fields()}
    augment = recipe.augment
    inside = {f"augment.{f.name}": getattr(augment, f.name) for f in dataclasses.fields(augment)}
    return own | inside
