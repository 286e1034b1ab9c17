"""Pickles of arrays, parsed as data: op-codes are interpreted here, and nothing that they name is executed.

Paddle and PyTorch store weights as pickles, and Python's own unpickler executes what a pickle contains.
Here a name in a pickle is a text that is looked up in a short list of our own functions on arrays;
a name outside the list is an error. Objects, classes and
extension codes are not supported at all.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lcnas.errors import PretrainedError, not_among, shorten

# Codes of NumPy's types for weights, counters and flags, and bfloat16, which NumPy lacks.
DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
BFLOAT16 = "bf16"
_STORAGES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": BFLOAT16,
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "b1",
}


def decode(data: bytes, dtype: str, shape: tuple[int, ...], order: str = "<") -> NDArray[Any]:
    """Return the array with the values ``data``, row by row; bfloat16 becomes float32.

    Args:
        data: the values.
        dtype: one of DTYPES, or BFLOAT16.
        shape: of the array.
        order: byte order of the values: "<" or ">".

    Raises:
        ValueError: more or fewer bytes than the shape needs.
    """
    code = f"{order}u2" if dtype == BFLOAT16 else order + dtype
    needed = math.prod(shape) * np.dtype(code).itemsize
    if needed != len(data):
        raise ValueError(
            f"an array of shape {shorten(shape)} needs {needed} bytes, not {len(data)}"
        )
    values = np.frombuffer(data, np.dtype(code)).reshape(shape)
    if dtype != BFLOAT16:
        return values
    return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)


# -- contents of a pickle of arrays ----------------------------------------------------------------


@dataclass(frozen=True)
class Storage:
    """A flat array of values outside the pickle."""

    dtype: str
    key: str
    size: int  # values


@dataclass(frozen=True)
class Tensor:
    """A view of a storage, as PyTorch pickles a tensor."""

    storage: Storage
    offset: int  # all in values
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the tensor as a new array, from the storage's values.

        Raises:
            ValueError: it reads beyond its storage, or more values than there are.
        """
        count = math.prod(self.shape)
        last = self.offset + sum(
            (n - 1) * step for n, step in zip(self.shape, self.strides, strict=True)
        )
        if count > values.size or (count and last >= values.size):
            raise ValueError(
                f"a tensor of shape {shorten(self.shape)} reads beyond its storage of {values.size}"
            )
        if not count:
            return np.zeros(self.shape, values.dtype)
        steps = [step * values.itemsize for step in self.strides]
        view = np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, steps)
        return np.array(view)


@dataclass
class _Name:
    """A name of the list; the list has its function."""

    text: str


@dataclass
class _Dtype:
    code: str
    order: str = "<"


@dataclass
class _Array:
    """An array that the pickle creates first and fills later."""

    value: NDArray[Any] | None = None


@dataclass
class Pickle:
    """The contents of a pickle: simple values, dicts and lists, with arrays and :class:`Tensor` in them."""

    root: Any
    storages: dict[str, Storage] = field(default_factory=dict)  # all storages of tensors


