"""The network of a file of weights: from its program, or among the networks known by their names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from lcnas import layers, zoo
from lcnas.arch import Arch, Resolution, Stage
from lcnas.blocks import Block, Classifier, ConvNormAct, DepthwiseSeparable
from lcnas.models.pretrained._program import Step, TracedNetwork
from lcnas.zoo.mobilenet_v1 import SCALES as V1_SCALES
from lcnas.zoo.mobilenet_v2 import SCALES as V2_SCALES
from lcnas.zoo.mobilenet_v2 import mobilenet_v2
from lcnas.zoo.mobilenet_v3 import SCALES as V3_SCALES
from lcnas.zoo.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from lcnas.zoo.mobilenet_v4 import mobilenet_v4_conv_small
from lcnas.zoo.pplcnet import SCALES, STAGES, pplcnet

# -- PP-LCNet from a program -----------------------------------------------------------------------


def from_program(network: TracedNetwork, name: str) -> Arch | None:
    """Return the PP-LCNet of a program, of any widths and strides, or None if it is another network.

    Args:
        network: the traced program.
        name: name of an arch that is not in the zoo.
    """
    resolution: Resolution = network.size or 224
    steps = list(network.steps)
    blocks, steps_after = _separable_blocks(steps[1:])
    stem, head = _stem(steps), _head(steps_after, network.dropout)
    if stem is None or head is None or len(blocks) != sum(depth for _, depth, _ in STAGES):
        return None
    stages: dict[str, list[Block]] = {"stem": [stem]}
    remaining = iter(blocks)
    for i, (_, depth, _) in enumerate(STAGES, start=1):
        stages[f"stage{i}"] = [next(remaining) for _ in range(depth)]
    return named(Arch.of({**stages, "head": [head]}, resolution), name)


def named(arch: Arch, name: str) -> Arch:
    """Return the arch with the zoo's name if the zoo has it, otherwise with ``name``."""
    for scale in SCALES:
        published = zoo.load(f"pplcnet_{scale}x")
        if published.blocks == arch.blocks:
            return arch.named(published.name)
    return arch.named(name if name.isprintable() else "")


def _stem(steps: Sequence[Step]) -> Block | None:
    conv = steps[0].layer if steps else None
    if not isinstance(conv, layers.Conv):
        return None
    return ConvNormAct(conv.width, conv.kernel, conv.stride, conv.act)


def _separable_blocks(steps: Sequence[Step]) -> tuple[list[DepthwiseSeparable], Sequence[Step]]:
    """Return the blocks at the beginning of the steps, and the steps after them."""
    blocks: list[DepthwiseSeparable] = []
    while len(steps) > 2:
        depthwise = steps[0].layer
        if not isinstance(depthwise, layers.Conv) or depthwise.groups == 1:
            break
        se = isinstance(steps[1].layer, layers.SqueezeExcite)
        pointwise = steps[1 + se].layer
        if not isinstance(pointwise, layers.Conv):
            break
        block = DepthwiseSeparable(
            pointwise.width, depthwise.kernel, depthwise.stride, depthwise.act, se
        )
        blocks.append(block)
        steps = steps[2 + se :]
    return blocks, steps


def _head(steps: Sequence[Step], dropout: float | None) -> Block | None:
    match [step.layer for step in steps]:
        case [layers.GlobalPool(), layers.Flatten(), layers.Linear()]:
            return Classifier(0)
        case [layers.GlobalPool(), layers.Conv() as conv, layers.Flatten(), layers.Linear()]:
            rate = 0.2 if dropout is None else round(dropout, 6)
            return Classifier(conv.width, conv.act, conv.bias, conv.norm, rate)
    return None


# -- networks known by their names and shapes ------------------------------------------------------


@dataclass(frozen=True)
class PossibleArch:
    """A network that a file may belong to."""

    name: str  # in its library
    build: Callable[[], Arch]


def candidates(scheme: str) -> Iterator[PossibleArch]:
    """Yield the networks whose weights are published under a scheme's names."""
    yield from _CANDIDATES[scheme]()


def _timm() -> Iterator[PossibleArch]:
    for code, scale in _codes(0.35, 0.5, 0.75, 1.0, 1.5):
        yield PossibleArch(f"lcnet_{code}", partial(_biased_lcnet, scale))
    for code, scale in _codes(0.5, 0.75, 1.0):
        build = partial(mobilenet_v3_small, scale, paddle=False)
        yield PossibleArch(f"mobilenetv3_small_{code}", build)
    for code, scale in _codes(0.75, 1.0):
        build = partial(mobilenet_v3_large, scale, paddle=False)
        yield PossibleArch(f"mobilenetv3_large_{code}", build)
    for code, scale in _codes(0.35, 0.5, 0.75, 1.0, 1.4):
        yield PossibleArch(f"mobilenetv2_{code}", partial(mobilenet_v2, scale, paddle=False))
    for code, scale, depth in (("110d", 1.1, 1.2), ("120d", 1.2, 1.4)):
        yield PossibleArch(f"mobilenetv2_{code}", partial(_deep_v2, scale, depth))
    for code, scale in (("_035", 0.35), ("_050", 0.5), ("", 1.0)):
        yield PossibleArch(f"mobilenetv4_conv_small{code}", partial(mobilenet_v4_conv_small, scale))


