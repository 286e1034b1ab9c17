"""timm's and PaddleClas's names: every tensor of every network goes where it belongs.

The tables of names and shapes are made apart from lcnas. Each tensor is filled with its own number,
so that the weights of a network read from a file show which tensor went where.
"""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from safetensors.numpy import save_file

from lcnas import cost, onnx_export, zoo
from lcnas.blocks import Classifier
from lcnas.errors import PretrainedError
from lcnas.models import pretrained
from lcnas.zoo.mobilenet_v2 import mobilenet_v2
from lcnas.zoo.mobilenet_v3 import mobilenet_v3_small

from . import paddle_names, timm_names

CLASSES = 3  # small files
UNTRAINED = ("running_mean", "running_var", "num_batches_tracked", "_mean", "_variance")


def numbered(rows):
    """Return name -> float array, the i-th (but for counters) filled with i, from 1."""
    weights = [(name, shape) for name, shape in rows if not name.endswith("batches_tracked")]
    arrays = {name: np.full(shape, i, np.float32) for i, (name, shape) in enumerate(weights, 1)}
    counters = {name: np.array(7) for name, shape in rows if name.endswith("batches_tracked")}
    return arrays | counters


def read_timm(rows, folder, arch=None, **settings):
    save_file(numbered(rows), folder / "weights.safetensors")
    return pretrained.read(folder / "weights.safetensors", arch, **settings)


def read_paddle(rows, folder, arch=None):
    (folder / "weights.pdparams").write_bytes(pickle.dumps(numbered(rows), protocol=4))
    return pretrained.read(folder / "weights.pdparams", arch)


def trained(rows):
    return sum(int(np.prod(shape)) for name, shape in rows if not name.endswith(UNTRAINED))


TIMM = {
    "lcnet_035": (timm_names.lcnet, 0.35, {}),
    "lcnet_050": (timm_names.lcnet, 0.5, {}),
    "lcnet_075": (timm_names.lcnet, 0.75, {}),
    "lcnet_100": (timm_names.lcnet, 1.0, {}),
    "lcnet_150": (timm_names.lcnet, 1.5, {}),
    "mobilenetv3_small_050": (timm_names.mobilenetv3_small, 0.5, {}),
    "mobilenetv3_small_075": (timm_names.mobilenetv3_small, 0.75, {}),
    "mobilenetv3_small_100": (timm_names.mobilenetv3_small, 1.0, {}),
    "mobilenetv3_large_075": (timm_names.mobilenetv3_large, 0.75, {}),
    "mobilenetv3_large_100": (timm_names.mobilenetv3_large, 1.0, {}),
    "mobilenetv2_035": (timm_names.mobilenetv2, 0.35, {}),
    "mobilenetv2_050": (timm_names.mobilenetv2, 0.5, {}),
    "mobilenetv2_075": (timm_names.mobilenetv2, 0.75, {}),
    "mobilenetv2_100": (timm_names.mobilenetv2, 1.0, {}),
    "mobilenetv2_110d": (timm_names.mobilenetv2, 1.1, {"depth": 1.2, "fix": True}),
    "mobilenetv2_120d": (timm_names.mobilenetv2, 1.2, {"depth": 1.4, "fix": True}),
    "mobilenetv2_140": (timm_names.mobilenetv2, 1.4, {}),
    "mobilenetv4_conv_small_035": (timm_names.mobilenetv4_conv_small, 0.35, {}),
    "mobilenetv4_conv_small_050": (timm_names.mobilenetv4_conv_small, 0.5, {}),
    "mobilenetv4_conv_small": (timm_names.mobilenetv4_conv_small, 1.0, {}),
}
# Params of timm 1.0.31 as the zoo quotes them; PP-LCNet's has the 1,280 biases of timm's head more.
COUNTS = {
    "mobilenetv2_035": 1_677_128,
    "mobilenetv2_100": 3_504_872,
    "mobilenetv2_140": 6_108_776,
    "mobilenetv3_small_075": 2_041_872,
    "mobilenetv3_small_100": 2_542_856,
    "mobilenetv3_large_075": 3_993_528,
    "mobilenetv3_large_100": 5_483_032,
    "mobilenetv4_conv_small_050": 2_238_952,
    "mobilenetv4_conv_small": 3_774_024,
    "lcnet_050": 1_879_576 + 1_280,
    "lcnet_100": 2_952_520 + 1_280,
}