def as_array(value: object) -> NDArray[Any] | Tensor | None:
    """Return the array or tensor of a value in a pickle, or None."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, Tensor | np.ndarray):
        return value
    # Paddle pickles a tensor as (name, array).
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        return as_array(value[1]) if isinstance(value[1], _Array | np.ndarray) else None
    return None


# -- the names and their functions -----------------------------------------------------------------


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"a size that is not a whole number: {_kind(value)}")
    return value


def _wholes(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or len(value) > 32:
        raise ValueError(f"not a shape: {_kind(value)}")
    return tuple(_whole(n) for n in value)


def _bytes(value: object) -> bytes:
    """Return bytes; a pickle of Python 2 has a text."""
    if isinstance(value, str):
        return value.encode("latin-1")
    if not isinstance(value, bytes | bytearray):
        raise ValueError(f"values of an array that are not bytes: {_kind(value)}")
    return bytes(value)


def _filled(dtype: object, shape: object, fortran: object, data: object) -> NDArray[Any]:
    if not isinstance(dtype, _Dtype):
        raise ValueError(f"an array of {_kind(dtype)}")
    sides = _wholes(shape)
    if not fortran:
        return decode(_bytes(data), dtype.code, sides, dtype.order)
    return decode(_bytes(data), dtype.code, sides[::-1], dtype.order).transpose()


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _frombuffer(data: object, dtype: object, shape: object, order: object) -> _Array:
    return _Array(_filled(dtype, shape, order == "F", data))


def _scalar(dtype: object, data: object) -> _Array:
    return _Array(_filled(dtype, (), False, data))


def _dtype(code: object, *_: object) -> _Dtype:
    text = code.decode("latin-1") if isinstance(code, bytes) else code
    if text not in DTYPES:
        raise ValueError(not_among("type of an array", text, DTYPES))
    return _Dtype(str(text))


def _no_bytes() -> bytes:
    return b""


def _encode(text: object, coding: object = "latin1") -> bytes:
    if not isinstance(text, str) or coding not in ("latin1", "latin-1"):
        raise ValueError("a text in another encoding than NumPy's")
    return text.encode("latin-1")


def _ordered_dict() -> dict[Any, Any]:
    return {}


def _tuple(items: object) -> tuple[Any, ...]:
    if not isinstance(items, tuple) or len(items) != 2:  # (name, array)
        raise ValueError(f"a tuple of {_kind(items)}")
    return items


def _tensor(storage: object, offset: object, shape: object, strides: object, *_: object) -> Tensor:
    if not isinstance(storage, Storage):
        raise ValueError(f"a tensor over {_kind(storage)}")
    tensor = Tensor(storage, _whole(offset), _wholes(shape), _wholes(strides))
    if len(tensor.shape) != len(tensor.strides):
        raise ValueError("a tensor with more sides than strides, or fewer")
    return tensor


def _parameter(data: object, *_: object) -> object:
    return data


T = TypeVar("T")
_NUMPY = ("numpy.core", "numpy._core")  # before and since NumPy 2
_CALLS: dict[str, Callable[..., Any]] = {
    **{f"{package}.multiarray _reconstruct": _reconstruct for package in _NUMPY},
    **{f"{package}.multiarray scalar": _scalar for package in _NUMPY},
    **{f"{package}.numeric _frombuffer": _frombuffer for package in _NUMPY},
    "numpy dtype": _dtype,
    "_codecs encode": _encode,
    "__builtin__ bytes": _no_bytes,  # how old pickles spell b""
    "collections OrderedDict": _ordered_dict,
    "builtins tuple": _tuple,
    "__builtin__ tuple": _tuple,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
}
_MENTIONED = {"numpy ndarray", *(f"torch {name}" for name in _STORAGES)}  # named, never called


# -- the op-codes ----------------------------------------------------------------------------------

_LITERALS = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NOTHING = frozenset(("PROTO", "FRAME", "STOP"))


def _kind(value: object) -> str:
    """Return the kind of a value in a pickle as a word; printing it could take forever."""
    if isinstance(value, _Name):
        return value.text.replace(" ", ".")
    return f"a {type(value).__name__.strip('_').lower()}"


def _set_item(table: object, key: object, value: object) -> None:
    if not isinstance(table, dict):
        raise ValueError(f"an item of {_kind(table)}")
    if not isinstance(key, str | int | float | bytes | None):
        raise ValueError(f"a key that is {_kind(key)}")
    table[key] = value


class _Machine:
    """The stack, the marks and the memo of one pickle's op-codes."""

    def __init__(self, budget: int) -> None:
        self.budget = budget  # bytes of values that are computed from others
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self, stream: io.BytesIO) -> Any:
        """Interpret one pickle to its end and return the result."""
        for code, argument, _ in pickletools.genops(stream):
            name = code.name
            if name in _LITERALS:
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _OPS:
                _OPS[name](self, argument)
            elif name not in _NOTHING:
                raise ValueError(f"the pickle makes objects ({name}), and only arrays are admitted")
        return self.pop()

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("the pickle takes what is not there")
        return self.stack.pop()

    def top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    def items(self) -> list[Any]:
        """Pop everything down to the last mark, and the mark."""
        if not self.marks:
            raise ValueError("the pickle takes what is not there")
        start = self.marks.pop()
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def spend(self, value: T) -> T:
        """Return the result of a call; too many bytes, such as copies of one long text, are an error."""
        array = value.value if isinstance(value, _Array) else value
        size = array.nbytes if isinstance(array, np.ndarray) else 0
        self.budget -= len(array) if isinstance(array, bytes) else size
        if self.budget < 0:
            raise ValueError("the pickle makes far more values than it holds")
        return value

    def drop(self, _: object) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.pop()

    def drop_items(self, _: object) -> None:
        self.items()

    def mark(self, _: object) -> None:
        self.marks.append(len(self.stack))

    def tuple_of(self, count: int) -> None:
        taken = [self.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(taken)))

    def extend(self, values: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, list):
            raise ValueError(f"an item of {_kind(target)}")
        target.extend(values)

    def append(self, _: object) -> None:
        value = self.pop()
        self.extend([value])

    def update(self, pairs: list[Any]) -> None:
        if len(pairs) % 2:
            raise ValueError("a key without a value")
        target = self.top()
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            _set_item(target, key, value)

    def set_item(self, _: object) -> None:
        value = self.pop()
        key = self.pop()
        self.update([key, value])

    def dict_of_items(self, _: object) -> None:
        pairs = self.items()
        self.stack.append({})
        self.update(pairs)

    def put(self, index: object) -> None:
        self.memo[_whole(index)] = self.top()

    def get(self, index: object) -> None:
        if index not in self.memo:
            raise ValueError("the pickle refers to what it has not made")
        self.stack.append(self.memo[_whole(index)])

    def name(self, text: object) -> None:
        if not isinstance(text, str) or not (text in _CALLS or text in _MENTIONED):
            raise ValueError(
                f"the pickle names {shorten(str(text).replace(' ', '.'))}, and only arrays are admitted"
            )
        self.stack.append(_Name(text))

    def stack_name(self, _: object) -> None:
        last, module = self.pop(), self.pop()
        if not isinstance(last, str) or not isinstance(module, str):
            raise ValueError("a name that is not a text")
        self.name(f"{module} {last}")

    def reduce(self, _: object) -> None:
        arguments, call = self.pop(), self.pop()
        if not isinstance(call, _Name) or call.text not in _CALLS:
            raise ValueError(f"the pickle calls {_kind(call)}, and only arrays are admitted")
        if not isinstance(arguments, tuple):
            raise ValueError(f"a call with {_kind(arguments)} for arguments")
        try:
            result = _CALLS[call.text](*arguments)
        except TypeError:
            raise ValueError(f"{_kind(call)} with {len(arguments)} arguments") from None
        self.stack.append(self.spend(result))

    def build(self, _: object) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, _Array) and isinstance(state, tuple) and len(state) == 5:
            _, shape, dtype, fortran, data = state
            target.value = self.spend(_filled(dtype, shape, fortran, data))
        elif isinstance(target, _Dtype) and isinstance(state, tuple) and len(state) > 1:
            target.order = ">" if state[1] == ">" else "<"
        elif not isinstance(
            target, dict
        ):  # the state of a dict is notes, such as versions of modules
            raise ValueError(f"a state of {_kind(target)}")

    def persistent(self, _: object) -> None:
        self.stack.append(self._storage(self.pop()))

    def _storage(self, reference: object) -> Storage:
        """Return the storage of PyTorch's ('storage', type, key, place, size[, view])."""
        if not isinstance(reference, tuple) or len(reference) < 5 or reference[0] != "storage":
            raise ValueError("a reference that is not a storage of PyTorch")
        kind, key, view = reference[1], reference[2], reference[5:]
        if not isinstance(kind, _Name) or not kind.text.startswith("torch "):
            raise ValueError(f"a storage of {_kind(kind)}")
        if not isinstance(key, str) or any(part is not None for part in view):
            raise ValueError("a storage that is a part of another")
        storage = Storage(_STORAGES[kind.text.removeprefix("torch ")], key, _whole(reference[4]))
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"two storages of the name {shorten(key)}")
        return storage


_OPS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.drop,
    "POP_MARK": _Machine.drop_items,
    "DUP": lambda m, _: m.stack.append(m.top()),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "LIST": lambda m, _: m.stack.append(m.items()),
    "APPEND": _Machine.append,
    "APPENDS": lambda m, _: m.extend(m.items()),
    "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.items())),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "DICT": _Machine.dict_of_items,
    "SETITEM": _Machine.set_item,
    "SETITEMS": lambda m, _: m.update(m.items()),
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": lambda m, _: m.put(len(m.memo)),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}


def load(stream: io.BytesIO, source: str) -> Pickle:
    """Return the contents of the next pickle of a stream, and move the stream to its end.

    Args:
        stream: the bytes.
        source: name of their origin, for errors.

    Raises:
        PretrainedError: not a pickle, or contents other than arrays, simple values, dicts and lists.
    """
    machine = _Machine(4 * len(stream.getbuffer()) + 1024)
    try:
        root = machine.run(stream)
    except (ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PretrainedError(f"{source}: {reason}; nothing of it was run") from None
    return Pickle(root, machine.storages)
