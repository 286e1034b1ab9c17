"""Paddle's programs: what they compute is found out, layer by layer, in either format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcnas import blocks, onnx_export, zoo
from lcnas.arch import Arch
from lcnas.errors import PretrainedError
from lcnas.models import pretrained
from lcnas.models.pretrained import _protobuf
from lcnas.zoo.mobilenet_v3 import SMALL, mobilenet_v3_small
from lcnas.zoo.pplcnet import pplcnet
from tests.onnx_export.engines import run

from . import writers

FORMATS = ("pir", "pdmodel")
CLASSES = 3
RNG = np.random.default_rng(0)


def values(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def norm_of(channels: int) -> Any:
    return [
        1 + 0.1 * values(channels),
        values(channels),
        values(channels),
        0.5 + RNG.random(channels, np.float32),
    ]


class Writer(writers.Program):
    """A program of whole blocks, which remembers what it wrote by the names of lcnas."""

    def __init__(self, *args):
        super().__init__(*args)
        self.written = {}

    def keep(self, name, array, axes=None):
        self.written[name] = array if axes is None else array.transpose(axes)
        return array

    def conv_norm_act(
        self, path, inputs, outputs, kernel=1, stride=1, groups=1, act="hard_swish", epsilon=1e-5
    ):
        weights = values(outputs, inputs // groups, kernel, kernel) / np.float32(kernel)
        self.conv(self.keep(f"{path}/kernel", weights, (2, 3, 1, 0)), stride, groups)
        norm = norm_of(outputs)
        for last, array in zip(("scale", "shift", "mean", "var"), norm, strict=True):
            self.keep(f"{path}/{last}", array)
        scale, shift, mean, var = norm
        return self.norm(scale, shift, mean, var, epsilon).act(act)

    def squeeze_excite(self, path, channels, hidden, slope=1 / 6):
        before = self.x
        self.pool()
        for name, (c, d) in {"reduce": (channels, hidden), "expand": (hidden, channels)}.items():
            kernel = self.keep(f"{path}/{name}/kernel", values(d, c, 1, 1), (2, 3, 1, 0))
            self.conv(kernel, bias=self.keep(f"{path}/{name}/bias", values(d)))
            if name == "reduce":
                self.act("relu")
        return self.act("hard_sigmoid", slope=float(np.float32(slope)), offset=0.5).gate(before)

    def classifier(self, path, channels, softmax=True):
        self.flatten()
        kernel = self.keep(f"{path}/kernel", values(channels, CLASSES))
        self.linear(kernel, self.keep(f"{path}/bias", values(CLASSES)))
        if softmax is None:
            return self
        return (self.softmax() if softmax else self).fetch()


def small_lcnet(
    last=16, dropout="downgrade_in_infer", act="hard_swish", strides=((1, 2), 1, 2, (2, 1), 2, 1)
):
    """PP-LCNet of widths that the zoo has nowhere, as a program."""
    writer = Writer((-1, 3, 24, 32))
    writer.conv_norm_act("stem", 3, 8, 3, strides[0], act=act)
    channels, position = 8, 0
    for stage, (width, depth) in enumerate(((8, 1), (16, 2), (24, 2), (32, 6), (40, 2)), start=1):
        for j in range(depth):
            path = f"stage{stage}" if depth == 1 else f"stage{stage}_block_{j + 1}"
            kernel, se = (5 if position >= 6 else 3), position >= 11
            stride = strides[stage] if j == 0 else 1
            writer.conv_norm_act(f"{path}/0", channels, channels, kernel, stride, channels, act)
            if se:
                writer.squeeze_excite(f"{path}/1", channels, channels // 4)
            writer.conv_norm_act(f"{path}/{1 + se}", channels, width, act=act)
            channels, position = width, position + 1
    writer.pool()
    if not last:
        return writer.classifier("head/2", channels)
    writer.conv(writer.keep("head/1/kernel", values(last, channels, 1, 1), (2, 3, 1, 0)))
    writer.act(act).dropout(0.2, dropout)
    return writer.classifier("head/4", last)


def expected(program, **factors):
    weights = {name: np.asarray(array) for name, array in program.written.items()}
    for name, factor in factors.items():
        weights |= {k: (a * factor) for k, a in weights.items() if k.endswith(name)}
    return weights


def check(loaded, reference, rtol=0.0):
    assert sorted(loaded.weights) == sorted(reference)
    for name, array in reference.items():
        np.testing.assert_allclose(loaded.weights[name], array, rtol=rtol, err_msg=name)


# -- PP-LCNet --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_a_pplcnet_with_widths_and_strides_of_its_own(kind, tmp_path):
    program = small_lcnet(last=0)
    loaded = pretrained.read(program.save(tmp_path, kind))
    check(loaded, expected(program))
    assert loaded.arch.resolution == (24, 32)
    assert loaded.classes == CLASSES
    depths = [len(stage.blocks) for stage in loaded.arch.stages]
    assert depths == [1, 1, 2, 2, 6, 2, 1]
    assert loaded.arch.blocks[0] == blocks.ConvNormAct(8, 3, (1, 2), "hard_swish")
    assert loaded.arch.blocks[4] == blocks.DepthwiseSeparable(24, stride=(2, 1))
    assert loaded.arch.blocks[-2] == blocks.DepthwiseSeparable(40, 5, se=True)
    assert loaded.arch.blocks[-1] == blocks.Classifier(0)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_dropout_that_scales_is_taken_into_the_last_layer(kind, tmp_path):
    program = small_lcnet()
    loaded = pretrained.read(program.save(tmp_path, kind))
    reference = expected(program)
    reference["head/4/kernel"] = 0.8 * reference["head/4/kernel"]
    check(loaded, reference, 1e-6)
    assert loaded.arch.blocks[-1] == blocks.Classifier(16)


def test_a_dropout_that_does_not_scale_leaves_the_last_layer(tmp_path):
    program = small_lcnet(dropout="upscale_in_train")
    check(pretrained.read(program.save(tmp_path)), expected(program))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_program_computes_what_the_arch_computes(kind, tmp_path):
    """The exported network against the program's own operations, in NumPy."""
    program = small_lcnet(strides=(2, 1, 2, (2, 1), 2, 1))
    loaded = pretrained.read(program.save(tmp_path, kind))
    model = onnx_export.export(loaded.arch, weights=loaded.weights, classes=CLASSES)
    x = values(1, 3, 24, 32)
    reference = evaluate(program, x)
    logits = run(model, x)
    shifted = np.exp(logits - logits.max())
    np.testing.assert_allclose(shifted / shifted.sum(), reference, rtol=1e-4, atol=1e-6)