@pytest.mark.parametrize("name", COUNTS)
def test_the_tables_have_as_many_params_as_timm(name):
    function, scale, settings = TIMM[name]
    assert trained(function(scale, **settings)) == COUNTS[name]


@pytest.mark.parametrize("name", TIMM)
def test_timm(name, tmp_path):
    function, scale, settings = TIMM[name]
    rows = function(scale, CLASSES, **settings)
    loaded = read_timm(rows, tmp_path)
    assert loaded.arch.name == name
    assert loaded.classes == CLASSES
    assert cost.params(loaded.arch, CLASSES, training=True) == trained(rows)
    # Both lists are in the order of execution, so the numbers come back in theirs.
    values = [np.unique(array).tolist() for array in loaded.weights.values()]
    assert values == [[i] for i in range(1, len(values) + 1)]
    assert list(loaded.weights) == list(onnx_export.names(loaded.arch, CLASSES))


PADDLE = {
    "pplcnet_0.25x": lambda: paddle_names.lcnet(0.25, CLASSES),
    "pplcnet_0.5x": lambda: paddle_names.lcnet(0.5, CLASSES),
    "pplcnet_2.5x": lambda: paddle_names.lcnet(2.5, CLASSES),
    "pplcnet_v2_small": lambda: paddle_names.lcnet_v2(0.75, (2, 2, 4, 2), CLASSES),
    "pplcnet_v2_base": lambda: paddle_names.lcnet_v2(1.0, (2, 2, 6, 2), CLASSES),
    "MobileNetV3_small_x0_35": lambda: paddle_names.mobilenet_v3_small(0.35, CLASSES),
    "MobileNetV3_small_x1_0": lambda: paddle_names.mobilenet_v3_small(1.0, CLASSES),
}


@pytest.mark.parametrize("name", PADDLE)
def test_paddleclas(name, tmp_path):
    rows = PADDLE[name]()
    loaded = read_paddle(rows, tmp_path)
    assert loaded.arch.name == name
    assert cost.params(loaded.arch, CLASSES, training=True) == trained(rows)
    (kernel,) = [k for k in loaded.weights if k.startswith("head") and k.endswith("/4/kernel")]
    gates = [k for k in loaded.weights if "/expand/" in k]
    factors = dict.fromkeys(loaded.weights, 1.0) | {kernel: 0.8}  # the dropout of 0.2
    if name.startswith("MobileNetV3"):
        factors |= dict.fromkeys(gates, 1.2)  # the gate's slope: 0.2 for 1 / 6
    assert gates
    reference = [i * factors[k] for i, k in enumerate(loaded.weights, 1)]
    values = [np.unique(array).tolist() for array in loaded.weights.values()]
    assert all(len(value) == 1 for value in values)
    np.testing.assert_allclose(np.ravel(values), reference, rtol=1e-6)


def test_paddleclas_keeps_a_merged_convolution_beside_its_branches(tmp_path):
    rows = paddle_names.lcnet_v2(0.75, (2, 2, 4, 2), CLASSES)
    more = [("stage3.0.dw_conv.weight", (192, 1, 5, 5)), ("stage3.0.dw_conv.bias", (192,))]
    assert read_paddle(rows + more, tmp_path).arch == zoo.load("pplcnet_v2_small")
    with pytest.raises(PretrainedError, match=r"unexpected 1: 'stage1\.0\.dw_conv\.weight'"):
        read_paddle([*rows, ("stage1.0.dw_conv.weight", (96, 1, 3, 3))], tmp_path)


# -- chosen places, by hand ------------------------------------------------------------------------

