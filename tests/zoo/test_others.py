"""ShuffleNets, GhostNet, PP-LCNetV2, PP-HGNetV2, VGG, GoogLeNet, ResNet: counts, shapes, parts."""

from __future__ import annotations

import itertools

import pytest

from lcnas import cost, layers
from lcnas.arch import Arch, walk
from lcnas.zoo import ghostnet, googlenet, hgnet_v2, pplcnet_v2, resnet, shufflenet, vgg
from lcnas.zoo._registry import Family, Published, agrees

MODULES = (shufflenet, ghostnet, pplcnet_v2, hgnet_v2, vgg, googlenet, resnet)
FAMILIES = {family.name: family for module in MODULES for family in module.FAMILIES}
NETWORKS = {
    name: (family, scale)
    for family in FAMILIES.values()
    for name, scale in zip(family.names(), family.scales or (1.0,), strict=True)
}
each_network = pytest.mark.parametrize("name", NETWORKS)


def build(name: str) -> Arch:
    family, scale = NETWORKS[name]
    return family.build(scale) if family.scales else family.build()


def published(name: str) -> Published:
    family, scale = NETWORKS[name]
    return family.published[scale]


def steps(arch: Arch) -> list[tuple[layers.Layer, layers.Shape, layers.Shape]]:
    return [s for p in walk(arch) for s in layers.visit(p.layer, p.in_shape)]


def convs(arch: Arch) -> list[layers.Conv]:
    return [layer for layer, _, _ in steps(arch) if isinstance(layer, layers.Conv)]


# Counted apart from lcnas, with hooks on the layers of these implementations: (params, MACs).
EXACT = {
    # pytorchcv 0.0.74's ShuffleNet class, with the authors' stem widths; at 0.25x see shufflenet.py
    "shufflenet_v1_0.25x": (306_124, 13_300_656),
    "shufflenet_v1_0.5x": (718_324, 37_589_856),
    "shufflenet_v1_1.0x": (1_865_728, 137_460_672),
    "shufflenet_v1_1.5x": (3_442_168, 292_443_552),
    "shufflenet_v1_2.0x": (5_450_776, 524_045_184),
    # pytorchcv 0.0.74's ShuffleNetV2 class with PaddleClas's widths
    "shufflenet_v2_0.33x": (647_272, 22_454_592),
    # torchvision 0.29.1
    "shufflenet_v2_0.5x": (1_366_792, 40_476_448),
    "shufflenet_v2_1.0x": (2_278_604, 144_907_992),
    "shufflenet_v2_1.5x": (3_503_624, 295_759_392),
    "shufflenet_v2_2.0x": (7_393_996, 583_253_464),
    # timm 1.0.31
    "ghostnet_0.5x": (2_587_292, 42_328_152),
    "ghostnet_1.0x": (5_182_508, 141_150_512),
    "ghostnet_1.3x": (7_358_820, 227_003_256),
    # PaddleClas 2.6.0 and timm 1.0.31, merged, and a value more a channel of a merged convolution
    "pplcnet_v2_small": (4_092_840 + 2_496, 280_320_896),
    "pplcnet_v2_base": (6_624_232 + 4_352, 593_875_456),
    # PaddleClas 2.6.0 and timm 1.0.31
    "hgnet_v2_b0": (5_996_550, 321_326_464),
    # torchvision 0.29.1
    "vgg16": (138_357_544, 15_470_264_320),
    # torchvision 0.29.1 with 5x5 convolutions, and biases in place of batch norm
    "googlenet": (6_998_552, 1_582_671_872),
    # torchvision 0.29.1
    "resnet18": (11_689_512, 1_814_073_344),
}


@each_network
def test_counts_to_the_last_digit(name):
    total = cost.total(build(name))
    assert (total.params, total.macs) == EXACT[name]


def faults(params: int, macs: int, known: Published, trained: int | None = None) -> list[str]:
    """Which counts are neither the printed ones nor the reference's (which may have params of training)."""
    complaints = []
    reference = known.reference
    if reference is not None:
        if (trained if reference.training else params) != reference.params:
            complaints.append("params are not the reference's")
        if reference.macs is not None and abs(macs - reference.macs) > 0.01 * reference.macs:
            complaints.append("MACs are not the reference's")
    if known.params and not agrees(params, known.params) and reference is None:
        complaints.append("params are not the printed ones")
    if known.macs and not agrees(macs, known.macs) and (reference is None or not reference.macs):
        complaints.append("MACs are not the printed ones")
    return complaints


