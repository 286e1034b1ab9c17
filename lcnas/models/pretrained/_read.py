"""Reading files of published weights, of any format and naming scheme."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lcnas import layers
from lcnas.arch import Arch
from lcnas.errors import LcnasError, PretrainedError, listing, nearest, shorten
from lcnas.models.pretrained import _archs, _own
from lcnas.models.pretrained._files import (
    Arrays,
    FileContent,
    paddle_pickle,
    safetensors,
    torch_pickle,
)
from lcnas.models.pretrained._fit import Differences, check_class_names, check_fit, differences, fit
from lcnas.models.pretrained._names import Scheme, WeightMap
from lcnas.models.pretrained._own import StoredNormalization
from lcnas.models.pretrained._paddle import InferenceModel, inference
from lcnas.models.pretrained._prefixes import SCHEMES, NetworkTensors, networks_in, same
from lcnas.models.pretrained._program import Step, TracedNetwork, Weight, trace
from lcnas.models.pretrained._tree import Leaf, block_leaves
from lcnas.onnx_export import EPSILON, names

_READERS: dict[str, Callable[[Path], FileContent]] = {
    ".pdparams": paddle_pickle,
    ".safetensors": safetensors,
    ".pth": torch_pickle,
    ".pt": torch_pickle,
    ".bin": torch_pickle,
    ".tar": torch_pickle,  # "model_best.pth.tar"
    ".ckpt": torch_pickle,  # Lightning's
}
_PROGRAMS = (".pdiparams", ".json", ".pdmodel")
SUFFIXES = (*_PROGRAMS, *_READERS)  # of supported files


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A network and its weights, from a file."""

    arch: Arch
    classes: int  # outputs of the last layer
    weights: dict[str, NDArray[np.float32]]  # by the names of lcnas.onnx_export.names
    source: str  # what was read, as text
    class_names: tuple[str, ...] | None = (
        None  # in the order of the outputs, where the file has them
    )
    normalization: StoredNormalization | None = (
        None  # of the network's images, where the file has it
    )

    def is_for(self, classes: int, class_names: Sequence[str] | None = None) -> bool:
        """Return whether the last layer is for these classes; names are compared if both have them."""
        if class_names is None or self.class_names is None:
            return classes == self.classes
        return tuple(class_names) == self.class_names


def read(path: str | Path, arch: Arch | None = None, *, epsilon: float | None = None) -> Pretrained:
    """Return the network and the weights of a file; nothing in the file is executed.

    The suffix decides the format:

    - ``.pdiparams``: Paddle's inference model, with its program (``.json`` or ``.pdmodel``) beside it;
    - ``.pdparams``: PaddleClas's weights of PP-LCNet, PP-LCNetV2 or MobileNetV3;
    - ``.safetensors``: timm's or torchvision's weights, or a file of :func:`lcnas.models.pretrained.save`;
    - ``.pth``, ``.pt``, ``.bin``, ``.tar``, ``.ckpt``: timm's or torchvision's as PyTorch saves them.

    Prefixes of names and dicts of a checkpoint around the weights are inferred from the names.

    Args:
        path: the file.
        arch: the network, if the file does not identify it. A program does, and names and shapes do
            for published networks. The resolution is that of ``arch``.
        epsilon: of batch norm, if the file does not have it; None: the library's default.

    Raises:
        PretrainedError: the file cannot be read, holds more than arrays, is for a network that lcnas does
            not know, or does not fit the arch; names what is missing, unexpected or of another shape.
    """
    file = Path(path)
    if arch is not None and not isinstance(arch, Arch):
        raise PretrainedError(
            f"arch: {shorten(arch)} is not an Arch; lcnas.zoo.load() gives one by name"
        )
    if epsilon is not None and (not math.isfinite(epsilon) or epsilon < 0):
        raise PretrainedError(f"epsilon: {shorten(epsilon)} is not a number of at least 0")
    if not file.is_file():
        raise PretrainedError(f"{file}: {_why_no_file(file)}")
    suffix = file.suffix.lower()
    if suffix in _PROGRAMS:
        _only_without(epsilon, file)
        return _of_program(file.with_suffix(".pdiparams"), arch)
    if suffix not in _READERS:
        beside = file.with_suffix(".safetensors")
        if suffix == ".onnx" and beside.is_file():
            raise PretrainedError(f"{file}: is a graph; its weights lie in {beside.name} beside it")
        raise PretrainedError(
            f"{file}: the suffix {suffix!r} is not among {listing(SUFFIXES)}{nearest(suffix, SUFFIXES)}"
        )
    content = _READERS[suffix](file)
    if _own.KEY in content.metadata:
        _only_without(epsilon, file)
        return _of_own(file, content, arch)
    return _of_names(file, content, arch, epsilon)


def _why_no_file(file: Path) -> str:
    if not file.is_dir():
        return "there is no such file"
    suffixes = (*_PROGRAMS[:1], *_READERS)
    inside = sorted(f.name for f in file.iterdir() if f.suffix.lower() in suffixes)
    return f"is a folder; its files of weights: {listing(inside)}"