PLACES = {
    "lcnet_050": {
        "stem/kernel": "conv_stem.weight",
        "stem/var": "bn1.running_var",
        "stage1/0/kernel": "blocks.0.0.conv_dw.weight",
        "stage4_block_2/0/kernel": "blocks.3.1.conv_dw.weight",
        "stage4_block_3/1/shift": "blocks.4.0.bn2.bias",
        "stage5_block_2/1/reduce/kernel": "blocks.5.1.se.conv_reduce.weight",
        "stage5_block_2/2/mean": "blocks.5.1.bn2.running_mean",
        "head/1/kernel": "conv_head.weight",
        "head/1/bias": "conv_head.bias",
        "head/4/kernel": "classifier.weight",
        "head/4/bias": "classifier.bias",
    },
    "mobilenetv3_small_100": {
        "stage1/1/expand/bias": "blocks.0.0.se.conv_expand.bias",
        "stage1/0/scale": "blocks.0.0.bn1.weight",
        "stage2_block_1/0/kernel": "blocks.1.0.conv_pw.weight",
        "stage2_block_2/1/1/mean": "blocks.1.1.bn2.running_mean",
        "stage5_block_3/1/3/var": "blocks.4.2.bn3.running_var",
        "last/kernel": "blocks.5.0.conv.weight",
        "last/shift": "blocks.5.0.bn1.bias",
        "head/1/bias": "conv_head.bias",
        "head/4/kernel": "classifier.weight",
    },
    "mobilenetv2_100": {
        "stem/kernel": "conv_stem.weight",
        "stage1/1/scale": "blocks.0.0.bn2.weight",
        "stage7/2/kernel": "blocks.6.0.conv_pwl.weight",
        "last/kernel": "conv_head.weight",
        "last/var": "bn2.running_var",
        "head/3/kernel": "classifier.weight",
    },
    "mobilenetv4_conv_small": {
        "stage1_block_2/scale": "blocks.0.1.bn1.weight",
        "stage3_block_1/0/kernel": "blocks.2.0.dw_start.conv.weight",
        "stage3_block_6/1/2/kernel": "blocks.2.5.pw_proj.conv.weight",
        "stage4_block_3/1/1/var": "blocks.3.2.dw_mid.bn.running_var",
        "last/kernel": "blocks.4.0.conv.weight",
        "head/1/scale": "norm_head.weight",
        "head/4/bias": "classifier.bias",
    },
}


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [(name, ours, theirs) for name, places in PLACES.items() for ours, theirs in places.items()],
)
def test_chosen_places(name, ours, theirs, tmp_path):
    function, scale, settings = TIMM[name]
    rows = function(scale, CLASSES, **settings)
    index = [row for row, _ in rows if not row.endswith("tracked")].index(theirs) + 1
    save_file(numbered(rows), tmp_path / "w.safetensors")
    assert np.unique(pretrained.read(tmp_path / "w.safetensors").weights[ours]) == index


def test_kernels_are_turned(tmp_path):
    rows = timm_names.lcnet(0.5, CLASSES)
    arrays = numbered(rows)
    rng = np.random.default_rng(0)
    for name in ("conv_stem.weight", "blocks.4.2.conv_dw.weight", "classifier.weight"):
        arrays[name] = rng.standard_normal(arrays[name].shape).astype(np.float32)
    save_file(arrays, tmp_path / "w.safetensors")
    weights = pretrained.read(tmp_path / "w.safetensors").weights
    stem, depthwise = weights["stem/kernel"], weights["stage4_block_5/0/kernel"]
    assert stem[2, 0, 1, 7] == arrays["conv_stem.weight"][7, 1, 2, 0]
    assert depthwise[4, 3, 0, 100] == arrays["blocks.4.2.conv_dw.weight"][100, 0, 4, 3]
    assert weights["head/4/kernel"][1000, 2] == arrays["classifier.weight"][2, 1000]
    assert all(w.flags.c_contiguous and w.flags.writeable for w in weights.values())


def test_paddles_linear_layers_are_not_turned(tmp_path):
    arrays = numbered(paddle_names.lcnet(0.25, CLASSES))
    arrays["fc.weight"] = np.arange(1280 * CLASSES, dtype=np.float32).reshape(1280, CLASSES)
    (tmp_path / "w.pdparams").write_bytes(pickle.dumps(arrays))
    kernel = pretrained.read(tmp_path / "w.pdparams").weights["head/4/kernel"]
    np.testing.assert_allclose(kernel, 0.8 * arrays["fc.weight"], rtol=1e-6)


# -- what else is taken, and what is not -----------------------------------------------------------


def test_another_network_with_timms_names(tmp_path):
    rows = timm_names.mobilenetv3_small(0.6, CLASSES)
    with pytest.raises(PretrainedError, match=r"not among the known networks .* give it as arch="):
        read_timm(rows, tmp_path)
    arch = mobilenet_v3_small(0.6, paddle=False, resolution=96)
    loaded = read_timm(rows, tmp_path, arch)
    assert loaded.arch is arch
    assert [np.unique(a).item() for a in loaded.weights.values()] == list(
        range(1, len(loaded.weights) + 1)
    )


LCNET = timm_names.lcnet(0.5, CLASSES)