@each_network
def test_counts_are_the_printed_ones_or_the_references(name):
    arch = build(name)
    known = published(name)
    trained = cost.params(arch, training=True)
    assert faults(cost.params(arch), cost.macs(arch), known, trained) == []
    assert (
        faults(cost.params(arch) + 1, cost.macs(arch), known, trained + 1) != []
        or not known.reference
    )
    assert known.params or known.reference or known.macs


@each_network
def test_one_value_too_many_would_be_noticed(name):
    params, macs = EXACT[name]
    known = published(name)
    if known.reference is None:
        assert name == "shufflenet_v1_0.25x"  # nobody printed its params
    else:
        trained = cost.params(build(name), training=True)
        assert faults(params + 1, macs, known, trained + 1)
        assert faults(params - 1, macs, known, trained - 1)


# The printed figures that no known implementation has.
NOT_MET = {
    ("shufflenet_v1_2.0x", "params"),  # printed without the bias of the linear layer
    ("shufflenet_v2_0.5x", "macs"),
    ("shufflenet_v2_1.0x", "macs"),
    ("shufflenet_v2_1.5x", "macs"),
    ("shufflenet_v2_2.0x", "macs"),
    ("ghostnet_1.3x", "params"),
    ("ghostnet_1.3x", "macs"),
    ("googlenet", "macs"),
}


def test_which_printed_figures_are_met():
    missed = set()
    for name, (params, macs) in EXACT.items():
        known = published(name)
        if known.params and not agrees(params, known.params):
            missed.add((name, "params"))
        if known.macs and not agrees(macs, known.macs):
            missed.add((name, "macs"))
    assert missed == NOT_MET


@each_network
def test_published_figures_have_a_source(name):
    known = published(name)
    assert known.source
    assert known.top1 is not None
    assert 40 < known.top1 < 80
    assert known.distilled == (name == "hgnet_v2_b0")
    assert build(name).resolution == 224


def test_paddle_flops():
    # 0.33x and 0.5x stand in PP-LCNet's comparison; the first is also what paddle.flops gave.
    assert cost.paddle_flops(build("shufflenet_v2_0.33x")) == 24_041_920
    assert agrees(cost.paddle_flops(build("shufflenet_v2_0.33x")), "24M")
    assert agrees(cost.paddle_flops(build("shufflenet_v2_0.5x")), "43M")
    # PaddleClas's counts: its merged convolutions have a bias, ours batch norm, one value more.
    assert merged_with_bias(build("pplcnet_v2_small")) == 287_568_848
    assert merged_with_bias(build("pplcnet_v2_base")) == 604_545_216
    assert cost.paddle_flops(build("hgnet_v2_b0")) == 325_617_536


def merged_with_bias(arch: Arch) -> int:
    """What paddle.flops would give if re-parameterised convolutions merged to one with a bias."""
    merged = [out for layer, _, out in steps(arch) if isinstance(layer, layers.Reparam)]
    return cost.paddle_flops(arch) - sum(h * w * channels for h, w, channels in merged)


# -- shapes --------------------------------------------------------------------------------------

# The output of each stage, as in the papers' tables.
SHAPES = {
    "shufflenet_v1_1.0x": [(56, 24), (28, 240), (14, 480), (7, 960)],
    "shufflenet_v2_0.33x": [(56, 24), (28, 32), (14, 64), (7, 128)],
    "shufflenet_v2_1.0x": [(56, 24), (28, 116), (14, 232), (7, 464)],
    "shufflenet_v2_2.0x": [(56, 24), (28, 244), (14, 488), (7, 976)],
    "ghostnet_1.0x": [(112, 16), (112, 16), (56, 24), (28, 40), (14, 112), (7, 160)],
    "ghostnet_1.3x": [(112, 20), (112, 20), (56, 32), (28, 52), (14, 144), (7, 208)],
    "pplcnet_v2_small": [(112, 48), (56, 96), (28, 192), (14, 384), (7, 768)],
    "pplcnet_v2_base": [(112, 64), (56, 128), (28, 256), (14, 512), (7, 1024)],
    "hgnet_v2_b0": [(56, 16), (56, 64), (28, 256), (14, 512), (7, 1024)],
    "vgg16": [(112, 64), (56, 128), (28, 256), (14, 512), (7, 512)],
    "googlenet": [(28, 192), (14, 480), (7, 832), (7, 1024)],
    "resnet18": [(56, 64), (56, 64), (28, 128), (14, 256), (7, 512)],
}


