"""PaddleClas's names and shapes of its networks, from its tables of blocks; nothing here knows an arch.

A table is a list of (name, shape) in the order of execution.
"""

from __future__ import annotations

# kernel, channels in, channels out, stride, squeeze-and-excite, at scale 1.
LCNET = (
    ((3, 16, 32, 1, False),),
    ((3, 32, 64, 2, False), (3, 64, 64, 1, False)),
    ((3, 64, 128, 2, False), (3, 128, 128, 1, False)),
    ((3, 128, 256, 2, False), *((5, 256, 256, 1, False),) * 5),
    ((5, 256, 512, 2, True), (5, 512, 512, 1, True)),
)
# kernel, expanded, out, squeeze-and-excite
V3_SMALL = (
    (3, 16, 16, True),
    (3, 72, 24, False),
    (3, 88, 24, False),
    (5, 96, 40, True),
    (5, 240, 40, True),
    (5, 240, 40, True),
    (5, 120, 48, True),
    (5, 144, 48, True),
    (5, 288, 96, True),
    (5, 576, 96, True),
    (5, 576, 96, True),
)
# channels in, kernel, split pointwise and squeeze-and-excite, branches
V2 = ((64, 3, False, False), (128, 3, False, False), (256, 5, True, True), (512, 5, False, True))


def rounded(value):
    width = max(8, int(value + 4) // 8 * 8)
    return width + 8 if width < 0.9 * value else width


def conv_bn(name, inputs, outputs, kernel=1, groups=1):
    yield f"{name}.conv.weight", (outputs, inputs // groups, kernel, kernel)
    for last in ("weight", "bias", "_mean", "_variance"):
        yield f"{name}.bn.{last}", (outputs,)


def squeeze(name, channels):
    hidden = channels // 4
    yield f"{name}.conv1.weight", (hidden, channels, 1, 1)
    yield f"{name}.conv1.bias", (hidden,)
    yield f"{name}.conv2.weight", (channels, hidden, 1, 1)
    yield f"{name}.conv2.bias", (channels,)


def head(channels, classes, width=1280):
    yield "last_conv.weight", (width, channels, 1, 1)
    yield "fc.weight", (width, classes)
    yield "fc.bias", (classes,)


def lcnet(scale, classes=1000):
    rows = [*conv_bn("conv1", 3, rounded(16 * scale), 3)]
    for i, stage in enumerate(LCNET, start=2):
        for j, (kernel, inputs, outputs, _, se) in enumerate(stage):
            name, c, d = f"blocks{i}.{j}", rounded(inputs * scale), rounded(outputs * scale)
            rows += conv_bn(f"{name}.dw_conv", c, c, kernel, c)
            rows += squeeze(f"{name}.se", c) if se else ()
            rows += conv_bn(f"{name}.pw_conv", c, d)
    return [*rows, *head(d, classes)]


def mobilenet_v3_small(scale, classes=1000):
    channels = rounded(16 * scale)
    rows = [*conv_bn("conv", 3, channels, 3)]
    for i, (kernel, expanded, outputs, se) in enumerate(V3_SMALL):
        name, c = f"blocks.{i}", rounded(expanded * scale)
        rows += conv_bn(f"{name}.expand_conv", channels, c)
        rows += conv_bn(f"{name}.bottleneck_conv", c, c, kernel, c)
        rows += squeeze(f"{name}.mid_se", c) if se else ()
        channels = rounded(outputs * scale)
        rows += conv_bn(f"{name}.linear_conv", c, channels)
    last = rounded(576 * scale)
    return [*rows, *conv_bn("last_second_conv", channels, last), *head(last, classes)]


def lcnet_v2(scale, depths, classes=1000):
    """PP-LCNetV2 in training; the merged convolutions that it keeps too are left out."""
    stem = rounded(32 * scale)
    rows = [*conv_bn("stem.0", 3, stem, 3), *conv_bn("stem.1.dw_conv", stem, stem, 3, stem)]
    rows += conv_bn("stem.1.pw_conv", stem, rounded(64 * scale))
    for i, ((width, kernel, split, branched), depth) in enumerate(
        zip(V2, depths, strict=True), start=1
    ):
        for j in range(depth):
            name, d = f"stage{i}.{j}", rounded(2 * width * scale)
            c = rounded(width * scale) if j == 0 else d
            if branched:
                kernels = [k for k in range(kernel, 0, -2) if k > 1 or j]
                for n, k in enumerate(kernels):
                    rows += conv_bn(f"{name}.dw_conv_list.{n}", c, c, k, c)
            else:
                rows += conv_bn(f"{name}.dw_conv", c, c, kernel, c)
            if split:
                rows += squeeze(f"{name}.se", c)
                rows += conv_bn(f"{name}.pw_conv_1", c, d // 2)
                rows += conv_bn(f"{name}.pw_conv_2", d // 2, d)
            else:
                rows += conv_bn(f"{name}.pw_conv", c, d)
    return [*rows, *head(d, classes)]