def _only_without(epsilon: float | None, file: Path) -> None:
    if epsilon not in (None, EPSILON):
        raise PretrainedError(
            f"epsilon: {epsilon} cannot be given for {file.name}, which has its own"
        )


# -- programs --------------------------------------------------------------------------------------


def _of_program(file: Path, arch: Arch | None) -> Pretrained:
    model = inference(file)
    network = trace(model.program, model.content.kind)
    classes = _outputs(network, file)
    if arch is None:
        arch = _arch_of(network, model, classes, file)
    weight_map = _matched(network, arch, classes, str(file))
    weights = fit(model.content.arrays, weight_map, arch, classes, str(file))
    labels = model.class_names
    notes = str(file.with_suffix(".yml"))
    class_names = check_class_names(labels, classes, notes) if labels else None
    source = f"{model.content.kind} with {file.name}"
    return Pretrained(arch, classes, weights, source, class_names)


def _outputs(network: TracedNetwork, file: Path) -> int:
    last = network.steps[-1].layer if network.steps else None
    if not isinstance(last, layers.Linear) or not last.width:
        raise PretrainedError(f"{file}: its program does not end in a linear layer of classes")
    return last.width


def _arch_of(network: TracedNetwork, model: InferenceModel, classes: int, file: Path) -> Arch:
    lcnet = _archs.from_program(network, model.name)
    if lcnet is not None:
        return lcnet
    for candidate in _archs.program_candidates():
        arch = candidate.build().at(network.size or 224)
        try:
            _matched(network, arch, classes, "")
        except LcnasError:
            continue
        return arch if arch.name else arch.named(candidate.name)
    raise PretrainedError(
        f"{file}: its program is neither a PP-LCNet nor a MobileNet that PaddleClas publishes; "
        "give the network as arch="
    )


def _matched(network: TracedNetwork, arch: Arch, classes: int, source: str) -> dict[str, Weight]:
    """Return our name -> tensor, if the program computes the arch, layer by layer."""
    leaves = [leaf for part in block_leaves(arch, classes) for leaf in part.leaves]
    try:
        return _paired(network.steps, leaves)
    except PretrainedError as error:
        raise PretrainedError(
            f"{source}: does not fit {arch.name or repr(arch)}: {error}"
        ) from None


def _paired(steps: Sequence[Step], leaves: Sequence[Leaf]) -> dict[str, Weight]:
    weight_map: dict[str, Weight] = {}
    for step, leaf in zip(steps, leaves, strict=False):
        if step.layer != leaf.layer:
            raise PretrainedError(f"{leaf.path}: {_difference(step.layer, leaf.layer)}")
        weight_map |= {f"{leaf.path}/{name}": weight for name, weight in step.weights.items()}
        weight_map |= _paired(step.body, leaf.body)
    if len(steps) > len(leaves):
        kind = _a(steps[len(leaves)].layer.kind)
        raise PretrainedError(f"the program goes on with {kind} where the network ends")
    if len(steps) < len(leaves):
        raise PretrainedError(f"the program ends before {leaves[len(steps)].path}")
    return weight_map


def _difference(theirs: layers.Layer, ours: layers.Layer) -> str:
    """Return the difference of a layer of the program from that of the network, as text."""
    if type(theirs) is not type(ours):
        return f"the program has {_a(theirs.kind)}, the network {_a(ours.kind)}"
    mine = vars(ours)
    differing = [f"{k} {v} for {mine[k]}" for k, v in vars(theirs).items() if v != mine[k]]
    return f"the program's {ours.kind} has {', '.join(differing)}"


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


# -- our own files ---------------------------------------------------------------------------------


def _of_own(file: Path, content: FileContent, arch: Arch | None) -> Pretrained:
    header = _own.header(content.metadata[_own.KEY], str(file))
    stored_arch, classes = header.arch, header.classes
    if arch is not None and arch.blocks != stored_arch.blocks:
        raise PretrainedError(
            f"{file}: its network is {stored_arch.name or repr(stored_arch)}, not {arch.name or repr(arch)}"
        )
    arch = stored_arch if arch is None else arch
    weight_map = {name: Weight(name) for name in names(arch, classes)}
    weights = fit(content.arrays, weight_map, arch, classes, str(file))
    source = header.source or f"lcnas's {file.name}"
    return Pretrained(arch, classes, weights, source, header.class_names, header.normalization)


# -- files with the names of timm, PaddleClas and torchvision ---------------------------------------


@dataclass(frozen=True, eq=False)
class _Fitting:
    """A recognised network in a file, with names and shapes that fit."""

    tensors: NetworkTensors
    arch: Arch
    classes: int
    weight_map: WeightMap


