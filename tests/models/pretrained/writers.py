"""Writes files of weights as PyTorch and Paddle do, without either.

PyTorch's pickles are made by Python's own pickler with stand-ins for PyTorch's classes; Paddle's
programs by a few lines a layer, in either of its two formats.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# -- PyTorch ---------------------------------------------------------------------------------------

STORAGES = {
    "f4": "FloatStorage",
    "f8": "DoubleStorage",
    "f2": "HalfStorage",
    "i8": "LongStorage",
    "bf16": "BFloat16Storage",
}


class Bfloat16:
    """Values in bfloat16: the upper halves of those in float32."""

    def __init__(self, array):
        self.array = np.asarray(array, np.float32)
        self.shape = self.array.shape

    def tobytes(self):
        return (self.array.view(np.uint32) >> 16).astype("<u2").tobytes()


class Storage:
    def __init__(self, key, values):
        self.key, self.values = key, values

    @property
    def code(self):
        return "bf16" if isinstance(self.values, Bfloat16) else self.values.dtype.str[1:]

    @property
    def size(self):
        return int(np.prod(self.values.shape))


class Tensor:
    """A window on a storage: sizes in values."""

    def __init__(self, storage, shape, strides, offset=0):
        self.window: Any = (storage, offset, tuple(shape), tuple(strides), False, OrderedDict())


class Parameter(Tensor):
    """The same, wrapped as torch.nn.Parameter."""


def torch_modules():
    """Return stand-ins for the modules of PyTorch that its pickles name."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    for name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
        function = types.FunctionType((lambda: None).__code__, {}, name)
        function.__module__, function.__qualname__ = "torch._utils", name
        setattr(utils, name, function)
    return {"torch": torch, "torch._utils": utils}


class _Pickler(pickle.Pickler):
    def __init__(self, file, legacy):
        super().__init__(file, protocol=2)
        self.legacy = legacy

    def persistent_id(self, item):
        if not isinstance(item, Storage):
            return None
        kind = getattr(sys.modules["torch"], STORAGES[item.code])
        about = ("storage", kind, item.key, "cpu", item.size)
        return (*about, None) if self.legacy else about

    def reducer_override(self, item):
        if not isinstance(item, Tensor):
            return NotImplemented
        utils = sys.modules["torch._utils"]
        rebuild = (utils._rebuild_tensor_v2, item.window)
        if not isinstance(item, Parameter):
            return rebuild
        return utils._rebuild_parameter, (Tensor(*_args(item)), True, OrderedDict())


def _args(item):
    storage, offset, shape, strides, *_ = item.window
    return storage, shape, strides, offset


def _dumps(root, legacy):
    file = io.BytesIO()
    _Pickler(file, legacy).dump(root)
    return file.getvalue()


def tensors(arrays):
    """Return name -> Tensor with a storage each, and the storages."""
    stores: list[Any] = []
    state = OrderedDict()
    for name, array in arrays.items():
        values = array if isinstance(array, Bfloat16) else np.ascontiguousarray(array)
        storage = Storage(str(len(stores)), values)
        stores.append(storage)
        strides = [int(np.prod(array.shape[i + 1 :])) for i in range(len(array.shape))]
        state[name] = Tensor(storage, array.shape, strides)
    state.__dict__["_metadata"] = OrderedDict({"": {"version": 1}})
    return state, stores


def torch_zip(root, stores, **entries):
    """Return the bytes of a file by torch.save."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", _dumps(root, legacy=False))
        archive.writestr("archive/byteorder", entries.pop("byteorder", "little"))
        for storage in stores:
            archive.writestr(f"archive/data/{storage.key}", storage.values.tobytes())
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def torch_legacy(root, stores):
    """Return the bytes of a file by torch.save before PyTorch 1.6."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    keys = sorted(storage.key for storage in stores)
    parts = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2)]
    parts += [pickle.dumps(system, 2), _dumps(root, legacy=True), pickle.dumps(keys, 2)]
    by_key = {storage.key: storage for storage in stores}
    for key in keys:
        parts += [struct.pack("<q", by_key[key].size), by_key[key].values.tobytes()]
    return b"".join(parts)


