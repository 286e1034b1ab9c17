"""Zero-cost scores: estimates of accuracy at initialisation, before any training.

=============  =====================================================================================
score          definition; larger is better
=============  =====================================================================================
synflow        log of the synaptic saliency summed over all kernels; uses no images
naswot         log determinant of the kernel of activation patterns: how well images are separated
zico           log of gradients' mean over deviation between batches
gradient_norm  norms of the kernels' gradients, summed over layers
swap           number of distinct sample-wise activation patterns
params, macs   the trivial scores, the baselines of all others (:mod:`lcnas.cost`)
=============  =====================================================================================

Formulas and sources are in :mod:`lcnas.training.proxies._formulas`. Choices that the papers leave open:

- **h-swish** has no 0/1 pattern. Its pattern is the sign of its input, as for ReLU: after batch norm that
  divides the values of a unit in half, while the corners at -3 and 3 leave 99.7 % on one side. The same
  holds for SiLU and GELU; ReLU6 is like ReLU. The inner activation of squeeze-and-excite counts, gates and
  identities do not.
- **Batch norm** uses the statistics of each batch, as at the first step of a training; for synflow it is
  removed, as in Abdelfattah et al.'s code (``bn=False``).
- **synflow** runs on an image of ones with the kernels' absolute values, in float64. Activations are
  identities (Tanaka et al. assume ReLU, which passes all values then; h-swish would not), and so is
  squeeze-and-excite, since a gate is not linear: its kernels do not count.
- **Dropout** is off. Re-parameterised convolutions have their training branches.
- **zico** and **gradient_norm** use the cross entropy with the true labels, and the kernels of convolutions
  (including squeeze-and-excite's) and linear layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcnas import cost
from lcnas.arch import Arch, check_classes
from lcnas.errors import TrainingError, not_among, shorten
from lcnas.training.proxies import _formulas
from lcnas.training.proxies._network import Pass, drawn

NAMES = ("synflow", "naswot", "zico", "gradient_norm", "swap", "params", "macs")
TRIVIAL = ("params", "macs")
BATCHES = 2  # batches that images are divided into, as in ZiCo's paper
_BY_PATTERNS = frozenset({"naswot", "swap"})
_BY_GRADIENTS = frozenset({"zico", "gradient_norm"})


def scores(
    arch: Arch,
    images: NDArray[Any],
    labels: NDArray[Any],
    *,
    classes: int,
    seed: int = 0,
    names: Sequence[str] = NAMES,
    batches: int = BATCHES,
) -> dict[str, float]:
    """Return zero-cost scores of a network; the trivial ones are always included.

    Args:
        arch: the network. It is run at the images' size; its MACs are those at its own resolution.
        images: (n, height, width, 3), float32, normalised.
        labels: (n,), classes from 0.
        classes: outputs of the last layer.
        seed: seed of the initial weights.
        names: scores to compute, from :data:`NAMES`.
        batches: number of equal parts of the images, each with its own batch-norm statistics and gradients.

    Returns:
        name -> score, in the order of :data:`NAMES`; naswot is -inf if two images activate the same units.

    Raises:
        TrainingError: an unknown score, or images and labels that do not fit.
        ArchError: the network cannot take images of that size.

    Examples:
        >>> from lcnas import zoo
        >>> rng = np.random.default_rng(0)
        >>> images = rng.standard_normal((8, 32, 32, 3), np.float32)
        >>> results = scores(
        ...     zoo.load("pplcnet_0.25x"), images, rng.integers(10, size=8), classes=10
        ... )
        >>> list(results)
        ['synflow', 'naswot', 'zico', 'gradient_norm', 'swap', 'params', 'macs']
        >>> results["params"]
        252994.0
    """
    chosen = set(_names(names)) | set(TRIVIAL)
    _check(images, labels, check_classes(classes), batches)
    here = arch.at((images.shape[1], images.shape[2]))
    weights = drawn(here, classes, np.random.default_rng(seed))
    values = {
        "params": float(cost.params(arch, classes)),
        "macs": float(cost.macs(arch, None, classes)),
    }
    if "synflow" in chosen:
        values["synflow"] = _synflow(here, classes, weights)
    if chosen & (_BY_PATTERNS | _BY_GRADIENTS):
        parts = list(zip(np.split(images, batches), np.split(labels, batches), strict=True))
        back = bool(chosen & _BY_GRADIENTS)
        values |= _by_images([_run(here, classes, weights, *part, back) for part in parts], back)
    return {name: values[name] for name in NAMES if name in chosen}


def _names(names: Iterable[str]) -> tuple[str, ...]:
    chosen = tuple(names)
    for name in chosen:
        if name not in NAMES:
            raise TrainingError(not_among("scores", name, NAMES))
    return chosen


def _check(images: NDArray[Any], labels: NDArray[Any], classes: int, batches: int) -> None:
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype.kind != "f":
        raise TrainingError(
            f"scores: images are (n, height, width, 3) of floats, got {images.shape} of {images.dtype}"
        )
    n = len(images)
    if labels.shape != (n,) or not n or labels.min() < 0 or labels.max() >= classes:
        raise TrainingError(f"scores: {n} images need as many labels from 0 to {classes - 1}")
    if isinstance(batches, bool) or not isinstance(batches, int) or batches < 2 or n % batches:
        raise TrainingError(
            f"scores: batches: {shorten(batches)} is not at least 2 equal parts of {n} images"
        )


def _synflow(arch: Arch, classes: int, weights: dict[str, NDArray[np.float32]]) -> float:
    height, width = (
        arch.resolution if isinstance(arch.resolution, tuple) else (arch.resolution,) * 2
    )
    positive = {name: np.abs(w.astype(np.float64)) for name, w in weights.items()}
    network_pass = Pass(positive, linear=True)
    logits, back = network_pass.run(arch, classes, np.ones((1, height, width, 3)))
    back(np.ones_like(logits))
    return _formulas.synflow(positive, network_pass.gradients)


def _run(
    arch: Arch,
    classes: int,
    weights: dict[str, NDArray[np.float32]],
    images: NDArray[Any],
    labels: NDArray[Any],
    gradients: bool,
) -> Pass:
    """Return the pass of a batch; with ``gradients``, including the backward pass."""
    network_pass = Pass(weights)
    logits, back = network_pass.run(arch, classes, images.astype(np.float32, copy=False))
    if gradients:
        back(_formulas.cross_entropy_gradient(logits, labels))
    return network_pass


def _by_images(parts: Sequence[Pass], gradients: bool) -> dict[str, float]:
    patterns = [
        np.concatenate(same, axis=1) for same in zip(*(p.patterns for p in parts), strict=True)
    ]
    values = {"naswot": _formulas.naswot(patterns), "swap": _formulas.swap(patterns)}
    if gradients:
        batch_gradients = [p.gradients for p in parts]
        values |= {
            "zico": _formulas.zico(batch_gradients),
            "gradient_norm": _formulas.gradient_norm(batch_gradients),
        }
    return values