def under(prefix, rows=LCNET, plus=0.0):
    """Return the tensors of a network under a prefix, all larger by a number."""
    return {
        f"{prefix}{name}": np.asarray(array + plus, array.dtype)
        for name, array in numbered(rows).items()
    }


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "timm_model.",  # the Hugging Face wrapper's
        "module._orig_mod.",
        "model.",
        "backbone.",
        "net.0.encoder.",
        "_forward_module.model.",
        "mòdèle.1.",
    ],
)
def test_prefixes_are_found_by_the_names(prefix, tmp_path):
    save_file(under(prefix), tmp_path / "w.safetensors")
    loaded = pretrained.read(tmp_path / "w.safetensors")
    assert loaded.arch.name == "lcnet_050"
    assert [np.unique(a).item() for a in loaded.weights.values()] == list(
        range(1, len(loaded.weights) + 1)
    )
    shown = ".".join(part for part in prefix[:-1].split(".") if not part.startswith("_"))
    assert loaded.source == "timm in safetensors, w.safetensors" + (
        f", under {shown!r}" * bool(shown)
    )


def test_wrappers_of_inner_modules(tmp_path):
    """As torch.compile, checkpointing and FSDP name a module inside of a network."""
    arrays = numbered(LCNET)
    arrays = {
        name.replace("blocks.3.", "blocks._fsdp_wrapped_module.3._checkpoint_wrapped_module."): a
        for name, a in arrays.items()
    }
    save_file(arrays, tmp_path / "w.safetensors")
    weights = pretrained.read(tmp_path / "w.safetensors").weights
    assert [np.unique(a).item() for a in weights.values()] == list(range(1, len(weights) + 1))


def test_what_lies_beside_a_network_is_left_out_and_reported(tmp_path):
    more = {"criterion.weight": np.ones(3, np.float32), "n_averaged": np.array(5)}
    save_file(under("module.") | more, tmp_path / "w.safetensors")
    source = pretrained.read(tmp_path / "w.safetensors").source
    assert source.endswith(", under 'module', 2 other tensors left out")
    save_file(
        under("") | {"criterion.weight": more["criterion.weight"]}, tmp_path / "w.safetensors"
    )
    with pytest.raises(PretrainedError, match=r"unexpected 1: 'criterion\.weight'"):
        pretrained.read(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "smoothed", ["ema.", "model_ema.module.", "state_dict_ema.", "averaged_model.", "swa_model."]
)
@pytest.mark.parametrize("unsmoothed", ["model.", "state_dict.module.", "online_model.", ""])
def test_smoothed_weights_come_first(unsmoothed, smoothed, tmp_path):
    save_file(under(unsmoothed) | under(smoothed, plus=0.5), tmp_path / "w.safetensors")
    assert np.unique(pretrained.read(tmp_path / "w.safetensors").weights["stem/kernel"]) == 1.5


def test_smoothed_weights_that_are_not_whole_do_not(tmp_path):
    """Some keep the trained ones alone, without running statistics."""
    ema = {name: a for name, a in under("ema.", plus=0.5).items() if "running" not in name}
    save_file(under("model.") | ema, tmp_path / "w.safetensors")
    loaded = pretrained.read(tmp_path / "w.safetensors")
    assert np.unique(loaded.weights["stem/kernel"]) == 1
    assert loaded.source.endswith(", under 'model'")


def test_several_networks_in_a_file(tmp_path):
    """arch= selects one of another arch; equally ranked ones are an error, unless they are the same."""
    small = timm_names.lcnet(0.35, CLASSES)
    save_file(under("student.") | under("teacher.", small), tmp_path / "w.safetensors")
    for rows in (LCNET, small):
        arch = read_timm(rows, tmp_path).arch
        save_file(under("student.") | under("teacher.", small), tmp_path / "w.safetensors")
        assert pretrained.read(tmp_path / "w.safetensors", arch).arch is arch
    with pytest.raises(PretrainedError, match=r"holds several networks, '(student|teacher)' and"):
        pretrained.read(tmp_path / "w.safetensors")
    save_file(under("student.") | under("teacher."), tmp_path / "w.safetensors")
    assert np.unique(pretrained.read(tmp_path / "w.safetensors").weights["stem/kernel"]) == 1
    save_file(under("student.") | under("teacher.", plus=0.5), tmp_path / "w.safetensors")
    with pytest.raises(PretrainedError, match="save the state dict of one alone") as caught:
        pretrained.read(tmp_path / "w.safetensors")
    assert "\n" not in str(caught.value)