def evaluate(program, x):
    """Return the output of a program, operation by operation, in float64."""
    known = {name: array.astype(float) for name, array in program.tensors.items()}
    for kind, inputs, attrs, output in program.ops:
        arguments = {role: known.get(value) for role, value in inputs.items()}
        known[output] = x.astype(float) if kind == "feed" else OPERATIONS[kind](arguments, attrs)
    return known[program.ops[-1][3]]


def convolution(arguments, attrs):
    x, kernel, groups = arguments["Input"], arguments["Filter"], attrs["groups"]
    (top, left), (down, across) = attrs["paddings"], attrs["strides"]
    x = np.pad(x, ((0, 0), (0, 0), (top, top), (left, left)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], axis=(2, 3))
    windows = windows[:, :, ::down, ::across]
    n, c, h, w = windows.shape[:4]
    parts = windows.reshape(n, groups, c // groups, h, w, *kernel.shape[2:])
    split = kernel.reshape(groups, -1, *kernel.shape[1:])
    return np.einsum("ngchwyx,gocyx->ngohw", parts, split, optimize=True).reshape(n, -1, h, w)


def normalise(arguments, attrs):
    mean, var, scale, shift = (
        arguments[role][:, None, None] for role in ("Mean", "Variance", "Scale", "Bias")
    )
    return (arguments["X"] - mean) / np.sqrt(var + attrs["epsilon"]) * scale + shift


def add(arguments, attrs):
    other = arguments["Y"][:, None, None] if attrs["axis"] == 1 else arguments["Y"]
    return arguments["X"] + other


def softmax(arguments, _):
    powers = np.exp(arguments["X"] - arguments["X"].max())
    return powers / powers.sum()


OPERATIONS = {
    "conv2d": convolution,
    "depthwise_conv2d": convolution,
    "batch_norm": normalise,
    "hard_swish": lambda g, _: g["X"] * np.clip(g["X"] / 6 + 0.5, 0, 1),
    "relu": lambda g, _: np.maximum(g["X"], 0),
    "hard_sigmoid": lambda g, a: np.clip(a["slope"] * g["X"] + a["offset"], 0, 1),
    "elementwise_add": add,
    "elementwise_mul": lambda g, _: g["X"] * g["Y"],
    "pool2d": lambda g, _: g["X"].mean((2, 3), keepdims=True),
    "flatten_contiguous_range": lambda g, _: g["X"].reshape(len(g["X"]), -1),
    "dropout": lambda g, a: g["X"] * (1 - a["dropout_prob"]),
    "matmul_v2": lambda g, _: g["X"] @ g["Y"],
    "softmax": softmax,
    "fetch": lambda g, _: g["X"],
}


def test_the_zoos_networks_have_their_names(tmp_path):
    program = standard_lcnet()
    assert pretrained.read(program.save(tmp_path)).arch.name == "pplcnet_0.25x"
    assert pretrained.read(tmp_path / "inference.json").arch == zoo.load("pplcnet_0.25x", 64)


def standard_lcnet():
    writer = Writer((-1, 3, 64, 64))
    write_chain(writer, zoo.load("pplcnet_0.25x", 64))
    return writer


def write_chain(writer, arch):
    """Write PP-LCNet as a program, by the numbers of its blocks."""
    stem, *rows, head = arch.blocks
    writer.conv_norm_act("stem", 3, stem.width, 3, stem.stride)
    names, channels = onnx_export.block_names(arch)[1:-1], stem.width
    for path, row in zip(names, rows, strict=True):
        writer.conv_norm_act(f"{path}/0", channels, channels, row.kernel, row.stride, channels)
        if row.se:
            writer.squeeze_excite(f"{path}/1", channels, channels // 4)
        writer.conv_norm_act(f"{path}/{1 + row.se}", channels, row.width)
        channels = row.width
    writer.pool().conv(
        writer.keep("head/1/kernel", values(head.width, channels, 1, 1), (2, 3, 1, 0))
    )
    writer.act("hard_swish").dropout().classifier("head/4", head.width)


def test_an_input_of_any_size_is_the_papers(tmp_path):
    writer = Writer((-1, 3, -1, -1))
    write_chain(writer, zoo.load("pplcnet_0.25x"))
    assert pretrained.read(writer.save(tmp_path)).arch == zoo.load("pplcnet_0.25x")


def test_a_given_arch_keeps_its_resolution(tmp_path):
    arch = pplcnet(0.25, resolution=32)
    file = standard_lcnet().save(tmp_path)
    assert pretrained.read(file, arch).arch is arch


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"strides": (1, 1, 2, 2, 2, 2)},
            r"stem: the program's convolution has stride \(2, 2\) for",
        ),
        ({"act": "relu"}, "stem: the program's convolution has act hard_swish for relu"),
        (
            {"se": "1111111111111"},
            "the program has a convolution, the network a squeeze-and-excite",
        ),
        ({"kernels": "3" * 13}, r"stage4_block_2/0: .* kernel \(5, 5\) for \(3, 3\), padding"),
        ({"last": 0}, "head/1: the program has a convolution, the network a flatten"),
        ({"last": 640}, "head/1: the program's convolution has width 1280 for 640"),
        ({"scale": 0.5}, "stage1/1: the program's convolution has width 8 for 16"),
    ],
)
def test_an_arch_that_computes_something_else(change, complaint, tmp_path):
    file = standard_lcnet().save(tmp_path)
    with pytest.raises(PretrainedError, match=complaint):
        pretrained.read(file, pplcnet(**({"scale": 0.25} | change)))


