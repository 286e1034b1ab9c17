"""Checks that tensors fit a network, and their conversion to the network's weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lcnas.arch import Arch
from lcnas.errors import PretrainedError, nearest, shorten
from lcnas.layers import Shape
from lcnas.models.pretrained._files import Arrays
from lcnas.models.pretrained._program import Weight
from lcnas.onnx_export import names

Floats = NDArray[np.float32]
_SHOWN = 3  # names of each kind in a message


@dataclass(frozen=True)
class Differences:
    """The differences between tensors and a network's weights."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong: tuple[str, ...]  # of another shape, as text

    def __len__(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.wrong)

    def __str__(self) -> str:
        notes = []
        if self.missing:
            hint = nearest(self.missing[0], self.unexpected)
            notes.append(f"missing {_first(map(shorten, self.missing))}{hint}")
        if self.unexpected:
            notes.append(f"unexpected {_first(map(shorten, self.unexpected))}")
        if self.wrong:
            notes.append(f"of another shape {_first(self.wrong)}")
        return "; ".join(notes)


def _first(items: Iterable[str]) -> str:
    """Return the number of items and the first few, as text."""
    listed = list(items)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return f"{len(listed)}: {', '.join(listed[:_SHOWN])}{more}"


def differences(
    shapes: Mapping[str, Shape], weight_map: Mapping[str, Weight], ours: Mapping[str, Shape]
) -> Differences:
    """Return the tensors that are missing, unexpected or of another shape.

    Args:
        shapes: name -> shape of the tensors.
        weight_map: our name -> what it is made of.
        ours: our name -> shape.
    """
    expected = {
        weight.tensor: weight.source_shape(ours[name]) for name, weight in weight_map.items()
    }
    expected |= {weight.less: ours[name] for name, weight in weight_map.items() if weight.less}
    wrong = [
        f"{shorten(name)} {shapes[name]} for {shape}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    return Differences(
        tuple(name for name in expected if name not in shapes),
        tuple(name for name in shapes if name not in expected),
        tuple(wrong),
    )


def fit(
    arrays: Arrays, weight_map: Mapping[str, Weight], arch: Arch, classes: int, source: str
) -> dict[str, Floats]:
    """Return the weights of a network, in the order of their names, from the tensors of a file.

    Args:
        arrays: the tensors.
        weight_map: our name -> what it is made of.
        arch: the network.
        classes: outputs of its last layer.
        source: name of the tensors' origin, for errors.

    Raises:
        PretrainedError: something is missing, unexpected, of another shape, no float, not finite, or a
            negative variance.
    """
    check_fit(arrays, weight_map, arch, classes, source)
    return {
        name: _converted(arrays, weight_map[name], name, source) for name in names(arch, classes)
    }


def check_fit(
    arrays: Arrays, weight_map: Mapping[str, Weight], arch: Arch, classes: int, source: str
) -> None:
    """Check names and shapes; the arguments are those of :func:`fit`.

    Raises:
        PretrainedError: something is missing, unexpected or of another shape.
    """
    ours = names(arch, classes)
    unnamed = [name for name in ours if name not in weight_map]
    extra = [name for name in weight_map if name not in ours]
    problems = Differences(tuple(unnamed), tuple(extra), ())
    if not problems:
        problems = differences({name: a.shape for name, a in arrays.items()}, weight_map, ours)
    if problems:
        raise PretrainedError(f"{source}: does not fit {arch.name or repr(arch)}: {problems}")


def _floats(arrays: Arrays, tensor: str, where: str) -> NDArray[np.floating]:
    if arrays[tensor].dtype.kind != "f":
        raise PretrainedError(f"{where} is {arrays[tensor].dtype}, not a floating-point number")
    return arrays[tensor]


def _converted(arrays: Arrays, weight: Weight, name: str, source: str) -> Floats:
    where = f"{source}: {shorten(weight.tensor)}"
    array = _floats(arrays, weight.tensor, where)
    if weight.axes is not None:
        array = array.transpose(weight.axes)
    if weight.flat:
        array = array[None, None]
    if (weight.factor, weight.shift) != (1.0, 0.0):
        array = array.astype(np.float64) * weight.factor + weight.shift
    if weight.less:
        less = _floats(arrays, weight.less, f"{source}: {shorten(weight.less)}")
        array = array.astype(np.float64) - less
    with np.errstate(over="ignore"):
        converted = np.array(array, np.float32, order="C")  # a copy: the file's bytes are read-only
    if not np.isfinite(converted).all():
        raise PretrainedError(f"{where} holds values that are not finite in float32")
    if name.endswith("/var") and (converted < 0).any():
        why = ", with the epsilon of its norm" if weight.shift else ""
        raise PretrainedError(f"{where}, a variance, holds negative values{why}")
    return converted


# -- classes ---------------------------------------------------------------------------------------


def head_names(arch: Arch, whole: bool = False) -> tuple[str, ...]:
    """Return the names of the head's weights, in order.

    Those are the kernel and the bias of the last linear layer, the only ones whose shape depends on the
    number of classes; ``whole``: all of the last block's, such as PP-LCNet's 1x1 convolution of 1,280.

    Raises:
        PretrainedError: no weight of the arch depends on the number of classes.
    """
    of_one_class, of_two_classes = names(arch, 1), names(arch, 2)
    open_names = tuple(name for name in of_one_class if of_one_class[name] != of_two_classes[name])
    if not open_names:
        raise PretrainedError(f"{arch.name or repr(arch)}: no weight depends on the classes")
    if not whole:
        return open_names
    block = open_names[0].split("/")[0]
    return tuple(name for name in of_one_class if name.split("/")[0] == block)


def classes_of(arch: Arch, arrays: Mapping[str, NDArray[np.generic]]) -> int:
    """Return the number of classes of weights with lcnas's names.

    Raises:
        PretrainedError: the kernel of the last layer is missing, or not a matrix.
    """
    kernel = head_names(arch)[0]
    if kernel not in arrays or arrays[kernel].ndim != 2 or not arrays[kernel].shape[1]:
        raise PretrainedError(f"weights: {kernel!r} is missing, or not a matrix (inputs, classes)")
    return int(arrays[kernel].shape[1])


def without_head(
    weights: Mapping[str, Floats], arch: Arch, whole: bool = False
) -> dict[str, Floats]:
    """Return the weights without the head's, for another number of classes; see :func:`head_names`.

    Examples:
        >>> import numpy as np
        >>> from lcnas import onnx_export, zoo
        >>> arch = zoo.load("pplcnet_0.25x", resolution=32)
        >>> weights = onnx_export.init(arch, np.random.default_rng(0), classes=1000)
        >>> sorted(set(weights) - set(without_head(weights, arch)))
        ['head/4/bias', 'head/4/kernel']
    """
    dropped = set(head_names(arch, whole))
    return {name: weight for name, weight in weights.items() if name not in dropped}


def check_class_names(class_names: object, classes: int, source: str) -> tuple[str, ...]:
    """Return the names of the classes.

    Raises:
        PretrainedError: not a list of texts, or not one per class.
    """
    if not isinstance(class_names, Sequence) or isinstance(class_names, str):
        raise PretrainedError(f"{source}: {shorten(class_names)} is not a list of texts")
    if not all(isinstance(name, str) for name in class_names):
        raise PretrainedError(f"{source}: {shorten(class_names)} is not a list of texts")
    if len(class_names) != classes:
        raise PretrainedError(
            f"{source}: {len(class_names)} names of classes for {classes} classes"
        )
    return tuple(class_names)
