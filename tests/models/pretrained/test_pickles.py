"""Pickles read as data: arrays come out as NumPy's own unpickler gives them, and nothing is ever run."""

from __future__ import annotations

import builtins
import collections
import copyreg
import io
import os
import pickle
import struct
import subprocess
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcnas.errors import PretrainedError
from lcnas.models.pretrained import _pickles, read
from lcnas.models.pretrained._pickles import as_array


def load(data: bytes) -> Any:
    return _pickles.load(io.BytesIO(data), "file").root


# -- arrays ----------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
ARRAYS: dict[str, Any] = {
    "vector": RNG.standard_normal(5).astype(np.float32),
    "kernel": RNG.standard_normal((2, 3, 4, 5)).astype(np.float32),
    "fortran": np.asfortranarray(RNG.standard_normal((3, 4)).astype(np.float32)),
    "view": RNG.standard_normal((6, 6))[::2, 1:3],
    "big_endian": np.arange(4, dtype=">f4"),
    "half": np.arange(6, dtype=np.float16).reshape(2, 3),
    "counter": np.array(12345678901, np.int64),
    "zero_sides": np.array(1.5, np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "bytes": np.arange(256, dtype=np.uint8),
    "flags": np.array([True, False]),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(name, protocol):
    loaded: Any = as_array(load(pickle.dumps({name: ARRAYS[name]}, protocol))[name])
    np.testing.assert_array_equal(loaded, ARRAYS[name])
    assert loaded.dtype == ARRAYS[name].dtype


@pytest.mark.parametrize("protocol", range(6))
def test_simple_values_lists_and_dicts(protocol):
    simple = {
        "numbers": [1, -1, 300, 70000, 2**40, -(2**70), 1.5, True, False, None],
        "texts": ["", "a", "ä" * 300, "x" * 70000],
        "inner": OrderedDict([("a", (1,)), ("b", (1, 2)), ("c", (1, 2, 3)), ("d", (1, 2, 3, 4))]),
        "empty": [(), [], {}],
        3: [[]],
    }
    simple["again"] = simple["texts"]
    loaded = load(pickle.dumps(simple, protocol))
    assert loaded == simple
    assert loaded["again"] is loaded["texts"]


def test_numpys_scalars():
    loaded: Any = as_array(load(pickle.dumps(np.float32(1.25), 4)))
    assert (loaded.shape, loaded.item()) == ((), 1.25)


def test_an_array_that_appears_twice():
    array = np.arange(3.0)
    loaded = load(pickle.dumps({"a": array, "b": array}, 4))
    assert as_array(loaded["a"]) is as_array(loaded["b"])


def test_arrays_of_python_2():
    old = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        b"(I1\n(I2\ntcnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
        b"I00\nU\x08\x00\x00\x80?\x00\x00\x00@tb."
    )
    np.testing.assert_array_equal(pickle.loads(old, encoding="latin-1"), [1, 2])
    np.testing.assert_array_equal(as_array(load(old)), [1, 2])


def test_paddles_tensors_are_pairs_of_name_and_array():
    class Tensor:
        def __reduce__(self):
            return tuple, (("linear_0.w_0", ARRAYS["vector"]),)

    for protocol in (2, 4):
        loaded = as_array(load(pickle.dumps(Tensor(), protocol)))
        np.testing.assert_array_equal(loaded, ARRAYS["vector"])
    assert as_array(("a", "b")) is None
    assert as_array("a") is None


def test_a_stream_stands_behind_its_pickle():
    stream = io.BytesIO(pickle.dumps(1) + pickle.dumps("two") + b"rest")
    assert [_pickles.load(stream, "file").root for _ in range(2)] == [1, "two"]
    assert stream.read() == b"rest"


# -- malice ----------------------------------------------------------------------------------------


class Call:
    """Pickles as a call of ``function``; Python's own unpickler would make it."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Nested:
    """A call hidden in the state of an object."""

    def __init__(self, inner):
        self.inner = inner


COMMAND = "touch ran"  # in the folder of the test
CODE = "open('ran', 'w').close()"
MALICE = {
    "os.system": lambda: Call(os.system, COMMAND),
    "eval": lambda: Call(eval, CODE),
    "exec": lambda: Call(exec, CODE),
    "subprocess": lambda: Call(subprocess.getoutput, COMMAND),
    "popen": lambda: Call(subprocess.Popen, ["touch", "ran"]),
    "import": lambda: Call(__import__, "os"),
    "getattr": lambda: Call(getattr, [], "append"),
    "getattr of a call": lambda: Call(getattr, Call(__import__, "os"), "system"),
    "open": lambda: Call(open, "ran", "w"),
    "partial": lambda: Call(map, os.system, [COMMAND]),
    "numpy.load": lambda: Call(np.load, "ran"),
    "numpy.save": lambda: Call(np.save, "ran", [1]),
    "in a list": lambda: [1, [2, (Call(eval, CODE),)]],
    "as a key": lambda: {Call(eval, CODE): 1},
    "beside an array": lambda: {"a": ARRAYS["vector"], "b": Call(eval, CODE)},
    "as an argument": lambda: Call(tuple, Call(eval, CODE)),
    "in an ordered dict": lambda: OrderedDict(a=Call(eval, CODE)),
    "in an object array": lambda: np.array([Call(eval, CODE)], object),
    "in an object": lambda: Nested(Call(eval, CODE)),
    "in a default dict": lambda: collections.defaultdict(list, a=[Call(eval, CODE)]),
    "in a set": lambda: {Call(eval, CODE)},
    "in an exception": lambda: ValueError(Call(eval, CODE)),
}


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("name", MALICE)
def test_malice_is_refused_and_not_run(name, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps(MALICE[name](), protocol)
    for suffix in (".pdparams", ".pth"):
        (tmp_path / f"file{suffix}").write_bytes(data)
        with pytest.raises(
            PretrainedError, match=r"only arrays|type of an array|nothing of it was"
        ):
            read(tmp_path / f"file{suffix}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["os.system", "eval", "beside an array", "in an object"])
def test_pythons_own_unpickler_would_have_run_it(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(MALICE[name](), 4))
    assert (tmp_path / "ran").exists()


def push(text):
    """The op-code that pushes a text."""
    return b"\x8c" + bytes([len(text)]) + text.encode()


EVAL = b"cbuiltins\neval\n"
RAW = {
    "GLOBAL": b"cos\nsystem\n(S'touch ran'\ntR.",
    "STACK_GLOBAL": push("os") + push("system") + b"\x93" + push(COMMAND) + b"\x85R.",
    "dots in a name": push("builtins") + push("eval.__call__") + b"\x93" + push(CODE) + b"\x85R.",
    "numpy's own getattr": push("numpy") + push("dtype.__class__") + b"\x93.",
    "a name in two parts": push("") + push("numpy dtype") + b"\x93.",
    "INST": b"(S'touch ran'\nios\nsystem\n.",
    "OBJ": b"(" + EVAL + b"S'1'\no.",
    "NEWOBJ": EVAL + push(CODE) + b"\x85\x81.",
    "NEWOBJ_EX": EVAL + push(CODE) + b"\x85}\x92.",
    "PERSID": b"P../../etc/passwd\n.",
    "BINPERSID": push("../../etc/passwd") + b"Q.",
    "EXT1": b"\x82\x01.",
    "EXT2": b"\x83\x01\x01.",
    "EXT4": b"\x84\x01\x01\x01\x01.",
    "BUILD of a name": b"cnumpy\nndarray\n}b.",
    "a call of a name that is only mentioned": b"cnumpy\nndarray\n(tR.",
    "bytes with arguments": b"c__builtin__\nbytes\n(I99999999999\ntR.",
    "a call of a text": push("os.system") + push(COMMAND) + b"\x85R.",
    "a call of what was encoded": b"c_codecs\nencode\n(S'x'\nS'latin1'\ntR(tR.",
    "another encoding": b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.",
    "arguments that are a list": b"cnumpy\ndtype\n]R.",
    "too many arguments": b"ccollections\nOrderedDict\n(I1\nI2\nI3\ntR.",
    "a key that is a list": b"}]I1\ns.",
    "a key that is a name": b"}cnumpy\ndtype\nI1\ns.",
    "a set": b"\x8f(I1\n\x90.",
    "a storage that is a view": b"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI1\n(tt" + b"Q.",
    "a storage of numpy": b"(S'storage'\ncnumpy\ndtype\nS'0'\nS'cpu'\nI1\ntQ.",
    "NEXT_BUFFER": b"\x97.",
}


@pytest.mark.parametrize("name", RAW)
def test_op_codes_that_make_objects(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PretrainedError, match=r"^file: .*; nothing of it was run$"):
        load(b"\x80\x04" + RAW[name])
    assert not (tmp_path / "ran").exists()


def test_extension_codes_of_copyreg(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copyreg.add_extension("builtins", "eval", 0x70)
    try:
        data = pickle.dumps(Call(eval, CODE), 2)
        assert b"\x82\x70" in data  # the name is not in the pickle
        with pytest.raises(PretrainedError, match="EXT1"):
            load(data)
        pickle.loads(data)
    finally:
        copyreg.remove_extension("builtins", "eval", 0x70)
        copyreg.clear_extension_cache()
    assert (tmp_path / "ran").exists()  # by pickle.loads alone


def test_every_refusal_comes_before_anything_is_imported(monkeypatch):
    def forbidden(*arguments, **_):
        raise AssertionError(f"imports {arguments[0]}")

    data = b"\x80\x04" + push("some_module_of_the_attacker") + push("run") + b"\x93)R."
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", forbidden)
        with pytest.raises(PretrainedError, match=r"some_module_of_the_attacker\.run"):
            load(data)


# -- broken pickles --------------------------------------------------------------------------------

BROKEN = {
    "nothing": b"",
    "text": b"hello",
    "cut": pickle.dumps(ARRAYS)[:-9],
    "no STOP": b"\x80\x04N",
    "an empty stack": b".",
    "a mark and no more": b"(.",
    "below the mark": b"N(s.",
    "no mark": b"u.",
    "a memory that is empty": b"h\x05.",
    "an odd number of items": b"}(I1\nu.",
    "items of a number": b"I1\n(I1\nI2\nu.",
    "an item of a dict": b"}I1\na.",
    "huge length": b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "a shape that is negative": (
        b"cnumpy.core.numeric\n_frombuffer\n(C\x00(I-1\ntcnumpy\ndtype\n(S'f4'\ntRS'C'\ntR."
    ),
    "fewer values than the shape": (
        b"cnumpy.core.numeric\n_frombuffer\n(C\x04\x00\x00\x00\x00cnumpy\ndtype\n(S'f4'\ntR"
        b"(I2\ntS'C'\ntR."
    ),
    "a shape beyond all memory": (
        b"cnumpy.core.numeric\n_frombuffer\n(C\x04\x00\x00\x00\x00cnumpy\ndtype\n(S'f4'\ntR"
        b"(I99999999999\nI99999999999\nI99999999999\nI0\ntS'C'\ntR."
    ),
    "an array of texts": pickle.dumps(np.array(["a"])),
    "a record array": pickle.dumps(np.zeros(2, [("a", "f4")])),
    "complex numbers": pickle.dumps(np.zeros(2, np.complex64)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_pickles(name):
    with pytest.raises(PretrainedError, match=r"^file: "):
        load(BROKEN[name])


def test_many_copies_of_one_text_are_refused():
    text = b"B" + struct.pack("<I", 1000) + bytes(1000)
    copies = b"h\x00X\x06\x00\x00\x00latin1\x86R0"
    text = b"X" + text[1:] + b"q\x00"
    data = b"\x80\x04" + text + (b"c_codecs\nencode\n" + copies) * 10_000 + b"N."
    with pytest.raises(PretrainedError, match="far more values than it holds"):
        load(data)


def test_deep_nesting_is_no_trouble():
    data = b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b"."
    assert isinstance(load(data), list)
    with pytest.raises(PretrainedError, match="holds no dict"):
        _read_bytes(data)


def test_a_list_that_holds_itself_many_times_is_not_printed():
    data = b"\x80\x04]q\x00" + b"(h\x00h\x00h\x00e" * 50 + b"}q\x01X\x01\x00\x00\x00ah\x00s."
    with pytest.raises(PretrainedError, match="the entry 'a' is not an array"):
        _read_bytes(data)


def _read_bytes(data):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "f.pdparams").write_bytes(data)
        return read(Path(folder) / "f.pdparams")


GOOD = pickle.dumps({"a": ARRAYS["kernel"], "b": [1, "x", (2.5, None)], "c": ARRAYS["fortran"]}, 4)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=4))
def test_changed_bytes_raise_one_error_or_none(changes):
    data = bytearray(GOOD)
    for at, value in changes:
        data[at] = value
    try:
        load(bytes(data))
    except PretrainedError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 400


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [bytes([c]) for c in range(256)]
            + [
                b"cnumpy\ndtype\n",
                b"ccollections\nOrderedDict\n",
                b"I1\n",
                b"S'f4'\n",
                b"(",
                b"t",
                b"R",
                b"b",
                b"ctorch._utils\n_rebuild_tensor_v2\n",
                b"\x8c\x01a",
                b"q\x01",
                b"h\x01",
                b"}",
                b"]",
                b"s",
                b"u",
            ]
        ),
        max_size=40,
    )
)
def test_any_op_codes_raise_one_error_or_none(parts):
    try:
        load(b"".join(parts) + b".")
    except PretrainedError as error:
        assert "\n" not in str(error)