@pytest.mark.parametrize("name", SHAPES)
def test_stage_shapes(name):
    arch = build(name)
    placed = iter(walk(arch))
    ends = [list(itertools.islice(placed, len(stage.blocks)))[-1] for stage in arch.stages]
    assert [end.out_shape for end in ends[:-1]] == [(side, side, c) for side, c in SHAPES[name]]
    assert ends[-1].out_shape == (1000,)


@each_network
def test_stages_are_named_in_order(name):
    names = [stage.name for stage in build(name).stages]
    expected = ["stem"] if name != "vgg16" else []
    expected += [f"stage{i}" for i in range(1, len(names) - len(expected))]
    assert names == [*expected, "head"]


def test_shapes_inside_googlenet():
    outs = [placed.out_shape[0] for placed in walk(googlenet.googlenet())][:7]
    assert outs == [112, 56, 56, 56, 56, 56, 28]  # poolings round up, as in Caffe


@pytest.mark.parametrize("scale", [0.05, 0.1, 0.33, 0.62, 0.9, 1.25, 1.7, 2.5, 4.0])
@pytest.mark.parametrize("family", [f for f in FAMILIES.values() if f.scales], ids=lambda f: f.name)
def test_other_scales_can_be_built(family: Family, scale: float):
    arch = family.build(scale)
    assert walk(arch)[-1].out_shape == (1000,)
    assert cost.params(arch) < cost.params(family.build(scale * 2))


# -- parts ---------------------------------------------------------------------------------------


def test_only_the_first_pointwise_convolution_of_shufflenet_v1_has_no_groups():
    pointwise = [c for c in convs(shufflenet.shufflenet_v1()) if c.kernel == (1, 1)]
    assert [c.groups for c in pointwise] == [1] + 31 * [3]
    assert pointwise[0].width == 240 // 4
    assert pointwise[1].width == 240 - 24  # the pooled input makes up the rest


def test_params_of_the_first_units_of_shufflenet_v1_in_closed_form():
    strided, unstrided = cost.per_block(shufflenet.shufflenet_v1())[2:4]
    assert strided.params == (24 * 60 + 120) + (9 * 60 + 120) + (20 * 216 + 432)
    assert unstrided.params == (80 * 60 + 120) + (9 * 60 + 120) + (20 * 240 + 480)


def test_params_of_the_first_units_of_shufflenet_v2_in_closed_form():
    strided, unstrided = cost.per_block(shufflenet.shufflenet_v2())[2:4]
    side = (9 * 24 + 48) + (24 * 58 + 116)
    main = (24 * 58 + 116) + (9 * 58 + 116) + (58 * 58 + 116)
    assert strided.params == side + main
    assert unstrided.params == (58 * 58 + 116) + (9 * 58 + 116) + (58 * 58 + 116)


def test_the_last_convolution_of_shufflenet_v2_stands_before_the_pooling():
    kinds = [layer.kind for layer, _, _ in steps(shufflenet.shufflenet_v2())][-4:]
    assert kinds == ["convolution", "global pooling", "flatten", "linear"]
    assert convs(shufflenet.shufflenet_v2(2.0))[-1].width == 2048


def ghost(channels: int, width: int) -> int:
    half = width // 2
    return (channels * half + width) + (9 * half + width)


def test_params_of_ghost_bottlenecks_in_closed_form():
    arch = ghostnet.ghostnet()
    costs = cost.per_block(arch)
    blocks = [(b, c.params) for b, c in zip(arch.blocks, costs, strict=True)]
    # Block 4: 24 channels, kernel 5, expanded to 72, squeeze-and-excite (72 / 4 = 18, to a multiple
    # of 4: 20), width 40, stride 2; the shortcut is a strided depthwise and a pointwise one.
    between = 25 * 72 + 2 * 72
    squeeze = 72 * 20 + 20 + 20 * 72 + 72
    shortcut = (25 * 24 + 48) + (24 * 40 + 80)
    assert blocks[4][1] == ghost(24, 72) + between + squeeze + ghost(72, 40) + shortcut
    # Block 7 keeps its shape: nothing stands between the modules, the shortcut is the input.
    assert blocks[7][1] == ghost(80, 200) + ghost(200, 80)