# -- Paddle ----------------------------------------------------------------------------------------


class Program:
    """A Paddle program that grows layer by layer; values are names.

    It is kept as (operation, inputs by role, attributes, output) with the names of Paddle 2, and
    written as either format.
    """

    def __init__(self, shape=(-1, 3, 32, 32)):
        self.tensors = {}  # name -> array
        self.ops = []
        self.x = self.op("feed", {}, {"shape": list(shape)})

    def op(self, kind, inputs, attrs=None):
        output = f"value_{len(self.ops)}"
        self.ops.append((kind, inputs, attrs or {}, output))
        return output

    def param(self, array, name=None):
        name = name or f"tensor_{len(self.tensors)}.w_0"
        self.tensors[name] = np.asarray(array)
        return name

    def conv(self, kernel, stride=1, groups=1, bias=None, padding=None, **more):
        """Add a convolution with a (out, in / groups, height, width) kernel."""
        stride = list(stride) if isinstance(stride, tuple) else [stride, stride]
        pads = list(padding) if padding else [side // 2 for side in kernel.shape[2:]]
        attrs = {"strides": stride, "paddings": pads, "groups": groups, "dilations": [1, 1]}
        attrs |= {"padding_algorithm": "EXPLICIT", "data_format": "NCHW"}
        depthwise = groups == kernel.shape[0] and groups > 1
        kind = "depthwise_conv2d" if depthwise else "conv2d"
        inputs = {"Input": self.x, "Filter": self.param(kernel)}
        self.x = self.op(kind, inputs, attrs | more)
        return self if bias is None else self.bias(bias, axis=1)

    def bias(self, bias, axis=-1):
        inputs = {"X": self.x, "Y": self.param(bias)}
        self.x = self.op("elementwise_add", inputs, {"axis": axis})
        return self

    def norm(self, scale, shift, mean, var, epsilon=1e-5):
        inputs = {"X": self.x, "Scale": self.param(scale), "Bias": self.param(shift)}
        inputs |= {"Mean": self.param(mean), "Variance": self.param(var)}
        attrs = {"epsilon": float(np.float32(epsilon)), "is_test": True, "data_layout": "NCHW"}
        self.x = self.op("batch_norm", inputs, attrs)
        return self

    def act(self, kind, **attrs):
        if kind != "identity":
            self.x = self.op(kind, {"X": self.x}, attrs)
        return self

    def pool(self, **attrs):
        settings = {"ksize": [1, 1], "adaptive": True, "pooling_type": "avg"} | attrs
        self.x = self.op("pool2d", {"X": self.x}, {"global_pooling": False} | settings)
        return self

    def shortcut(self, other):
        self.x = self.op("elementwise_add", {"X": other, "Y": self.x}, {"axis": -1})
        return self

    def gate(self, other):
        self.x = self.op("elementwise_mul", {"X": other, "Y": self.x}, {"axis": -1})
        return self

    def flatten(self, **attrs):
        settings = {"start_axis": 1, "stop_axis": 3} | attrs
        self.x = self.op("flatten_contiguous_range", {"X": self.x}, settings)
        return self

    def dropout(self, rate=0.2, mode="downgrade_in_infer"):
        attrs = {"dropout_prob": float(np.float32(rate)), "dropout_implementation": mode}
        self.x = self.op("dropout", {"X": self.x}, attrs | {"is_test": True})
        return self

    def scale(self, factor, bias=0.0):
        self.x = self.op("scale", {"X": self.x}, {"scale": float(factor), "bias": bias})
        return self

    def linear(self, kernel, bias=None, **attrs):
        settings = {"trans_x": False, "trans_y": False} | attrs
        self.x = self.op("matmul_v2", {"X": self.x, "Y": self.param(kernel)}, settings)
        return self if bias is None else self.bias(bias)

    def softmax(self):
        self.x = self.op("softmax", {"X": self.x}, {"axis": -1})
        return self

    def fetch(self):
        self.op("fetch", {"X": self.x}, {"col": 0})
        return self

    # -- files -------------------------------------------------------------------------------------

    def save(self, folder, kind="pir", name="inference"):
        """Write the program and its tensors; return the path of the tensors."""
        if kind == "pir":
            (folder / f"{name}.json").write_text(json.dumps(pir(self)))
        else:
            (folder / f"{name}.pdmodel").write_bytes(pdmodel(self))
        (folder / f"{name}.pdiparams").write_bytes(pdiparams(self.tensors))
        return folder / f"{name}.pdiparams"


CODES = {"f4": 5, "f8": 6, "f2": 4, "i8": 3, "i4": 2}


def pdiparams(tensors):
    """Return the bytes of the tensors, in the sorted order of their names."""
    data = b""
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        about = bytes([8, CODES[array.dtype.str[1:]]])
        for side in array.shape:
            about += b"\x10" + _varint(side)
        data += struct.pack("<IQIi", 0, 0, 0, len(about)) + about + array.tobytes()
    return data


def _varint(value):
    data = b""
    while value > 127:
        data += bytes([value & 127 | 128])
        value >>= 7
    return data + bytes([value])


# -- the format of Paddle 3 ----

PIR = {
    "elementwise_add": "add",
    "elementwise_mul": "multiply",
    "hard_swish": "hardswish",
    "hard_sigmoid": "hardsigmoid",
    "flatten_contiguous_range": "flatten",
    "matmul_v2": "matmul",
    "feed": "data",
    "batch_norm": "batch_norm_",
}
ROLES = {"batch_norm": ("X", "Mean", "Variance", "Scale", "Bias"), "conv2d": ("Input", "Filter")}
ROLES["depthwise_conv2d"] = ROLES["conv2d"]
PIR_ATTRS = {"trans_x": "transpose_x", "trans_y": "transpose_y", "data_layout": "data_format"}


def pir(program):
    """Return the program as the data of an inference.json."""
    ids: dict[str, int] = {}
    ops = []
    for name in reversed(program.tensors):
        ids[name] = len(ids) + 1
        ops.append(_pir_param(name, program.tensors[name], ids[name]))

    def value(name=None):
        key = name if name is not None else f"constant_{len(ids)}"
        return ids.setdefault(key, len(ids) + 1)

    def constant(kind, attr):
        number = value()
        ops.append(_pir_op(kind, {"value": attr}, [], number))
        return number

    for kind, inputs, attrs, output in program.ops:
        arguments = [value(inputs[role]) for role in ROLES.get(kind, sorted(inputs))]
        attrs = {PIR_ATTRS.get(name, name): attr for name, attr in attrs.items()}
        if kind == "pool2d":
            arguments.append(constant("full_int_array", attrs.pop("ksize")))
        elif kind == "dropout":
            arguments += [0, constant("full", attrs.pop("dropout_prob"))]
            attrs["mode"] = attrs.pop("dropout_implementation")
        elif kind == "scale":
            arguments.append(constant("full", attrs.pop("scale")))
        elif kind == "elementwise_add" and attrs.pop("axis") == 1:  # a bias, made four-dimensional
            bias, number = arguments[1], value()
            shape = constant("full_int_array", [1, -1, 1, 1])
            ops.append(_pir_op("reshape", {}, [bias, shape], number))
            arguments[1] = number
        ops.append(_pir_op(PIR.get(kind, kind), attrs, arguments, value(output)))
    block = {"#": "block_0", "args": [], "ops": ops}
    regions = [{"#": "region_0", "blocks": [block]}]
    return {
        "base_code": {"magic": "pir", "trainable": True, "version": 1},
        "program": {"regions": regions},
    }


def _pir_param(name, array, number):
    dtensor = {"#": "0.t_dtensor", "D": [{"#": "0.t_f32"}, list(array.shape), "NCHW", [], 0]}
    return {"#": "p", "A": [0, 1, 1, name], "O": {"%": number, "TT": dtensor}, "OA": [], "QA": []}


def _pir_op(kind, attrs, inputs, output):
    attributes = [{"AT": _pir_attr(value), "N": name} for name, value in attrs.items()]
    values = [{"%": number} for number in inputs]
    return {
        "#": f"1.{kind}",
        "A": attributes,
        "I": values,
        "O": [{"%": output, "TT": {}}],
        "OA": [],
    }


def _pir_attr(value):
    if isinstance(value, list):
        return {"#": "0.a_array", "D": [_pir_attr(part) for part in value]}
    kind = {bool: "0.a_bool", int: "0.a_i32", float: "0.a_f32", str: "0.a_str"}[type(value)]
    return {"#": kind, "D": value}


# -- the format of Paddle 2, by the numbers of Paddle's framework.proto ----

_SCHEMA = {
    "Attr": "name:1s type:2i i:3i f:4f s:5s ints:6I b:10b l:13l longs:15L",
    "OpVar": "parameter:1s arguments:2S",
    "OpDesc": "type:3s inputs:1*OpVar outputs:2*OpVar attrs:4*Attr",
    "TensorDesc": "data_type:1i dims:2L",
    "LoDTensorDesc": "tensor:1.TensorDesc lod_level:2i",
    "VarType": "type:1i lod_tensor:3.LoDTensorDesc",
    "VarDesc": "name:1s type:2.VarType persistable:3b",
    "BlockDesc": "idx:1i parent_idx:2i vars:3*VarDesc ops:4*OpDesc",
    "ProgramDesc": "blocks:1*BlockDesc",
}
_FIELD = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "s": _FIELD.TYPE_STRING,
    "i": _FIELD.TYPE_INT32,
    "l": _FIELD.TYPE_INT64,
    "f": _FIELD.TYPE_FLOAT,
    "b": _FIELD.TYPE_BOOL,
}


