"""Paddle's inference models: a program (``.json`` or ``.pdmodel``) and its tensors (``.pdiparams``)."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcnas.errors import PretrainedError, shorten
from lcnas.layers import Shape
from lcnas.models.pretrained import _protobuf
from lcnas.models.pretrained._files import Arrays, FileContent, decoded, read_bytes
from lcnas.models.pretrained._pickles import BFLOAT16
from lcnas.models.pretrained._program import Op, Param, Program

_DTYPES = {
    2: "i4",
    3: "i8",
    4: "f2",
    5: "f4",
    6: "f8",
    22: BFLOAT16,
}  # VarType.Type of framework.proto
_TENSOR, _FEED = 7, 9  # other values of it

Fields = dict[int, list[int | bytes]]


@dataclass(frozen=True)
class InferenceModel:
    """A program and its tensors, and the notes of the ``.yml`` beside them."""

    program: Program
    content: FileContent
    name: str
    class_names: tuple[str, ...] | None


def inference(path: Path) -> InferenceModel:
    """Return the inference model of a ``.pdiparams`` file and the program beside it.

    Raises:
        PretrainedError: there is no program, or the files do not fit each other.
    """
    beside = [path.with_suffix(suffix) for suffix in (".json", ".pdmodel")]
    programs = [file for file in beside if file.is_file()]
    if not programs:
        raise PretrainedError(
            f"{path}: its program is missing: there is neither {beside[0].name} nor {beside[1].name} "
            "beside it"
        )
    program = pir(programs[0]) if programs[0].suffix == ".json" else pdmodel(programs[0])
    arrays = tensors(path, {param.name: param.shape for param in program.params.values()})
    name, class_names = _notes(path.with_suffix(".yml"))
    return InferenceModel(
        program, FileContent(arrays, f"Paddle's program {programs[0].name}"), name, class_names
    )


def _notes(path: Path) -> tuple[str, tuple[str, ...] | None]:
    """Return the model's name and its classes from ``inference.yml``, if it has them.

    Only two simple keys are parsed, not YAML: a name, and a list of texts, one per line.
    """
    text = read_bytes(path).decode("utf-8", "replace") if path.is_file() else ""
    name = re.search(r"^ *model_name: *(\S+) *$", text, re.MULTILINE)
    listed = re.search(r"^( *)label_list:[ ]*\n((?:\1 *- .*(?:\n|\Z))+)", text, re.MULTILINE)
    if listed is None:
        return (name[1] if name else ""), None
    labels = (line.strip()[2:].strip() for line in listed[2].splitlines())
    return (name[1] if name else ""), tuple(_unquoted(label) for label in labels)


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


# -- the tensors -----------------------------------------------------------------------------------


def tensors(path: Path, shapes: Mapping[str, Shape]) -> Arrays:
    """Return the tensors of a ``.pdiparams`` file, which are sorted by name.

    Args:
        path: the file.
        shapes: name -> shape, from the program.

    Raises:
        PretrainedError: the file is too short or too long, or a tensor has another shape.
    """
    data, position = read_bytes(path), 0
    arrays: Arrays = {}
    for name in sorted(shapes):
        what = f"{path}: {shorten(name)}"
        description, position = _header(what, data, position)
        dtype, shape = _description(what, description)
        if shape != shapes[name]:
            raise PretrainedError(f"{what} has the shape {shape}, in the program {shapes[name]}")
        size = _size(dtype, shape)
        arrays[name] = decoded(what, data[position : position + size], dtype, shape)
        position += size
    if position != len(data):
        raise PretrainedError(
            f"{path}: {len(data) - position} bytes more than the program's tensors have"
        )
    return arrays


def _size(dtype: str, shape: Shape) -> int:
    size = 2 if dtype == BFLOAT16 else int(dtype[1])
    for side in shape:
        size *= side
    return size


def _header(what: str, data: bytes, position: int) -> tuple[bytes, int]:
    """Return the description of a tensor and the position of its values."""
    try:
        version, levels, tensor_version, length = struct.unpack_from("<IQIi", data, position)
    except struct.error:
        raise PretrainedError(f"{what}: the file ends before it") from None
    position += struct.calcsize("<IQIi")
    if (version, levels, tensor_version) != (0, 0, 0) or not 0 <= length <= len(data) - position:
        raise PretrainedError(f"{what}: no tensor lies where it should")
    return data[position : position + length], position + length


def _description(what: str, description: bytes) -> tuple[str, Shape]:
    """Return the type and the shape of a TensorDesc."""
    try:
        dtype, shape = _tensor_desc(description)
    except ValueError as error:
        raise PretrainedError(f"{what}: {error}") from None
    if dtype not in _DTYPES or min(shape, default=0) < 0:
        raise PretrainedError(f"{what}: type {dtype} of the shape {shorten(shape)} is not known")
    return _DTYPES[dtype], shape


def _tensor_desc(description: bytes) -> tuple[int, Shape]:
    parts = _message(description)
    sides = [side for value in parts.get(2, []) for side in _protobuf.whole_numbers(value)]
    return _int(parts, 1), tuple(sides)


# -- programs in JSON ("PIR") ----------------------------------------------------------------------


def pir(path: Path) -> Program:
    """Return the program of an ``inference.json``.

    Raises:
        PretrainedError: it is not one.
    """
    try:
        data = json.loads(read_bytes(path))
        if data["base_code"]["magic"] != "pir":
            raise ValueError("another kind of file")
        (region,) = data["program"]["regions"]
        (block,) = region["blocks"]
        params, ops = {}, []
        for item in block["ops"]:
            if item["#"] == "p":
                param = Param(item["A"][3], tuple(item["O"]["TT"]["D"][1]))
                params[str(item["O"]["%"])] = _checked(param)
            else:
                ops.append(_pir_op(item))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        reason = shorten(str(error))
        raise PretrainedError(
            f"{path}: not a program of Paddle 3 (PIR in JSON): {reason}"
        ) from None
    return Program(params, tuple(ops))


def _checked(param: Param) -> Param:
    if not isinstance(param.name, str) or any(
        isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in param.shape
    ):
        raise ValueError(f"the tensor {shorten(param.name)} has no name or no shape")
    return param


def _pir_op(item: dict[str, Any]) -> Op:
    kind = re.sub(r"^\d+\.|_$", "", item["#"])  # "1.batch_norm_": the dialect, and "in place"
    attrs = {attr["N"]: _pir_attr(attr["AT"]) for attr in item.get("A", [])}
    inputs = tuple(str(value["%"]) for value in item["I"])
    output = str(item["O"][0]["%"]) if item["O"] else ""
    return Op(kind, inputs, output, attrs)


def _pir_attr(attr: dict[str, Any]) -> object:
    value = attr.get("D")
    if not isinstance(value, list):
        return value
    return [_pir_attr(part) if isinstance(part, dict) else part for part in value]


# -- programs in protobuf ("pdmodel") --------------------------------------------------------------

# Paddle 2's name of an operation: Paddle 3's name, its inputs in Paddle 3's order, its output.
_OPS = {
    "conv2d": ("conv2d", ("Input", "Filter"), "Output"),
    "depthwise_conv2d": ("depthwise_conv2d", ("Input", "Filter"), "Output"),
    "batch_norm": ("batch_norm", ("X", "Mean", "Variance", "Scale", "Bias"), "Y"),
    "hard_swish": ("hardswish", ("X",), "Out"),
    "hard_sigmoid": ("hardsigmoid", ("X",), "Out"),
    "elementwise_add": ("add", ("X", "Y"), "Out"),
    "elementwise_mul": ("multiply", ("X", "Y"), "Out"),
    "flatten_contiguous_range": ("flatten", ("X",), "Out"),
    "reshape2": ("reshape", ("X",), "Out"),
    "matmul_v2": ("matmul", ("X", "Y"), "Out"),
    "feed": ("data", (), "Out"),
    "fetch": ("fetch", ("X",), ""),
}
_ATTRS = {
    "dropout_prob": "p",
    "dropout_implementation": "mode",
    "trans_x": "transpose_x",
    "trans_y": "transpose_y",
    "data_layout": "data_format",
}


def pdmodel(path: Path) -> Program:
    """Return the program of a ``.pdmodel`` file (Paddle 2's framework.proto, ProgramDesc).

    Raises:
        PretrainedError: it is not one, or has more than one block.
    """
    try:
        (block,) = _message(read_bytes(path)).get(1, [])
        parts = _message(_raw(block))
        shapes, params = _variables(parts)
        ops = tuple(_pdmodel_op(_message(_raw(op)), shapes) for op in parts.get(4, []))
    except (ValueError, struct.error) as error:
        reason = shorten(str(error))
        raise PretrainedError(f"{path}: not a program of Paddle 2 (one block): {reason}") from None
    return Program(params, ops)


def _variables(block: Fields) -> tuple[dict[str, Shape], dict[str, Param]]:
    """Return the shapes of a block's variables, and the variables in the file of tensors."""
    shapes, params = {}, {}
    for item in block.get(3, []):
        description = _message(_raw(item))
        name, kind = _text(description, 1), _message(_raw(_last_value(description, 2)))
        if _int(kind, 1) != _TENSOR:
            continue
        _, shape = _tensor_desc(_raw(_last_value(_message(_raw(_last_value(kind, 3))), 1)))
        shapes[name] = shape
        if _int(description, 3, 0):
            params[name] = _checked(Param(name, shape))
    return shapes, params


def _pdmodel_op(op: Fields, shapes: Mapping[str, Shape]) -> Op:
    name = _text(op, 3)
    kind, roles, role = _OPS.get(name, (name, ("X",), "Out"))
    inputs, outputs = _arguments(op.get(1, [])), _arguments(op.get(2, []))
    attrs = dict(_pdmodel_attr(_message(_raw(attr))) for attr in op.get(4, []))
    output = outputs.get(role, "")
    if kind == "data":
        attrs["shape"] = list(shapes.get(output, ()))
    return Op(kind, tuple(inputs.get(r, "") for r in roles), output, attrs)


def _arguments(variables: list[int | bytes]) -> dict[str, str]:
    """Return the value of each role."""
    arguments = {}
    for item in variables:
        description = _message(_raw(item))
        if 2 in description:
            arguments[_text(description, 1)] = _text(description, 2)
    return arguments


def _pdmodel_attr(attr: Fields) -> tuple[str, object]:
    name, kind = _text(attr, 1), _int(attr, 2)
    value: object = None
    match kind:
        case 0 | 9:  # INT, LONG
            value = _protobuf.signed(_int(attr, 3 if kind == 0 else 13, 0))
        case 1:  # FLOAT
            (value,) = struct.unpack("<f", _raw(_last_value(attr, 4)))
        case 2:  # STRING
            value = _text(attr, 5)
        case 3 | 11:  # INTS, LONGS
            packed = attr.get(6 if kind == 3 else 15, [])
            value = [number for item in packed for number in _protobuf.whole_numbers(item)]
        case 6:  # BOOLEAN
            value = bool(_int(attr, 10, 0))
    return _ATTRS.get(name, name), value


def _message(data: bytes) -> Fields:
    parts: Fields = {}
    for number, value in _protobuf.fields(data):
        parts.setdefault(number, []).append(value)
    return parts


def _last_value(parts: Fields, number: int) -> int | bytes:
    if not parts.get(number):
        raise ValueError(f"the field {number} is missing")
    return parts[number][-1]


def _raw(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number where a message should be")
    return value


def _text(parts: Fields, number: int) -> str:
    return _raw(_last_value(parts, number)).decode("utf-8")


def _int(parts: Fields, number: int, default: int | None = None) -> int:
    if default is not None and number not in parts:
        return default
    value = _last_value(parts, number)
    if not isinstance(value, int):
        raise ValueError("a message where a number should be")
    return value
