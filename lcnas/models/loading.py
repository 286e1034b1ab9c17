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
        path: weights of PaddleClas, PaddleOCR, timm, torchvision or lcnas; see docs/pretrained.md.
        arch: what the file holds, where names and shapes in it do not tell.
        classes: outputs of the last layer; where they are others than the file's, that layer is new.
        class_names: of these classes; where the file records others, or another order, that layer is new.
        rngs: source of a new last layer's weights; None: ``nnx.Rngs(0)``.
        dtype: type of the computation, as in :func:`lcnas.models.build`.
        layout: of the activations inside, as there.

    Raises:
        PretrainedError: the file is none of these, or its weights do not fit; names what is missing,
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
