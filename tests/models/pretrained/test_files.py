"""Formats: what PyTorch, Paddle and safetensors write is read back, and errors name what is broken."""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from lcnas import zoo
from lcnas.errors import PretrainedError
from lcnas.models import pretrained
from lcnas.models.pretrained import _files

from . import paddle_names, timm_names, writers
from .test_names import numbered
from .writers import Bfloat16, Parameter, Storage, Tensor

ARRAYS: dict[str, Any] = {
    "a": np.random.default_rng(1).standard_normal((2, 3, 4)).astype(np.float32),
    "b": np.arange(5, dtype=np.float64),
    "c": np.array(3, np.int64),
    "d": np.arange(4, dtype=np.float16),
}


@pytest.fixture
def torch(monkeypatch):
    """Stand-ins for PyTorch, to pickle its names."""
    for name, module in writers.torch_modules().items():
        monkeypatch.setitem(sys.modules, name, module)


def check(loaded, reference):
    assert list(loaded) == list(reference)
    for name, array in reference.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].dtype == array.dtype


WRITERS = [writers.torch_zip, writers.torch_legacy]


# -- PyTorch ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("write", WRITERS)
def test_state_dicts_of_pytorch(write, tmp_path):
    (tmp_path / "w.pth").write_bytes(write(*writers.tensors(ARRAYS)))
    check(_files.torch_pickle(tmp_path / "w.pth").arrays, ARRAYS)


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pth.tar"])
def test_a_network_of_timm_in_pytorchs_formats(write, suffix, tmp_path):
    rows = timm_names.mobilenetv3_small(0.5, 3)
    file = tmp_path / f"mobilenetv3_small_050{suffix}"
    file.write_bytes(write(*writers.tensors(numbered(rows))))
    loaded = pretrained.read(file)
    assert loaded.arch.name == "mobilenetv3_small_050"
    assert [np.unique(a).item() for a in loaded.weights.values()] == list(
        range(1, len(loaded.weights) + 1)
    )


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("write", WRITERS)
def test_views_on_storages(write, tmp_path):
    values = np.arange(24, dtype=np.float32)
    storage = Storage("0", values)
    state = OrderedDict(
        turned=Tensor(storage, (3, 2), (1, 3)),
        behind=Tensor(storage, (2, 4), (8, 2), offset=7),
        one=Tensor(storage, (), (), offset=23),
        none=Tensor(storage, (0, 3), (3, 1)),
        parameter=Parameter(storage, (4, 6), (6, 1)),
    )
    (tmp_path / "w.pt").write_bytes(write(state, [storage]))
    check(
        _files.torch_pickle(tmp_path / "w.pt").arrays,
        {
            "turned": values[:6].reshape(2, 3).T,
            "behind": values[7:].reshape(-1)[[0, 2, 4, 6, 8, 10, 12, 14]].reshape(2, 4),
            "one": np.float32(23),
            "none": np.zeros((0, 3), np.float32),
            "parameter": values.reshape(4, 6),
        },
    )


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("write", WRITERS)
def test_bfloat16_of_pytorch(write, tmp_path):
    exact = np.array([[1.0, -2.5], [0.15625, 3e38]], np.float32)
    exact = (exact.view(np.uint32) & 0xFFFF0000).view(np.float32)
    (tmp_path / "w.pt").write_bytes(write(*writers.tensors({"a": Bfloat16(exact)})))
    check(_files.torch_pickle(tmp_path / "w.pt").arrays, {"a": exact})


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("key", ["state_dict", "model", "state_dict_ema", "model_ema"])
def test_checkpoints_around_a_state_dict(key, tmp_path):
    state, stores = writers.tensors(ARRAYS)
    checkpoint = {"epoch": 3, key: state, "metric": 71.3, "arch": "lcnet_050"}
    (tmp_path / "w.pt").write_bytes(writers.torch_zip(checkpoint, stores))
    reference = {f"{key}.{name}": array for name, array in ARRAYS.items()}
    check(_files.torch_pickle(tmp_path / "w.pt").arrays, reference)


