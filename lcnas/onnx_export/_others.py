"""Makes ONNX files of other exporters loadable: embeds external weights, lowers too new versions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, defs, helper, inliner, version_converter

from lcnas.errors import OnnxError, listing, reason, shorten

MAX_BYTES = 2**31 - 1  # of a model with its weights: protobuf's limit
# Every supported onnxruntime loads these versions; newer ones are probed.
_SAFE_IR, _SAFE_OPSET = 10, 21
_DOMAINS = ("", "ai.onnx")


def loadable(model: onnx.ModelProto, folder: Path, what: str) -> onnx.ModelProto:
    """Return a model with its weights inside, of versions that the installed onnxruntime loads.

    Returns ``model`` itself if nothing has to be done.

    Args:
        model: the model of a file; it may be changed.
        folder: folder of the file, the only place where other files with its weights are looked for.
        what: name of the model in messages.

    Raises:
        OnnxError: its weights are missing, elsewhere or too large, or its versions are too new to be lowered.
    """
    return lower_versions(with_embedded_weights(model, folder, what), what)


# -- external weights ------------------------------------------------------------------------------


def with_embedded_weights(model: onnx.ModelProto, folder: Path, what: str) -> onnx.ModelProto:
    """Return a model with the weights that it keeps in other files, which must be in its folder.

    An engine that loads bytes does not know the file's folder, and would read a file of that name in the
    current one.
    """
    external = [t for t in _tensors(model) if t.data_location == TensorProto.EXTERNAL]
    if not external:
        return model
    embedded = onnx.ModelProto()
    embedded.CopyFrom(model)
    try:
        size = model.ByteSize() + sum(_external_bytes(t, folder, what) for t in external)
        if size > MAX_BYTES:
            raise OnnxError(f"{what}: has {size:,} bytes of weights; 2 GB can be read at most")
        onnx.load_external_data_for_model(embedded, str(folder))
    except OnnxError:
        raise
    except Exception as error:  # noqa: BLE001 - onnx's checker, the system, or protobuf
        raise OnnxError(
            f"{what}: its weights in other files cannot be read: {reason(error, 200)}"
        ) from None
    if any(t.data_location == TensorProto.EXTERNAL for t in _tensors(embedded)):
        raise OnnxError(f"{what}: keeps sparse weights in another file; save it as one file")
    return embedded


def _external_bytes(tensor: TensorProto, folder: Path, what: str) -> int:
    """Return the number of bytes of a tensor in another file, which must be in the model's folder."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    name = entries.get("location", "")
    path = (folder / name).resolve()
    if not name or not path.is_relative_to(folder.resolve()):
        raise OnnxError(
            f"{what}: its weights in other files cannot be read: {shorten(name)} is not in its folder, "
            "and files elsewhere are not looked at; put it there, and save the model anew"
        )
    if not path.is_file():
        raise OnnxError(
            f"{what}: its weights in other files cannot be read: there is no {shorten(name)} beside it"
        )
    if "length" in entries:
        return int(entries["length"])
    size: int = path.stat().st_size
    return size - int(entries.get("offset", 0))


def _tensors(part: Any) -> Iterator[Any]:
    """Yield all tensors of a model, graph, function or attribute, including those of inner graphs."""
    for field, value in part.ListFields():
        if field.message_type is None:
            continue
        for item in [value] if hasattr(value, "ListFields") else value:
            if field.message_type.name == "TensorProto":
                yield item
            else:
                yield from _tensors(item)


# -- versions --------------------------------------------------------------------------------------


def lower_versions(model: onnx.ModelProto, what: str = "model") -> onnx.ModelProto:
    """Return a model whose versions the installed onnxruntime loads; ``model`` itself if it does already.

    The version of the format (IR) is only a number: the engine refuses newer features, such as types of few
    bits, where they are used. The operator set (opset) too is only a number if none of the operators in use
    has changed since; otherwise onnx converts them.

    Raises:
        OnnxError: the model is newer than the installed onnx, or has operators that older sets lack.
    """
    opset = _opset(model)
    if model.ir_version <= _SAFE_IR and opset <= _SAFE_OPSET:
        return model
    max_ir, max_opset = newest_ir(), newest_opset()
    if model.ir_version <= max_ir and opset <= max_opset:
        return model
    if model.ir_version > onnx.IR_VERSION or opset > defs.onnx_opset_version():
        raise OnnxError(
            f"{what}: is of IR version {model.ir_version} and opset {opset}; known here are those up to "
            f"{onnx.IR_VERSION} and {defs.onnx_opset_version()}: export it again with an older opset, "
            f"such as {max_opset}"
        )
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    if opset > max_opset:
        lowered = _converted(lowered, opset, max_opset, what)
    lowered.ir_version = min(lowered.ir_version, max_ir)
    return lowered


def _opset(model: onnx.ModelProto) -> int:
    return max((o.version for o in model.opset_import if o.domain in _DOMAINS), default=1)


def _converted(model: onnx.ModelProto, opset: int, max_opset: int, what: str) -> onnx.ModelProto:
    if model.functions:  # functions have operator sets of their own
        model = inliner.inline_local_functions(model)
    nodes = list(_nodes(model.graph))
    if all(_since_version(node.op_type, opset) <= max_opset for node in nodes):
        for entry in model.opset_import:
            if entry.domain in _DOMAINS:
                entry.version = max_opset
        return model
    try:
        converted: onnx.ModelProto = version_converter.convert_version(model, max_opset)
    except Exception as error:  # noqa: BLE001 - the converter's errors have no base of their own
        newer = [
            shorten(n.op_type) for n in nodes if _since_version(n.op_type, max_opset) > max_opset
        ]
        problem = f"it has no {listing(dict.fromkeys(newer))}" if newer else reason(error, 200)
        raise OnnxError(
            f"{what}: is of opset {opset}; onnxruntime here takes up to {max_opset}, and it cannot be "
            f"lowered to that: {problem}. Export it again with opset {max_opset} or below"
        ) from None
    return converted


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of standard operators, including those of inner graphs."""
    for node in graph.node:
        if node.domain in _DOMAINS:
            yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _since_version(op_type: str, opset: int) -> int:
    """Return the operator set of an operator's version in ``opset``; a later one if it is newer."""
    try:
        return int(defs.get_schema(op_type, opset, "").since_version)
    except defs.SchemaError:
        return opset + 1 if defs.has(op_type) else 0


@functools.cache
def newest_ir() -> int:
    """Return the newest version of the format that the installed onnxruntime loads."""
    return _newest(_SAFE_IR, onnx.IR_VERSION, lambda version: _probe(version, _SAFE_OPSET))


@functools.cache
def newest_opset() -> int:
    """Return the newest operator set that the installed onnxruntime loads."""
    return _newest(
        _SAFE_OPSET, defs.onnx_opset_version(), lambda version: _probe(_SAFE_IR, version)
    )


def _newest(safe: int, known: int, probe: Callable[[int], bytes]) -> int:
    return next((v for v in range(known, safe, -1) if _loads(probe(v))), safe)


def _probe(ir: int, opset: int) -> bytes:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [1])],
        [value("y", TensorProto.FLOAT, [1])],
    )
    sets = [helper.make_opsetid("", opset)]
    data: bytes = helper.make_model(graph, opset_imports=sets, ir_version=ir).SerializeToString()
    return data


def _loads(data: bytes) -> bool:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - onnxruntime's exceptions have no base of their own
        return False
    return True