def _of_names(
    file: Path, content: FileContent, arch: Arch | None, epsilon: float | None
) -> Pretrained:
    _refuse_padding(file, content.metadata.get("padding", ""))
    networks = networks_in(content.arrays)
    if not networks:
        some = listing(map(shorten, sorted(content.arrays)[:3]))
        raise PretrainedError(
            f"{file}: names such as {some} are not those of {listing(s.name for s in SCHEMES)}"
        )
    chosen = _chosen(networks, arch, file)
    tensors, scheme = chosen.tensors, chosen.tensors.scheme
    shift = (scheme.epsilon if epsilon is None else epsilon) - EPSILON
    weight_map = _with_shift(chosen.weight_map, shift)
    weights = fit(tensors.arrays, weight_map, chosen.arch, chosen.classes, str(file))
    source = f"{scheme.name} in {content.kind}, {file.name}{tensors.place}"
    return Pretrained(chosen.arch, chosen.classes, weights, source)


def _chosen(networks: Sequence[NetworkTensors], arch: Arch | None, file: Path) -> _Fitting:
    """Return the network of a file: the first that fits, unless others rank equally.

    Raises:
        PretrainedError: none fits, or several different ones do.
    """
    fitting: list[_Fitting] = []
    problems: list[PretrainedError] = []
    for tensors in networks:
        try:
            fitting.append(_fitting(tensors, arch, file))
        except PretrainedError as error:
            problems.append(error)
    if not fitting:
        raise problems[0]
    first = fitting[0].tensors
    for other in (network.tensors for network in fitting[1:] if network.tensors.rank == first.rank):
        if not same(first.arrays, other.arrays):
            raise PretrainedError(
                f"{file}: holds several networks, {first.prefix or 'its own'!r} and {other.prefix!r} "
                "among them; save the state dict of one alone"
            )
    return fitting[0]


def _fitting(tensors: NetworkTensors, arch: Arch | None, file: Path) -> _Fitting:
    if tensors.scheme.name == "timm":
        _refuse_tensorflow(file)
    classes = _classes(tensors.arrays, tensors.scheme, file)
    if arch is None:
        arch = _known(tensors.arrays, tensors.scheme, classes, file)
    weight_map = _names(tensors.scheme, arch, classes, file)
    check_fit(tensors.arrays, weight_map, arch, classes, str(file))
    return _Fitting(tensors, arch, classes, weight_map)


def _refuse_padding(file: Path, padding: str) -> None:
    """Raise PretrainedError if the metadata name TensorFlow's padding."""
    if "same" in padding.lower() or "tensorflow" in padding.lower():
        raise PretrainedError(
            f"{file}: its padding is {shorten(padding)}, more after than before, "
            "which no block of lcnas can"
        )


def _refuse_tensorflow(file: Path) -> None:
    """Raise PretrainedError for timm's ports of TensorFlow's weights, which need one-sided padding.

    They are recognised by the model's name: the file's, or in the config.json beside it (Hugging Face).
    """
    config = file.with_name("config.json")
    name = file.stem
    if config.is_file() and file.stem in ("model", "pytorch_model"):
        try:
            config_data = json.loads(config.read_bytes())
        except (OSError, ValueError, RecursionError):
            return  # the file is optional
        name = str(config_data.get("architecture", "")) if isinstance(config_data, dict) else ""
    if name.startswith("tf_"):
        raise PretrainedError(
            f"{file}: {shorten(name)} pads as TensorFlow does, more after than before, "
            "which no block of lcnas can"
        )


def _classes(arrays: Arrays, scheme: Scheme, file: Path) -> int:
    name, side = scheme.classifier
    if name not in arrays or arrays[name].ndim != 2 or not arrays[name].shape[side]:
        raise PretrainedError(
            f"{file}: {name!r}, the kernel of the last layer, is missing or not a matrix"
        )
    return int(arrays[name].shape[side])


def _names(scheme: Scheme, arch: Arch, classes: int, file: Path) -> WeightMap:
    try:
        return scheme.names(arch, classes)
    except PretrainedError as error:
        what = arch.name or repr(arch)
        raise PretrainedError(
            f"{file}: has the names of {scheme.name}, {what} has none: {error}"
        ) from None


def _with_shift(weight_map: WeightMap, shift: float) -> WeightMap:
    """Return the map with ``shift`` added to variances, for an epsilon that is larger by it than ours."""
    if not shift:
        return weight_map
    return {
        name: dataclasses.replace(weight, shift=shift) if name.endswith("/var") else weight
        for name, weight in weight_map.items()
    }


def _known(arrays: Arrays, scheme: Scheme, classes: int, file: Path) -> Arch:
    """Return the published network with these names and shapes."""
    shapes = {name: array.shape for name, array in arrays.items()}
    problems: dict[str, Differences] = {}
    for candidate in _archs.candidates(scheme.name):
        arch = candidate.build()
        problems[candidate.name] = _apart(shapes, scheme, arch, classes)
        if not problems[candidate.name]:
            return arch if arch.name else arch.named(candidate.name)
    closest = min(problems, key=lambda name: len(problems[name]))
    raise PretrainedError(
        f"{file}: is not among the known networks with the names of {scheme.name}; give it as "
        f"arch=. From {closest} it differs in {len(problems[closest])}: {problems[closest]}"
    )


def _apart(
    shapes: Mapping[str, tuple[int, ...]], scheme: Scheme, arch: Arch, classes: int
) -> Differences:
    return differences(shapes, scheme.names(arch, classes), names(arch, classes))