@pytest.mark.usefixtures("torch")
def test_arrays_in_dicts_and_lists_of_dicts_that_may_hold_themselves(tmp_path):
    state, stores = writers.tensors(ARRAYS)
    inner = {"b": state["b"], 7: state["c"], "x" * 300: state["d"], "none": None}
    inner["again"] = inner
    deep = {"end": state["c"]}
    for _ in range(9):
        deep = {"d": deep}
    root = {"a": state["a"], "list": [3, (inner, "text")], "deep": deep}
    (tmp_path / "w.pt").write_bytes(writers.torch_zip(root, stores))
    loaded = _files.torch_pickle(tmp_path / "w.pt").arrays
    check(loaded, {"a": ARRAYS["a"], "list.1.0.b": ARRAYS["b"]})


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("suffix", [".pt", ".ckpt"])
def test_the_network_in_a_checkpoint_is_found_however_it_is_wrapped(write, suffix, tmp_path):
    arrays = numbered(timm_names.lcnet(0.35, 3))
    state, stores = writers.tensors(arrays)
    wrapped = OrderedDict((f"module.timm_model.{name}", tensor) for name, tensor in state.items())
    adam = {"state": {0: {"exp_avg": state["bn1.bias"]}}, "param_groups": [{"lr": 0.1}]}
    root = {"epoch": 3, "trainer": {"networks": [{"weights": wrapped}]}, "optimizer": adam}
    (tmp_path / f"w{suffix}").write_bytes(write(root, stores))
    loaded = pretrained.read(tmp_path / f"w{suffix}")
    assert loaded.arch.name == "lcnet_035"
    assert [np.unique(a).item() for a in loaded.weights.values()] == list(
        range(1, len(loaded.weights) + 1)
    )
    assert loaded.source.endswith("under 'trainer.networks.0.weights.module.timm_model'")


@pytest.mark.usefixtures("torch")
def test_the_weights_that_timm_would_take_out_of_a_checkpoint(tmp_path):
    unsmoothed, smooth = (numbered(timm_names.lcnet(0.35, 3)) for _ in range(2))
    smooth = {name: np.asarray(array + 0.5, array.dtype) for name, array in smooth.items()}
    both = {f"p.{name}": a for name, a in unsmoothed.items()} | {
        f"s.{n}": a for n, a in smooth.items()
    }
    tensors, stores = writers.tensors(both)
    part = {
        mark: OrderedDict((n[2:], t) for n, t in tensors.items() if n.startswith(mark))
        for mark in ("p.", "s.")
    }
    for first, second, value in (
        ("state_dict", "state_dict_ema", 1.5),
        ("model", "model_ema", 1.5),
        ("state_dict", "model", 1),
        ("model", "state_dict", 1.5),
    ):
        root = {first: part["p."], second: part["s."]}
        (tmp_path / "w.pt").write_bytes(writers.torch_zip(root, stores))
        assert np.unique(pretrained.read(tmp_path / "w.pt").weights["stem/kernel"]) == value


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize(
    "window",
    [
        ((4, 3), (3, 1), 1),  # ends one value behind
        ((4,), (4,), 0),
        ((5, 5), (0, 0), 0),  # more values than there are
        ((1 << 40,), (0,), 0),
        ((1 << 40, 1 << 40), (1, 1), 0),
        ((2,), (1,), 1 << 62),
        ((2,), (-1,), 5),
        ((-2,), (1,), 0),
        ((2, 2), (1,), 0),
        ((2,), (1,), -1),
        ((1.5,), (1,), 0),
        ((1,) * 40, (1,) * 40, 0),
    ],
)
@pytest.mark.parametrize("write", WRITERS)
def test_windows_beyond_their_storage(write, window, tmp_path):
    storage = Storage("0", np.zeros(12, np.float32))
    (tmp_path / "w.pt").write_bytes(write(OrderedDict(a=Tensor(storage, *window)), [storage]))
    with pytest.raises(PretrainedError):
        _files.torch_pickle(tmp_path / "w.pt")


@pytest.mark.usefixtures("torch")
def test_many_tensors_on_one_storage(tmp_path):
    storage = Storage("0", np.zeros(10_000, np.float32))
    state = OrderedDict((str(i), Tensor(storage, (10_000,), (1,))) for i in range(100))
    (tmp_path / "w.pt").write_bytes(writers.torch_zip(state, [storage]))
    with pytest.raises(PretrainedError, match="far more values than it holds"):
        _files.torch_pickle(tmp_path / "w.pt")


