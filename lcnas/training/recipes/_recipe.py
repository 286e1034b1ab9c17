"""A recipe: optimizer, schedule, augmentation and losses of a training, as data."""

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
class FieldInfo:
    """Help text of a field, and its limits (inclusive)."""

    help: str  # noun phrase with unit
    low: float | None = None
    high: float | None = None

    def check(self, value: object, what: str) -> None:
        """Raise RecipeError for a number outside the limits."""
        if not isinstance(value, int | float):
            return
        if self.low is not None and value < self.low:
            raise RecipeError(f"{what}: {value} is less than {self.low:g}")
        if self.high is not None and value > self.high:
            raise RecipeError(f"{what}: {value} is more than {self.high:g}")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. ``python -m lcnas.train --help`` shows the fields' help texts."""

    name: Annotated[str, FieldInfo("name of the recipe")] = "custom"

    resolution: Annotated[
        Resolution | None,
        FieldInfo(
            "resolution that the network is built and tested at, pixels per side or HEIGHTxWIDTH; "
            "none: the network's own"
        ),
    ] = None
    train_resolution: Annotated[
        Resolution | None,
        FieldInfo(
            "resolution of training images, pixels per side or HEIGHTxWIDTH; none: the resolution"
        ),
    ] = None
    epochs: Annotated[int, FieldInfo("number of passes over the training images", 1)] = 30
    batch: Annotated[int, FieldInfo("images per step, over all devices and micro-batches", 1)] = 128
    accumulate: Annotated[int, FieldInfo("micro-batches per step", 1)] = 1
    augment: Augment = field(default_factory=Augment)

    optimizer: Annotated[Literal["sgd", "adamw"], FieldInfo("optimizer")] = "sgd"
    learning_rate: Annotated[float, FieldInfo("peak learning rate, for the whole batch", 0)] = 0.1
    warmup_epochs: Annotated[float, FieldInfo("length of the linear warm-up, epochs", 0)] = 1.0
    final_learning_rate: Annotated[
        float, FieldInfo("learning rate at the end of the cosine schedule", 0)
    ] = 0.0
    momentum: Annotated[float, FieldInfo("momentum of SGD", 0, 1)] = 0.9
    nesterov: Annotated[bool, FieldInfo("Nesterov momentum for SGD")] = False
    beta1: Annotated[float, FieldInfo("AdamW's decay of the mean gradient", 0, 0.999999)] = 0.9
    beta2: Annotated[
        float, FieldInfo("AdamW's decay of the mean squared gradient", 0, 0.999999)
    ] = 0.999
    epsilon: Annotated[float, FieldInfo("AdamW's constant in the denominator", 0)] = 1e-8
    weight_decay: Annotated[
        float,
        FieldInfo(
            "weight decay of kernels, added to the gradient by SGD and decoupled by AdamW", 0
        ),
    ] = 1e-4
    clip: Annotated[float, FieldInfo("maximum norm of the whole gradient; 0: no limit", 0)] = 0.0

    label_smoothing: Annotated[
        float, FieldInfo("share of each label that is spread over all classes", 0, 1)
    ] = 0.0
    distill: Annotated[
        Literal["kl", "js", "symmetric_kl"],
        FieldInfo("divergence between the student's and the teacher's outputs"),
    ] = "kl"
    distill_weight: Annotated[
        float, FieldInfo("weight of the teacher in the loss; the label has the rest", 0, 1)
    ] = 0.5
    temperature: Annotated[
        float, FieldInfo("divisor of the teacher's and the student's logits", 0.01)
    ] = 1.0
    needs_teacher: Annotated[bool, FieldInfo("requirement that a teacher is given")] = False

    dropout: Annotated[
        float | None, FieldInfo("rate of the dropout layers; none: the network's own", 0, 0.99)
    ] = None
    ema: Annotated[
        float,
        FieldInfo(
            "decay of the moving average of all weights, which is then tested; 0: no average", 0, 1
        ),
    ] = 0.0
    precision: Annotated[
        Literal["float32", "bfloat16"],
        FieldInfo("precision of the computation; weights stay float32"),
    ] = "float32"

    log_steps: Annotated[int, FieldInfo("steps per line of metrics", 1)] = 50
    evaluate_epochs: Annotated[
        int, FieldInfo("epochs between two evaluations on the validation images", 1)
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
                f"recipe: batch {self.batch} cannot be divided into {self.accumulate} equal micro-batches"
            )
        if self.warmup_epochs > self.epochs:
            raise RecipeError(
                f"recipe: warmup_epochs {self.warmup_epochs} is more than epochs {self.epochs}"
            )

    # -- changes --

    def override(self, changes: Mapping[str, object]) -> Recipe:
        """Return the recipe with other values of some fields.

        Args:
            changes: name -> value, as an object or as text; names such as ``augment.mixup`` are fields of
                the augmentation.

        Raises:
            RecipeError: an unknown field (with the nearest), or an invalid value.

        Examples:
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
        """Return a description of each field in which two recipes differ, without the name."""
        own, others = values(self), values(other)
        return [
            f"{name} is {others[name]} there and {own[name]} here"
            for name in own
            if name != "name" and own[name] != others[name]
        ]

    # -- JSON --

    def to_data(self) -> dict[str, Any]:
        """Return the recipe as JSON data."""
        data: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return {"format": _FORMAT, "version": VERSION} | data

    def to_json(self) -> str:
        """Return the recipe as JSON text, one field a line."""
        return json.dumps(self.to_data(), indent=1) + "\n"

    @classmethod
    def from_data(cls, data: object, source: str = "recipe") -> Recipe:
        """Return the recipe from JSON data; missing fields have their defaults.

        Raises:
            RecipeError: not a recipe, another version, an unknown field or an invalid value.
        """
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            raise RecipeError(f"{source}: not a recipe (its format is not {_FORMAT!r})")
        if data.get("version") != VERSION or isinstance(data["version"], bool):
            raise RecipeError(
                f"{source}: version: {shorten(data.get('version'))} is not {VERSION}, "
                "the version that this lcnas reads"
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


# -- the augmentation's fields ---------------------------------------------------------------------


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
            raise RecipeError(
                not_among("recipe: field", full_name, [f"augment.{k}" for k in kinds])
            )
        values[name] = _values.converted(value, kinds[name], f"recipe: augment.{name}")
    try:
        return dataclasses.replace(augment, **values)
    except LcnasError as error:
        words = str(error).removeprefix("augment: ")
        raise RecipeError(f"recipe: augment.{words}") from None


# -- settings for command lines --------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """A field of a recipe, for command lines."""

    name: str  # "epochs", "augment.mixup"
    kind: Any  # its type hint
    about: FieldInfo  # help text and limits

    @property
    def kind_in_words(self) -> str:
        """Its type as text: "a whole number"."""
        return _values.described(self.kind)


@functools.cache
def _fields() -> dict[str, Setting]:
    """Return the recipe's own fields, without those of the augmentation."""
    hints = typing.get_type_hints(Recipe, include_extras=True)
    return {
        name: Setting(name, *typing.get_args(hint))
        for name, hint in hints.items()
        if typing.get_origin(hint) is Annotated
    }


def settings() -> tuple[Setting, ...]:
    """Return all fields that can be set, including those of the augmentation."""
    hints = typing.get_type_hints(Augment, include_extras=True)
    inside = {name: typing.get_args(hint) for name, hint in hints.items()}
    return (
        *_fields().values(),
        *(Setting(f"augment.{n}", kind, FieldInfo(text)) for n, (kind, text) in inside.items()),
    )


def _names() -> list[str]:
    return [setting.name for setting in settings()]


def values(recipe: Recipe) -> dict[str, Any]:
    """Return the value of each field, by the names of :func:`settings`."""
    own = {name: getattr(recipe, name) for name in _fields()}
    augment = recipe.augment
    inside = {f"augment.{f.name}": getattr(augment, f.name) for f in dataclasses.fields(augment)}
    return own | inside
