"""Networks with published weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flax import nnx

from lcnas.arch import Arch
from lcnas.models import pretrained
from lcnas.models.network import Network, build


def load_pretrained(
    path: str | Path,
    arch: Arch | None = None,
    *,
    classes: int | None = None,
    class_names: Sequence[str] | None = None,
    rngs: nnx.Rngs | None = None,
    dtype: Any = None,
    layout: str | None = None,
) -> Network:
    """Return a network with the weights of a file, in evaluation mode.

    Args:
        path: weights of PaddleClas, PaddleOCR, timm, torchvision or lcnas; see docs/how-to/pretrained.md.
        arch: the network of the file; needed if names and shapes do not identify it.
        classes: outputs of the last layer; if not the file's, the layer is initialised anew.
        class_names: names of the classes; if the file has others, or another order, the layer is new.
        rngs: for a new last layer's weights; None: ``nnx.Rngs(0)``.
        dtype: type of the computation; see :func:`lcnas.models.build`.
        layout: layout of the activations; see :func:`lcnas.models.build`.

    Raises:
        PretrainedError: an unknown kind of file, or weights that do not fit; names what is missing,
            unexpected or of another shape.
    """
    published = pretrained.read(path, arch)
    outputs = published.classes if classes is None else classes
    model = build(published.arch, outputs, rngs, dtype=dtype, layout=layout)
    if published.is_for(outputs, class_names):
        model.set_weights(published.weights)
    else:
        body = pretrained.without_head(published.weights, published.arch)
        model.set_weights({**model.weights(), **body})
    model.eval()  # type: ignore[no-untyped-call]
    return model