def test_ghost_modules_stand_around_the_strided_convolution():
    primitives = [layer for layer, shape, _ in steps(ghostnet.ghostnet()) if len(shape) == 3]
    excite = [layer for layer in primitives if isinstance(layer, layers.SqueezeExcite)]
    assert {(e.act, e.gate) for e in excite} == {("relu", "hard_sigmoid")}
    assert [e.hidden for e in excite] == [20, 32, 120, 168, 168, 240, 240]
    strided = [c for c in convs(ghostnet.ghostnet()) if c.stride == (2, 2)]
    # The stem, and one on the path and one on the shortcut of each of the four strided blocks.
    assert len(strided) == 9
    assert {c.act for c in strided[1:]} == {"identity"}


# (channels, stride) of each re-parameterised depthwise convolution.
REPARAM = {
    "pplcnet_v2_small": [(192, 2), (384, 1), (384, 1), (384, 1), (384, 2), (768, 1)],
    "pplcnet_v2_base": [(256, 2), *[(512, 1)] * 5, (512, 2), (1024, 1)],
}


@pytest.mark.parametrize(
    ("name", "branched"), [("pplcnet_v2_small", 4_128_552), ("pplcnet_v2_base", 6_687_208)]
)
def test_branches_of_pplcnet_v2(name, branched):
    arch = build(name)
    reparams = [layer for layer, _, _ in steps(arch) if isinstance(layer, layers.Reparam)]
    assert [(r.merged.width, r.merged.stride[0]) for r in reparams] == REPARAM[name]
    for layer in reparams:
        kernels = [b.kernel[0] for b in layer.branches if isinstance(b, layers.Conv)]
        assert kernels == ([5, 3, 1] if layer.merged.stride == (1, 1) else [5, 3])
    # Beside the 5x5 that stays: a 3x3 and its norm, and at stride 1 a 1x1 and its norm.
    more = sum(c * (9 + 2) + (stride == 1) * c * (1 + 2) for c, stride in REPARAM[name])
    assert cost.params(arch, training=True) - cost.params(arch) == more
    assert cost.params(arch, training=True) == branched  # PaddleClas 2.6.0


def test_parts_of_pplcnet_v2():
    arch = pplcnet_v2.pplcnet_v2_base()
    excite = [layer for layer, _, _ in steps(arch) if isinstance(layer, layers.SqueezeExcite)]
    assert [e.hidden for e in excite] == [64, *[128] * 5]  # of the input's channels, third stage
    assert {e.gate for e in excite} == {"sigmoid"}
    assert sum(isinstance(layer, layers.Add) for layer, _, _ in steps(arch)) == 1
    assert {c.act for c in convs(arch)} == {"relu"}


def test_affines_of_hgnet_v2():
    arch = hgnet_v2.hgnet_v2_b0()
    assert all(c.affine == (c.act == "relu") for c in convs(arch))
    # Five in the stem, two and three layers in each of five blocks, one in the head.
    assert sum(c.affine for c in convs(arch)) == 5 + 5 * (3 + 2) + 1
    assert sum(isinstance(layer, layers.Add) for layer, _, _ in steps(arch)) == 1


def test_the_stem_of_hgnet_v2_pads_behind():
    small = [c for c in convs(hgnet_v2.hgnet_v2_b0()) if c.kernel == (2, 2)]
    assert [c.padding for c in small] == [(0, 1, 0, 1)] * 2
    assert [c.width for c in small] == [8, 16]


def test_vgg_and_googlenet_have_biases_and_no_norm():
    for arch in (vgg.vgg16(), googlenet.googlenet()):
        assert {(c.bias, c.norm, c.act) for c in convs(arch)} == {(True, False, "relu")}
    kinds = [layer.kind for layer, _, _ in steps(googlenet.googlenet())]
    assert kinds.count("local response norm") == 2
    assert kinds.count("concat") == 9


def test_params_of_resnet18_in_closed_form():
    widths = (64, 128, 256, 512)
    convolutions = 49 * 3 * 64 + 4 * 9 * 64 * 64
    norms = 2 * 64 * 5
    for before, width in itertools.pairwise(widths):
        convolutions += 9 * before * width + 3 * 9 * width * width + before * width
        norms += 2 * width * 5
    assert cost.params(resnet.resnet18()) == convolutions + norms + 512 * 1000 + 1000