def _codes(*scales: float) -> Iterator[tuple[str, float]]:
    """Yield ("050", 0.5) and so on."""
    for scale in scales:
        yield f"{round(100 * scale):03d}", scale


def _biased_lcnet(scale: float) -> Arch:
    """Return timm's PP-LCNet: the last 1x1 convolution has a bias."""
    original = pplcnet(scale)
    head = Stage(original.stages[-1].name, (Classifier(1280, "hard_swish", bias=True),))
    return Arch((*original.stages[:-1], head), original.resolution)


def _deep_v2(scale: float, depth: float) -> Arch:
    """Return timm's deeper MobileNetV2: ``depth`` times as many blocks, stem and last width unscaled."""
    original = mobilenet_v2(scale, paddle=False)
    stages = []
    for stage in original.stages:
        blocks = stage.blocks
        if stage.name.startswith("stage") and len(blocks) > 1:
            target = -(-round(100 * depth) * len(blocks) // 100)
            blocks = (*blocks, *(blocks[-1],) * (target - len(blocks)))
        if stage.name in ("stem", "last"):
            width = {"stem": 32, "last": 1280}[stage.name]
            blocks = tuple(
                dataclasses.replace(b, width=width) if isinstance(b, ConvNormAct) else b
                for b in blocks
            )
        stages.append(Stage(stage.name, blocks))
    return Arch(tuple(stages), original.resolution)


def _paddle_lcnet() -> Iterator[PossibleArch]:
    for scale in SCALES:
        yield PossibleArch(f"PPLCNet_{_scale_name(scale)}", partial(zoo.load, f"pplcnet_{scale}x"))


def _paddle_lcnet_v2() -> Iterator[PossibleArch]:
    for size in ("small", "base"):
        yield PossibleArch(f"PPLCNetV2_{size}", partial(zoo.load, f"pplcnet_v2_{size}"))


def _paddle_mobilenet_v3() -> Iterator[PossibleArch]:
    for size, build in (("small", mobilenet_v3_small), ("large", mobilenet_v3_large)):
        for scale in V3_SCALES:
            name = f"MobileNetV3_{size}_{_scale_name(scale)}"
            yield PossibleArch(name, partial(build, scale, paddle=True))


def program_candidates() -> Iterator[PossibleArch]:
    """Yield the networks of PaddleClas's programs, other than PP-LCNet."""
    yield from _paddle_mobilenet_v3()
    for scale in V1_SCALES:
        name = f"MobileNetV1_{_scale_name(scale)}"
        yield PossibleArch(name, partial(zoo.load, f"mobilenet_v1_{scale}x"))
    for scale in V2_SCALES:
        name = f"MobileNetV2_{_scale_name(scale)}"
        yield PossibleArch(name, partial(mobilenet_v2, scale, paddle=True))


def _scale_name(scale: float) -> str:
    """Return a scale in PaddleClas's notation: "x0_25"."""
    return "x" + str(scale).replace(".", "_")


def _torch_v2() -> Iterator[PossibleArch]:
    for scale in (1.0, 1.4, 0.75, 0.5, 0.35, 0.25):
        name = f"mobilenet_v2_{scale}x"
        yield PossibleArch(name, partial(mobilenet_v2, scale, paddle=False))


def _torch_v3() -> Iterator[PossibleArch]:
    for name in ("mobilenet_v3_small_1.0x", "mobilenet_v3_large_1.0x"):
        yield PossibleArch(name, partial(zoo.load, name))


def _torch_shufflenet() -> Iterator[PossibleArch]:
    for scale in ("0.5", "1.0", "1.5", "2.0"):
        yield PossibleArch(f"shufflenet_v2_{scale}x", partial(zoo.load, f"shufflenet_v2_{scale}x"))


def _single(name: str) -> Callable[[], Iterator[PossibleArch]]:
    return lambda: iter((PossibleArch(name, partial(zoo.load, name)),))


def _torch_vgg() -> Iterator[PossibleArch]:
    yield PossibleArch("vgg16", partial(zoo.load, "vgg16"))
    yield PossibleArch("vgg16_bn", _vgg16_bn)


def _vgg16_bn() -> Arch:
    """Return VGG-16 with a batch norm after each convolution."""
    original = zoo.load("vgg16")
    stages = [
        Stage(
            stage.name,
            tuple(
                dataclasses.replace(b, norm=True) if isinstance(b, ConvNormAct) else b
                for b in stage.blocks
            ),
        )
        for stage in original.stages
    ]
    return Arch(tuple(stages), original.resolution)


_CANDIDATES: dict[str, Callable[[], Iterator[PossibleArch]]] = {
    "timm": _timm,
    "PaddleClas's PP-LCNet": _paddle_lcnet,
    "PaddleClas's PP-LCNetV2": _paddle_lcnet_v2,
    "PaddleClas's MobileNetV3": _paddle_mobilenet_v3,
    "torchvision's MobileNetV2": _torch_v2,
    "torchvision's MobileNetV3": _torch_v3,
    "torchvision's EfficientNet": _single("efficientnet_b0"),
    "torchvision's ShuffleNetV2": _torch_shufflenet,
    "torchvision's ResNet": _single("resnet18"),
    "torchvision's VGG": _torch_vgg,
}