def rezipped(data, change):
    """Return the archive with its entries changed: name -> bytes, or None to leave one out."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            if change.get(name, b"") is not None:
                new.writestr(name, change.get(name, old.read(name)))
    return file.getvalue()


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"archive/data/0": None}, "the archive has no 'archive/data/0'"),
        ({"archive/data/0": b"1234"}, "needs 96 bytes, not 4"),
        ({"archive/data.pkl": None}, "not torch.save's"),
        ({"archive/data.pkl": b"cos\nsystem\n."}, r"names 'os\.system'"),
        ({"archive/byteorder": b"big"}, "big-endian"),
    ],
)
def test_broken_archives(change, complaint, tmp_path):
    data = writers.torch_zip(*writers.tensors(ARRAYS))
    (tmp_path / "w.pt").write_bytes(rezipped(data, change))
    with pytest.raises(PretrainedError, match=complaint):
        pretrained.read(tmp_path / "w.pt")


@pytest.mark.usefixtures("torch")
def test_archives_that_are_bombs(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"N" * 10_000_000)
    (tmp_path / "w.pt").write_bytes(file.getvalue())
    with pytest.raises(PretrainedError, match="more than its size allows"):
        pretrained.read(tmp_path / "w.pt")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
        archive.writestr("archive/x", np.random.default_rng(0).bytes(1000), zipfile.ZIP_STORED)
    (tmp_path / "w.pt").write_bytes(file.getvalue())
    with pytest.raises(PretrainedError, match="is compressed"):
        pretrained.read(tmp_path / "w.pt")


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("write", WRITERS)
def test_cut_and_changed_files_raise_one_error(write, tmp_path):
    data = write(*writers.tensors(ARRAYS))
    rng = np.random.default_rng(2)
    for i in range(120):
        broken = bytearray(data[: rng.integers(len(data))] if i % 2 else data)
        for at in rng.integers(0, max(1, len(broken)), 3):
            broken[at : at + 1] = bytes([rng.integers(256)])
        (tmp_path / "w.pt").write_bytes(broken)
        try:
            _files.torch_pickle(tmp_path / "w.pt")
        except PretrainedError as error:
            assert "\n" not in str(error)


@pytest.mark.usefixtures("torch")
def test_broken_old_files(tmp_path):
    data = writers.torch_legacy(*writers.tensors({"a": ARRAYS["a"]}))
    (tmp_path / "w.pt").write_bytes(data[:-4])
    with pytest.raises(PretrainedError, match="needs 96 bytes, not 92"):
        pretrained.read(tmp_path / "w.pt")
    (tmp_path / "w.pt").write_bytes(data.replace(struct.pack("<q", 24), struct.pack("<q", 25)))
    with pytest.raises(PretrainedError, match="a storage of 25 values, not 24"):
        pretrained.read(tmp_path / "w.pt")
    (tmp_path / "w.pt").write_bytes(pickle.dumps(ARRAYS))
    with pytest.raises(PretrainedError, match=r"not torch\.save's"):
        pretrained.read(tmp_path / "w.pt")
    little = b"little_endianq\x02\x88"
    assert little in data
    (tmp_path / "w.pt").write_bytes(data.replace(little, little[:-1] + b"\x89"))
    with pytest.raises(PretrainedError, match="big-endian"):
        pretrained.read(tmp_path / "w.pt")


# -- Paddle's pickles ------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_pdparams(protocol, tmp_path):
    """As paddle.save writes them: the arrays, and a table of the names that Paddle uses inside."""
    rows = numbered(paddle_names.lcnet(0.5, 3))
    table = {"StructuredToParameterName@@": {name: f"{name}_0" for name in rows}}
    (tmp_path / "w.pdparams").write_bytes(pickle.dumps(rows | table, protocol))
    loaded = pretrained.read(tmp_path / "w.pdparams")
    assert loaded.arch == zoo.load("pplcnet_0.5x")
    assert np.unique(loaded.weights["stem/kernel"]) == 1
    assert loaded.source == "PaddleClas's PP-LCNet in Paddle's pickle, w.pdparams"


def test_pdparams_of_tensors(tmp_path):
    class Parameter:
        def __init__(self, array):
            self.array = array

        def __reduce__(self):
            return tuple, (("some_name.w_0", self.array),)

    rows = {name: Parameter(array) for name, array in numbered(paddle_names.lcnet(0.5, 3)).items()}
    (tmp_path / "w.pdparams").write_bytes(pickle.dumps(rows, 4))
    assert pretrained.read(tmp_path / "w.pdparams").classes == 3


@pytest.mark.parametrize(
    ("root", "complaint"),
    [
        ([ARRAYS["a"]], "holds no dict of arrays"),
        ({"a": 3}, "the entry 'a' is not an array"),
        ({3: ARRAYS["a"]}, "the entry 3 is not an array"),
        ({}, "names such as"),
    ],
)
def test_pickles_of_something_else(root, complaint, tmp_path):
    (tmp_path / "w.pdparams").write_bytes(pickle.dumps(root))
    with pytest.raises(PretrainedError, match=complaint):
        pretrained.read(tmp_path / "w.pdparams")


@pytest.mark.usefixtures("torch")
def test_tensors_of_pytorch_in_paddles_file(tmp_path):
    state, _ = writers.tensors({"a": ARRAYS["a"]})
    (tmp_path / "w.pdparams").write_bytes(writers._dumps(state, legacy=False))
    with pytest.raises(PretrainedError, match="needs 96 bytes, not 0"):
        pretrained.read(tmp_path / "w.pdparams")


# -- safetensors -----------------------------------------------------------------------------------


def safetensors(tensors, metadata=None):
    """Return the bytes of a file of (name, dtype, shape, bytes), written by hand."""
    header, at = {}, 0
    for name, dtype, shape, data in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    if metadata:
        header["__metadata__"] = metadata
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(t[3] for t in tensors)


def test_safetensors(tmp_path):
    save_file(dict(ARRAYS), tmp_path / "w.safetensors", {"format": "pt"})
    loaded = _files.safetensors(tmp_path / "w.safetensors")
    check({name: loaded.arrays[name] for name in ARRAYS}, ARRAYS)
    assert loaded.metadata == {"format": "pt"}


def test_bfloat16_of_safetensors(tmp_path):
    data = struct.pack("<4H", 0x3F80, 0xC020, 0x3E20, 0x7F7F)
    file = tmp_path / "w.safetensors"
    file.write_bytes(safetensors([("a", "BF16", [2, 2], data)]))
    exact = np.array([[1.0, -2.5], [0.15625, 3.3895313892515355e38]], np.float32)
    check(_files.safetensors(file).arrays, {"a": exact})


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "no safetensors file"),
        (b"hello, I am no file of tensors", "no safetensors file"),
        (safetensors([("a", "F32", [2], b"1234")]), "no safetensors file"),
        (safetensors([("a", "F8_E4M3", [2], b"12")]), "'a': type F8_E4M3 is not among"),
    ],
)
def test_broken_safetensors(data, complaint, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(data)
    with pytest.raises(PretrainedError, match=complaint):
        pretrained.read(tmp_path / "w.safetensors")


# -- paths -----------------------------------------------------------------------------------------


def test_paths_that_are_none(tmp_path):
    with pytest.raises(PretrainedError, match="there is no such file"):
        pretrained.read(tmp_path / "w.pth")
    (tmp_path / "w.pdparams").write_bytes(b"")
    (tmp_path / "notes.txt").write_bytes(b"")
    with pytest.raises(PretrainedError, match=r"is a folder; its files of weights: w\.pdparams$"):
        pretrained.read(tmp_path)
    with pytest.raises(PretrainedError, match=r"suffix '\.txt' is not among \.pdiparams"):
        pretrained.read(tmp_path / "notes.txt")
    (tmp_path / "w.safetensor").write_bytes(b"")
    with pytest.raises(PretrainedError, match=r"did you mean '\.safetensors'"):
        pretrained.read(tmp_path / "w.safetensor")