def test_networks_that_go_on_or_end_early(tmp_path):
    two = Arch.of(
        {"stem": TINY.blocks[:1], "head": [blocks.DenseHead((CLASSES,), act="identity")]}, 8
    )
    with pytest.raises(PretrainedError, match="the program ends before head/3"):
        pretrained.read(tiny().save(tmp_path), two)
    writer = tiny(softmax=None)
    writer.linear(values(CLASSES, CLASSES), values(CLASSES)).fetch()
    with pytest.raises(PretrainedError, match="goes on with a linear where the network ends"):
        pretrained.read(writer.save(tmp_path), TINY)
    check(pretrained.read(writer.save(tmp_path), two), expected(writer) | _last_linear(writer))


def _last_linear(writer):
    kernel, bias = list(writer.tensors.values())[-2:]
    return {"head/3/kernel": kernel, "head/3/bias": bias}


# -- MobileNetV3: shortcuts, squeeze-and-excite in them, another gate --------------------------------


def mobilenet_v3_of_paddle(epsilon=1e-5):
    """PaddleClas's MobileNetV3-small 0.35x: its gate is 0.2 x + 0.5."""

    def rounded(value):
        width = max(8, int(value + 4) // 8 * 8)
        return width + 8 if width < 0.9 * value else width

    writer = Writer((-1, 3, 64, 64))
    writer.conv_norm_act("stem", 3, 8, 3, 2, epsilon=epsilon)
    channels = 8
    for stage, rows in enumerate(SMALL.stages, start=1):
        for j, row in enumerate(rows):
            width, hidden = rounded(0.35 * row.width), rounded(0.35 * row.expanded)
            before = writer.x
            added = row.stride == 1 and width == channels
            path = f"stage{stage}" if len(rows) == 1 else f"stage{stage}_block_{j + 1}"
            path += "/1" if added else ""
            writer.conv_norm_act(f"{path}/0", channels, hidden, act=row.act, epsilon=epsilon)
            writer.conv_norm_act(
                f"{path}/1", hidden, hidden, row.kernel, row.stride, hidden, row.act, epsilon
            )
            if row.se:
                writer.squeeze_excite(f"{path}/2", hidden, hidden // 4, slope=0.2)
            writer.conv_norm_act(
                f"{path}/{2 + row.se}", hidden, width, act="identity", epsilon=epsilon
            )
            if added:
                writer.shortcut(before)
            channels = width
    last = rounded(0.35 * 576)
    writer.conv_norm_act("last", channels, last, epsilon=epsilon)
    writer.pool().conv(writer.keep("head/1/kernel", values(1280, last, 1, 1), (2, 3, 1, 0)))
    return writer.act("hard_swish").dropout().classifier("head/4", 1280)


@pytest.mark.parametrize("kind", FORMATS)
def test_paddles_mobilenet_v3(kind, tmp_path):
    program = mobilenet_v3_of_paddle()
    loaded = pretrained.read(program.save(tmp_path, kind))
    assert loaded.arch == mobilenet_v3_small(0.35, resolution=64)
    assert loaded.arch.name == "MobileNetV3_small_x0_35"
    reference = expected(program, **{"expand/kernel": 1.2, "expand/bias": 1.2})
    reference["head/4/kernel"] = 0.8 * reference["head/4/kernel"]
    check(loaded, reference, 1e-6)
    model = onnx_export.export(loaded.arch, weights=loaded.weights, classes=CLASSES)
    x = values(1, 3, 64, 64)
    logits = run(model, x)
    powers = np.exp(logits - logits.max())
    np.testing.assert_allclose(powers / powers.sum(), evaluate(program, x), rtol=2e-4, atol=1e-6)


def test_another_epsilon(tmp_path):
    program = mobilenet_v3_of_paddle(epsilon=1e-3)
    loaded = pretrained.read(program.save(tmp_path), mobilenet_v3_small(0.35, resolution=64))
    for name, array in program.written.items():
        if name.endswith("/var"):
            np.testing.assert_allclose(loaded.weights[name], array + (1e-3 - 1e-5), rtol=1e-6)
    with pytest.raises(PretrainedError, match="which has its own"):
        pretrained.read(tmp_path / "inference.pdiparams", epsilon=1e-3)


# -- programs of something else ----------------------------------------------------------------------


def tiny(change=lambda writer: writer, softmax=True, shape=(-1, 3, 8, 8)):
    """A convolution, what ``change`` adds, and a classifier; ``softmax`` None: without an output."""
    writer = Writer(shape)
    writer.conv_norm_act("stem", 3, 4, 3, 2, act="relu")
    change(writer)
    return writer.pool().classifier("head/2", 4, softmax)


TINY = Arch.of({"stem": [blocks.ConvNormAct(4, stride=2)], "head": [blocks.Classifier(0)]}, 8)


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("kind", FORMATS)
def test_any_network_with_its_arch(kind, softmax, tmp_path):
    program = tiny(softmax=softmax)
    file = program.save(tmp_path, kind)
    check(pretrained.read(file, TINY), expected(program))
    with pytest.raises(PretrainedError, match="give the network as arch="):
        pretrained.read(file)


def branches(writer):
    before = writer.x
    writer.act("relu")
    left, writer.x = writer.x, before
    writer.act("sigmoid").shortcut(left)


CHANGES = {
    "max pooling": (lambda m: m.pool(pooling_type="max"), "pool2d with pooling_type 'max'"),
    "a small pooling": (lambda m: m.pool(ksize=[2, 2]), "not the mean of the whole map"),
    "a simple pooling": (lambda m: m.pool(adaptive=False), "not the mean of the whole map"),
    "an unknown operation": (lambda m: m.act("erf"), "the operation 'erf' is not among add"),
    "two branches": (branches, "a sum of two branches"),
    "itself twice": (lambda m: m.shortcut(m.x), "a sum of two branches"),
    "a product": (lambda m: m.gate(m.x), "a product that is not squeeze-and-excite"),
    "dilation": (
        lambda m: m.conv(values(4, 4, 3, 3), dilations=[2, 2]),
        r"conv2d with dilations \[2, 2\]",
    ),
    "channels last": (
        lambda m: m.conv(values(4, 4, 1, 1), data_format="NHWC"),
        "conv2d with data_format 'NHWC'",
    ),
    "a norm of channels last": (
        lambda m: m.ops[-2][2].update(data_layout="NHWC"),
        "batch_norm with data_format 'NHWC'",
    ),
    "same padding": (
        lambda m: m.conv(values(4, 4, 3, 3), padding_algorithm="SAME"),
        "with the padding 'SAME'",
    ),
    "a bias twice": (
        lambda m: m.bias(values(4), axis=1),
        "add that does not directly follow its conv",
    ),
    "a norm twice": (lambda m: m.norm(*norm_of(4)), "batch_norm that does not directly follow"),
    "a scale before an activation": (
        lambda m: m.scale(2.0).act("relu"),
        "relu after a scale, or a dropout",
    ),
    "a scale with a bias": (lambda m: m.scale(2.0, bias=1.0), "scale with bias 1.0"),
    "a steep swish": (lambda m: m.act("swish", beta=2.0), "swish with beta 2.0"),
    "another hard swish": (lambda m: m.act("hard_swish", offset=2.0), "hardswish with offset 2.0"),
    "another gate": (
        lambda m: m.act("hard_sigmoid", slope=0.2, offset=0.4),
        "a hard sigmoid of slope 0.2",
    ),
    "a gate behind nothing": (
        lambda m: m.act("hard_sigmoid", slope=0.2, offset=0.5),
        "another slope than 1/6 that does not follow a convolution",
    ),
    "dropout of all": (lambda m: m.dropout(1.0), "a dropout of rate 1.0"),
    "something after the softmax": (lambda m: m.softmax().act("relu"), "relu after the softmax"),
    "a second activation": (
        lambda m: m.act("sigmoid"),
        "head/0: the program has an activation, the network a global pooling",
    ),
    "a second input": (lambda m: m.op("feed", {}, {"shape": [1, 3, 8, 8]}), "more than one input"),
    "a second output": (lambda m: m.fetch(), "more than one output"),
    "a flatten of some sides": (lambda m: m.flatten(stop_axis=2), "a flatten of some sides"),
    "a flatten of the batch": (lambda m: m.flatten(start_axis=0), "flatten with start_axis 0"),
    "a kernel turned": (
        lambda m: m.pool().flatten().linear(values(4, 4), trans_y=True),
        "matmul with transpose_y True",
    ),
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", CHANGES)
def test_operations_that_no_layer_has(name, kind, tmp_path):
    change, complaint = CHANGES[name]
    file = tiny(change).save(tmp_path, kind)
    with pytest.raises(PretrainedError, match=complaint) as caught:
        pretrained.read(file, TINY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(-1, 1, 8, 8), (-1, 3, 8), (-1, 8, 8, 3)])
def test_inputs_that_are_no_images(shape, tmp_path):
    with pytest.raises(PretrainedError, match="an input of the shape"):
        pretrained.read(tiny(shape=shape).save(tmp_path), TINY)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("kernel", "padding", "block"),
    [
        ((3, 1), (1, 0), blocks.ConvNormAct(4, (3, 1))),
        ((3, 3), (0, 1, 2, 1), blocks.ConvNormAct(4, 3, padding=(0, 1, 2, 1))),
        ((3, 3), (0, 0), blocks.ConvNormAct(4, 3, padding=(0, 0, 0, 0))),
    ],
)
def test_paddings(kind, kernel, padding, block, tmp_path):
    program = tiny(
        lambda m: m.conv(values(4, 4, *kernel), padding=padding).norm(*norm_of(4)).act("relu")
    )
    file = program.save(tmp_path, kind)
    ends = {"stem": TINY.blocks[:1], "body": [block], "head": TINY.blocks[1:]}
    arch = Arch.of(ends, 8)
    assert pretrained.read(file, arch).arch is arch
    other = Arch.of(ends | {"body": [blocks.ConvNormAct(4, 3, padding=(1, 0, 1, 0))]}, 8)
    with pytest.raises(PretrainedError, match="body: the program's convolution has"):
        pretrained.read(file, other)


def test_a_factor_finds_the_next_weights(tmp_path):
    program = tiny(lambda m: m.scale(3.0).scale(0.5))
    reference = expected(program)
    reference["head/2/kernel"] = 1.5 * reference["head/2/kernel"]
    check(pretrained.read(program.save(tmp_path), TINY), reference, 1e-6)


# -- files that do not fit each other ----------------------------------------------------------------


def test_a_program_is_needed(tmp_path):
    file = tiny().save(tmp_path)
    (tmp_path / "inference.json").unlink()
    with pytest.raises(PretrainedError, match=r"neither inference\.json nor inference\.pdmodel"):
        pretrained.read(file, TINY)


@pytest.mark.parametrize("kind", FORMATS)
def test_tensors_that_the_program_does_not_have(kind, tmp_path):
    program = tiny()
    file = program.save(tmp_path, kind)
    data = file.read_bytes()
    for broken, complaint in (
        (data + b"1", "1 bytes more than the program's tensors have"),
        (data[:-1], "needs .* bytes, not"),
        (data[:10], "the file ends before it"),
        (b"\1" + data[1:], "no tensor lies where it should"),
        (data[:20] + b"\x08\x07" + data[22:], "type 7 of the shape"),
    ):
        file.write_bytes(broken)
        with pytest.raises(PretrainedError, match=complaint):
            pretrained.read(file, TINY)
    program.tensors[min(program.tensors)] = np.zeros((2, 2), np.float32)
    file.write_bytes(writers.pdiparams(program.tensors))
    with pytest.raises(PretrainedError, match=r"has the shape \(2, 2\), in the program"):
        pretrained.read(file, TINY)


def test_a_tensor_that_no_layer_reads(tmp_path):
    program = tiny()
    program.param(values(3), "spare")
    with pytest.raises(PretrainedError, match="unexpected 1: 'spare'"):
        pretrained.read(program.save(tmp_path), TINY)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"base_code": {"magic": "onnx"}}', "[" * 100_000, "\udcff"],
)
def test_json_that_is_no_program(text, tmp_path):
    file = tiny().save(tmp_path)
    (tmp_path / "inference.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(PretrainedError, match=r"inference\.json: not a program of Paddle 3"):
        pretrained.read(file, TINY)


@pytest.mark.parametrize("kind", FORMATS)
def test_changed_programs_raise_one_error(kind, tmp_path):
    file = tiny(lambda m: m.squeeze_excite("se", 4, 2)).save(tmp_path, kind)
    program = file.with_suffix(".json" if kind == "pir" else ".pdmodel")
    data, rng = program.read_bytes(), np.random.default_rng(3)
    for _ in range(150):
        broken = bytearray(data)
        for at in rng.integers(0, len(data), 2):
            broken[at] = rng.integers(256)
        program.write_bytes(broken)
        try:
            pretrained.read(file, TINY)
        except PretrainedError as error:
            assert "\n" not in str(error)


def test_missing_parts_of_a_json_program_raise_one_error(tmp_path):
    file = tiny().save(tmp_path)
    whole = json.loads((tmp_path / "inference.json").read_text())
    for path, _ in list(_places(whole)):
        data = json.loads(json.dumps(whole))
        inner = data
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = None
        (tmp_path / "inference.json").write_text(json.dumps(data))
        try:
            pretrained.read(file, TINY)
        except PretrainedError as error:
            assert "\n" not in str(error)


def _places(data, path=()):
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in items:
        yield (*path, key), value
        if isinstance(value, dict | list):
            yield from _places(value, (*path, key))


def test_the_wire_format():
    assert list(_protobuf.fields(b"\x08\x96\x01\x12\x02hi\x1d\x01\x02\x03\x04")) == [
        (1, 150),
        (2, b"hi"),
        (3, b"\x01\x02\x03\x04"),
    ]
    assert _protobuf.whole_numbers(b"\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01") == [1, -1]
    for broken in (b"\x08", b"\x12\x05hi", b"\x0b", b"\x08" + b"\xff" * 11):
        with pytest.raises(ValueError, match=r"message|wire type|64 bits"):
            list(_protobuf.fields(broken))


# -- the notes beside a program ----------------------------------------------------------------------

NOTES = """Global:
  model_name: {name}
PostProcess:
  Topk:
    topk: 1
    label_list:
{labels}
PreProcess:
  - x: 1
"""


def notes(folder, name="a_net", labels=("cat", "dog", "it's")):
    lines = "\n".join(f"    - {label}" for label in labels)
    (folder / "inference.yml").write_text(NOTES.format(name=name, labels=lines))


def test_the_names_of_the_classes(tmp_path):
    file = small_lcnet(last=0).save(tmp_path)
    assert pretrained.read(file).class_names is None
    notes(tmp_path, labels=("cat", "'a dog, a hot one'", '"cow"'))
    loaded = pretrained.read(file)
    assert loaded.class_names == ("cat", "a dog, a hot one", "cow")
    assert loaded.arch.name == "a_net"
    notes(tmp_path, labels=("cat", "dog"))
    with pytest.raises(PretrainedError, match=r"inference\.yml: 2 names of classes for 3"):
        pretrained.read(file)
    Path(tmp_path / "inference.yml").write_bytes(b"\xff\xfe: ] [")
    assert pretrained.read(file).class_names is None
