"""The identity of a supernet's training, and the files of a trained supernet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import lcnas
from lcnas import blocks, files
from lcnas.errors import TrainingError, shorten
from lcnas.models.supernet import Supernet
from lcnas.spaces import Space
from lcnas.training import run
from lcnas.training.data import Data
from lcnas.training.recipes import Recipe

LABELS = 0.0  # share of labels in the targets of all but the largest network
VERSION = 1  # of the training algorithm, part of each identity
WEIGHTS, ABOUT = "supernet.safetensors", "supernet.json"


def content_id(
    supernet: Supernet,
    space: Space,
    recipe: Recipe,
    *,
    data: str,
    seed: int,
    random: int = 2,
    labels: float = LABELS,
    draws: str = "",
    init: str = "",
) -> str:
    """Return 20 hex digits that identify a supernet and its training; equal ones give equal weights.

    Args:
        supernet: the supernet.
        space: the space, restricted as it is searched.
        recipe: the recipe.
        data: fingerprint of the images, their split and their normalisation.
        seed: seed of all draws.
        random: random networks per step.
        labels: share of labels in the targets of all but the largest network, 0 to 1.
        draws: description of the distribution of random networks, different for different budgets.
        init: fingerprint of the initial weights; "": drawn from the seed.
    """
    genes = [[gene.name, [_choice_data(choice) for choice in gene.choices]] for gene in space.genes]
    content = {
        "version": [lcnas.__version__, VERSION],
        "supernet": supernet.to_data(),
        "space": [str(space.size), genes, list(space.rule_texts)],
        "recipe": {k: v for k, v in recipe.to_data().items() if k != "name"},
        "training": [data, seed, random, labels, draws, init],
    }
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _choice_data(choice: Any) -> Any:
    return blocks.to_data(choice) if isinstance(choice, blocks.Block) else choice


def fingerprint(data: Data) -> str:
    """Return a fingerprint of the images, their split, their size and their normalisation."""
    constants = data.normalization
    view = ",".join(f"{v:.9g}" for v in (*data.size, *constants.mean, *constants.std))
    return f"{data.fingerprint}/{view}"


_IDENTITY = "identity.json"


def begin(out: Path, identity: str) -> bool:
    """Return whether the folder holds the finished supernet; write the identity into a new folder.

    Raises:
        TrainingError: the folder holds another training.
    """
    path = out / _IDENTITY
    if path.is_file():
        stored = json.loads(path.read_text(encoding="utf-8")).get("id")
        if stored != identity:
            raise TrainingError(
                f"supernet: {out} holds another training ({stored}, not {identity}); give another folder"
            )
        return (out / ABOUT).is_file()
    run.write(path, json.dumps({"id": identity}) + "\n")
    return False


# -- the files of a trained supernet -----------------------------------------------------------------


@dataclass(frozen=True)
class TrainedSupernet:
    """A trained supernet: the contents of ``supernet.json`` and ``supernet.safetensors`` in a folder."""

    supernet: Supernet
    weights: Mapping[str, NDArray[np.float32]] = field(repr=False)
    about: Mapping[str, Any]  # steps, seconds, compile_seconds, images_s, loss, accuracy, init, ...

    def save(self, folder: Path) -> None:
        """Write both files, each atomically."""
        from safetensors.numpy import save

        arrays = {name: np.ascontiguousarray(w) for name, w in self.weights.items()}
        files.write(folder / WEIGHTS, save(arrays))
        about = {"format": "lcnas-supernet", "version": VERSION, "about": dict(self.about)}
        text = json.dumps({**about, "supernet": self.supernet.to_data()}, indent=1)
        run.write(folder / ABOUT, text + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> TrainedSupernet:
        """Return the supernet in a folder.

        Raises:
            TrainingError: there is none, or it has another version.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        path = Path(folder) / ABOUT
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if (data["format"], data["version"]) != ("lcnas-supernet", VERSION):
                raise TrainingError(f"{path}: not a supernet of version {VERSION}")
            supernet = Supernet.from_data(data["supernet"])
            weights = load((Path(folder) / WEIGHTS).read_bytes())
            about = data["about"]
        except OSError as error:
            raise TrainingError(f"{error.filename}: cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            if isinstance(error, lcnas.errors.LcnasError):
                raise
            raise TrainingError(f"{path}: no supernet: {shorten(str(error))}") from None
        return cls(supernet, check_weights(supernet, weights), about)


def check_weights(supernet: Supernet, weights: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    """Return the weights of a supernet, checked and in order.

    Raises:
        TrainingError: a weight is missing, or has another shape.
    """
    for name, shape in supernet.params.items():
        if name not in weights or tuple(weights[name].shape) != tuple(shape):
            raise TrainingError(f"supernet: {name!r} is missing or does not have the shape {shape}")
    return {name: np.asarray(weights[name], np.float32) for name in supernet.params}