def test_a_small_file_of_very_many_prefixes(tmp_path):
    arrays = {f"{i}.conv_stem.weight": np.zeros(0, np.float32) for i in range(3000)}
    save_file(arrays, tmp_path / "w.safetensors")
    with pytest.raises(PretrainedError, match="the kernel of the last layer, is missing"):
        pretrained.read(tmp_path / "w.safetensors")


def test_epsilon_moves_into_the_variance(tmp_path):
    rows = timm_names.lcnet(0.35, CLASSES)
    unmoved = read_timm(rows, tmp_path).weights
    moved = read_timm(rows, tmp_path, epsilon=1e-3).weights
    for name, array in unmoved.items():
        shift = 1e-3 - onnx_export.EPSILON if name.endswith("/var") else 0
        np.testing.assert_array_equal(moved[name], (array.astype(float) + shift).astype(np.float32))
    x = np.linspace(-2, 2, 8)
    theirs = x / np.sqrt(unmoved["stem/var"] + 1e-3)
    np.testing.assert_allclose(x / np.sqrt(moved["stem/var"] + 1e-5), theirs, rtol=1e-6)


def test_an_epsilon_that_turns_a_variance_negative(tmp_path):
    arrays = numbered(timm_names.lcnet(0.35, CLASSES))
    arrays["bn1.running_var"][3] = 5e-6
    save_file(arrays, tmp_path / "w.safetensors")
    assert pretrained.read(tmp_path / "w.safetensors").classes == CLASSES
    with pytest.raises(
        PretrainedError, match=r"bn1.running_var.*negative values, with the epsilon"
    ):
        pretrained.read(tmp_path / "w.safetensors", epsilon=0.0)


@pytest.mark.parametrize("wrong", [-1e-5, float("nan"), float("inf")])
def test_an_epsilon_that_is_none(wrong, tmp_path):
    with pytest.raises(PretrainedError, match="epsilon"):
        read_timm(timm_names.lcnet(0.35, CLASSES), tmp_path, epsilon=wrong)


def test_timms_ports_of_tensorflows_weights_are_refused(tmp_path):
    arrays = numbered(timm_names.mobilenetv3_small(1.0, CLASSES))
    named = tmp_path / "tf_mobilenetv3_small_100-37f49e2b.safetensors"
    unnamed = tmp_path / "model.safetensors"
    for file in (named, unnamed):
        save_file(arrays, file)
    with pytest.raises(PretrainedError, match="pads as TensorFlow does"):
        pretrained.read(named)
    assert pretrained.read(unnamed).arch.name == "mobilenetv3_small_100"
    for text in ("{", "[]", '{"architecture": "mobilenetv3_small_100"}'):
        (tmp_path / "config.json").write_text(text)
        assert pretrained.read(unnamed).arch.name == "mobilenetv3_small_100"
    (tmp_path / "config.json").write_text('{"architecture": "tf_mobilenetv3_small_100"}')
    with pytest.raises(PretrainedError, match="'tf_mobilenetv3_small_100' pads as TensorFlow"):
        pretrained.read(unnamed)


def test_what_is_missing_unexpected_or_of_another_shape_is_reported(tmp_path):
    rows = dict(timm_names.lcnet(0.5, CLASSES))
    del rows["blocks.3.1.bn1.weight"]
    rows["blocks.3.1.bn1.wieght"] = (128,)
    rows["conv_stem.weight"] = (8, 3, 5, 5)
    for arch in (None, read_timm(timm_names.lcnet(0.5, CLASSES), tmp_path).arch):
        with pytest.raises(PretrainedError) as caught:
            read_timm(list(rows.items()), tmp_path, arch)
        message = str(caught.value)
        assert (
            "missing 1: 'blocks.3.1.bn1.weight'; did you mean 'blocks.3.1.bn1.wieght'?" in message
        )
        assert "unexpected 1: 'blocks.3.1.bn1.wieght'" in message
        assert "of another shape 1: 'conv_stem.weight' (8, 3, 5, 5) for (8, 3, 3, 3)" in message
        assert "\n" not in message
        assert ("From lcnet_050 it differs in 3" in message) is (arch is None)