def _messages():
    file = descriptor_pb2.FileDescriptorProto(name="framework_of_paddle.proto", package="p")
    file.syntax = "proto2"
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for text in fields.split():
            field, rest = text.split(":")
            number = int("".join(c for c in rest if c.isdigit()))
            mark, kind = rest[len(str(number))], rest[len(str(number)) + 1 :]
            descriptor = message.field.add(name=field, number=number)
            repeated = mark == "*" or mark.isupper()
            descriptor.label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            if kind:
                descriptor.type, descriptor.type_name = _FIELD.TYPE_MESSAGE, f".p.{kind}"
            else:
                descriptor.type = _TYPES[mark.lower()]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    find = pool.FindMessageTypeByName
    return {name: message_factory.GetMessageClass(find(f"p.{name}")) for name in _SCHEMA}


def pdmodel(program):
    """Return the bytes of the program as a ProgramDesc."""
    messages = _messages()
    program_desc = messages["ProgramDesc"]()
    block = program_desc.blocks.add(idx=0, parent_idx=-1)
    for name, kind in (("feed", 9), ("fetch", 10)):
        block.vars.add(name=name, persistable=True).type.type = kind
    for name, array in program.tensors.items():
        _variable(block, name, array.shape, persistable=True)
    for kind, inputs, attrs, output in program.ops:
        _variable(block, output, attrs.get("shape", [-1]), persistable=False)
        op = block.ops.add(type=kind)
        for role, value in inputs.items():
            op.inputs.add(parameter=role, arguments=[value])
        role = {"batch_norm": "Y", "conv2d": "Output", "depthwise_conv2d": "Output"}.get(
            kind, "Out"
        )
        op.outputs.add(parameter=role, arguments=[output])
        for name, value in attrs.items():
            if name != "shape":
                _attribute(op.attrs.add(name=name), value)
    return program_desc.SerializeToString()


def _variable(block, name, shape, persistable):
    variable = block.vars.add(name=name, persistable=persistable)
    variable.type.type = 7
    variable.type.lod_tensor.tensor.data_type = 5
    variable.type.lod_tensor.tensor.dims.extend(shape)


def _attribute(attr, value):
    if isinstance(value, bool):
        attr.type, attr.b = 6, value
    elif isinstance(value, int):
        attr.type, attr.i = 0, value
    elif isinstance(value, float):
        attr.type, attr.f = 1, value
    elif isinstance(value, str):
        attr.type, attr.s = 2, value
    else:
        attr.type = 3
        attr.ints.extend(value)
