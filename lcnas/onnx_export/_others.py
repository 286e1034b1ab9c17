"""ONNX files of others, made such that an engine takes them: in one piece, and of versions that it knows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, defs, helper, inliner, version_converter

from lcnas.errors import OnnxError, listing, reason, shorten

MOST_BYTES = 2**31 - 1  # of a model in one piece: protobuf's limit
# Every onnxruntime that is supported takes these; whether it takes more is tried out.
_SURE_IR, _SURE_OPSET = 10, 21
_DOMAINS = ("", "ai.onnx")


def prepared(model: onnx.ModelProto, folder: Path, what: str) -> onnx.ModelProto:
    """Return a model with its weights inside, of versions that the installed onnxruntime takes.

    It is the given one where nothing had to be done.

    Args:
        model: as it was read; it may be changed.
        folder: where it lies, and where other files with its weights are looked for, nowhere else.
        what: how messages call it.

    Raises:
        OnnxError: its weights are not there, lie elsewhere or are too many; or its versions are newer than
            can be lowered.
    """
    return lowered(in_one_piece(model, folder, what), what)


# -- weights in other files ------------------------------------------------------------------------


def in_one_piece(model: onnx.ModelProto, folder: Path, what: str) -> onnx.ModelProto:
    """Return a model with the weights that it keeps in other files, which are looked for beside it alone.

    An engine that is given bytes does not know the file's folder, and would take a file of that name from
    the current one.
    """
    outside = [t for t in _tensors(model) if t.data_location == TensorProto.EXTERNAL]
    if not outside:
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    try:
        size = model.ByteSize() + sum(_outside_bytes(t, folder, what) for t in outside)
        if size > MOST_BYTES:
            raise OnnxError(f"{what}: has {size:,} bytes of weights; 2 GB can be read at most")
        onnx.load_external_data_for_model(made, str(folder))
    except OnnxError:
        raise
    except Exception as error:  # noqa: BLE001 - onnx's checker, the system, or protobuf
        raise OnnxError(
            f"{what}: its weights in other files cannot be read: {reason(error, 200)}"
        ) from None
    if any(t.data_location == TensorProto.EXTERNAL for t in _tensors(made)):
        raise OnnxError(f"{what}: keeps sparse weights in another file; save it as one file")
    return made


def _outside_bytes(tensor: TensorProto, folder: Path, what: str) -> int:
    """Return how many bytes a tensor takes from another file, which has to be in the model's folder."""
    told = {entry.key: entry.value for entry in tensor.external_data}
    name = told.get("location", "")
    place = (folder / name).resolve()
    if not name or not place.is_relative_to(folder.resolve()):
        raise OnnxError(
            f"{what}: its weights in other files cannot be read: {shorten(name)} is not in its folder, "
            "and files elsewhere are not looked at; put it there, and save the model anew"
        )
    if not place.is_file():
        raise OnnxError(
            f"{what}: its weights in other files cannot be read: there is no {shorten(name)} beside it"
        )
    if "length" in told:
        return int(told["length"])
    size: int = place.stat().st_size
    return size - int(told.get("offset", 0))


def _tensors(part: Any) -> Iterator[Any]:
    """Yield all tensors of a model, graph, function or attribute, those of inner graphs included."""
    for field, value in part.ListFields():
        if field.message_type is None:
            continue
        for item in [value] if hasattr(value, "ListFields") else value:
            if field.message_type.name == "TensorProto":
                yield item
            else:
                yield from _tensors(item)


# -- versions --------------------------------------------------------------------------------------


def lowered(model: onnx.ModelProto, what: str = "model") -> onnx.ModelProto:
    """Return a model whose versions the installed onnxruntime takes: the given one where it does.

    The version of the format (IR) is a number; what a newer one brought, such as types of few bits, is
    refused by the engine where it is used. The operators' (opset) is a number too where none that is used
    has changed since; else onnx converts them.

    Raises:
        OnnxError: newer than onnx here knows, or with operators that older sets lack.
    """
    opset = _opset(model)
    if model.ir_version <= _SURE_IR and opset <= _SURE_OPSET:
        return model
    ir, most = newest_ir(), newest_opset()
    if model.ir_version <= ir and opset <= most:
        return model
    if model.ir_version > onnx.IR_VERSION or opset > defs.onnx_opset_version():
        raise OnnxError(
            f"{what}: is of IR version {model.ir_version} and opset {opset}; known here are those up to "
            f"{onnx.IR_VERSION} and {defs.onnx_opset_version()}: export it again with an older opset, "
            f"such as {most}"
        )
    made = onnx.ModelProto()
    made.CopyFrom(model)
    if opset > most:
        made = _of_opset(made, opset, most, what)
    made.ir_version = min(made.ir_version, ir)
    return made


def _opset(model: onnx.ModelProto) -> int:
    return max((o.version for o in model.opset_import if o.domain in _DOMAINS), default=1)


def _of_opset(model: onnx.ModelProto, opset: int, most: int, what: str) -> onnx.ModelProto:
    if model.functions:  # they have operator sets of their own
        model = inliner.inline_local_functions(model)
    nodes = list(_nodes(model.graph))
    if all(_since(node.op_type, opset) <= most for node in nodes):
        for entry in model.opset_import:
            if entry.domain in _DOMAINS:
                entry.version = most
        return model
    try:
        made: onnx.ModelProto = version_converter.convert_version(model, most)
    except Exception as error:  # noqa: BLE001 - the converter's errors have no base of their own
        newer = [shorten(n.op_type) for n in nodes if _since(n.op_type, most) > most]
        why = f"it has no {listing(dict.fromkeys(newer))}" if newer else reason(error, 200)
        raise OnnxError(
            f"{what}: is of opset {opset}; onnxruntime here takes up to {most}, and it cannot be "
            f"lowered to that: {why}. Export it again with opset {most} or below"
        ) from None
    return made


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of onnx's own operators, those of inner graphs included."""
    for node in graph.node:
        if node.domain in _DOMAINS:
            yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _since(op_type: str, opset: int) -> int:
    """Return the operator set that brought an operator as ``opset`` has it, or a later one that has it."""
    try:
        return int(defs.get_schema(op_type, opset, "").since_version)
    except defs.SchemaError:
        return opset + 1 if defs.has(op_type) else 0


@functools.cache
def newest_ir() -> int:
    """Return the newest version of the format that the installed onnxruntime takes."""
    return _newest(_SURE_IR, onnx.IR_VERSION, lambda version: _probe(version, _SURE_OPSET))


@functools.cache
def newest_opset() -> int:
    """Return the newest operator set that the installed onnxruntime takes."""
    return _newest(
        _SURE_OPSET, defs.onnx_opset_version(), lambda version: _probe(_SURE_IR, version)
    )


def _newest(sure: int, known: int, probe: Callable[[int], bytes]) -> int:
    return next((v for v in range(known, sure, -1) if _taken(probe(v))), sure)


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


def _taken(data: bytes) -> bool:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - onnxruntime's exceptions have no base of their own
        return False
    return True