def test_long_lists_are_cut(tmp_path):
    rows = [row for row in timm_names.lcnet(0.5, CLASSES) if ".se." not in row[0]]
    with pytest.raises(PretrainedError, match=r"missing 8: .* and 5 more") as caught:
        read_timm(rows, tmp_path)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("arch", "complaint"),
    [
        (zoo.load("pplcnet_0.5x"), "unexpected 1: 'conv_head.bias'"),
        (zoo.load("pplcnet_0.25x"), "of another shape"),
        (zoo.load("vgg16"), "vgg16 has none"),
        (zoo.load("mobilenet_v2_1.0x"), "does not fit mobilenet_v2_1.0x"),
        ("pplcnet_0.5x", "is not an Arch"),
    ],
)
def test_an_arch_that_does_not_fit(arch, complaint, tmp_path):
    with pytest.raises(PretrainedError, match=complaint):
        read_timm(timm_names.lcnet(0.5, CLASSES), tmp_path, arch)


@pytest.mark.parametrize("name", ["vgg16", "mobilenet_v3_small_1.0x", "resnet18", "googlenet"])
def test_an_arch_that_paddles_names_do_not_have(name, tmp_path):
    for rows in (paddle_names.lcnet(0.25, CLASSES), paddle_names.lcnet_v2(0.75, (2, 2, 4, 2))):
        with pytest.raises(PretrainedError, match=f"{name} has none"):
            read_paddle(rows, tmp_path, zoo.load(name))


def test_paddles_mobilenet_v3_is_not_timms(tmp_path):
    rows = paddle_names.mobilenet_v3_small(1.0, CLASSES)
    with pytest.raises(PretrainedError, match="has fewer convolutions than the scheme"):
        read_paddle(rows, tmp_path, mobilenet_v3_small(1.0, paddle=False))
    with pytest.raises(PretrainedError, match="of another shape"):
        read_paddle(rows, tmp_path, mobilenet_v3_small(0.5, paddle=True))


def test_names_of_no_known_scheme(tmp_path):
    with pytest.raises(PretrainedError, match=r"names such as 'features\.0\.0\.weight'.*timm"):
        read_timm([("features.0.0.weight", (8, 3, 3, 3))], tmp_path)


@pytest.mark.parametrize("shape", [None, (3,), (0, 1280)])
def test_a_file_without_classes(shape, tmp_path):
    rows = dict(timm_names.lcnet(0.5, CLASSES))
    del rows["classifier.weight"]
    if shape is not None:
        rows["classifier.weight"] = shape
    with pytest.raises(
        PretrainedError, match=r"'classifier\.weight', the kernel of the last layer"
    ):
        read_timm(list(rows.items()), tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("bn1.weight", np.full(8, np.nan, np.float32), "not finite"),
        ("bn1.weight", np.full(8, 1e300), "not finite"),
        ("bn1.running_var", np.full(8, -1e-9, np.float32), "a variance, holds negative values"),
        ("bn1.weight", np.full(8, 1), "int64, not a floating-point"),
    ],
)
def test_values_that_are_none(name, value, complaint, tmp_path):
    arrays = numbered(timm_names.lcnet(0.5, CLASSES)) | {name: value}
    save_file(arrays, tmp_path / "w.safetensors")
    with pytest.raises(PretrainedError, match=complaint):
        pretrained.read(tmp_path / "w.safetensors")


def test_half_and_double_precision_become_float32(tmp_path):
    arrays = numbered(timm_names.lcnet(0.35, CLASSES))
    for i, name in enumerate(arrays):
        if arrays[name].dtype == np.float32:
            arrays[name] = arrays[name].astype([np.float16, np.float64][i % 2])
    save_file(arrays, tmp_path / "w.safetensors")
    weights = pretrained.read(tmp_path / "w.safetensors").weights
    assert {w.dtype for w in weights.values()} == {np.dtype(np.float32)}
    assert [np.unique(a).item() for a in weights.values()] == list(range(1, len(weights) + 1))


def test_the_deep_mobilenets_have_their_depths(tmp_path):
    loaded = read_timm(timm_names.mobilenetv2(1.2, CLASSES, 1.4, True), tmp_path).arch
    depths = [len(stage.blocks) for stage in loaded.stages]
    assert depths == [1, 1, 3, 5, 6, 5, 5, 1, 1, 1]
    assert loaded.stages[0] == mobilenet_v2(1.0).stages[0]


def test_timms_head_has_a_bias(tmp_path):
    loaded = read_timm(timm_names.lcnet(0.5, CLASSES), tmp_path).arch
    assert loaded.blocks[:-1] == zoo.load("pplcnet_0.5x").blocks[:-1]
    assert loaded.blocks[-1] == Classifier(1280, "hard_swish", bias=True)
