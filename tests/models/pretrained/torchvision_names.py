"""torchvision's names and shapes of its networks, by its own numbering of modules.

Written from torchvision's naming scheme, apart from lcnas: nothing here knows an arch. A table is a
list of (name, shape) in torchvision's order, which is that of execution.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# (expansion, width, blocks) of each stage
V2 = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
# (kernel, expanded width, width, SE) of each block
V3_SMALL = (
    (3, 16, 16, 1), (3, 72, 24, 0), (3, 88, 24, 0), (5, 96, 40, 1), (5, 240, 40, 1), (5, 240, 40, 1),
    (5, 120, 48, 1), (5, 144, 48, 1), (5, 288, 96, 1), (5, 576, 96, 1), (5, 576, 96, 1),
)  # fmt: skip
V3_LARGE = (
    (3, 16, 16, 0), (3, 64, 24, 0), (3, 72, 24, 0), (5, 72, 40, 1), (5, 120, 40, 1), (5, 120, 40, 1),
    (3, 240, 80, 0), (3, 200, 80, 0), (3, 184, 80, 0), (3, 184, 80, 0), (3, 480, 112, 1),
    (3, 672, 112, 1), (5, 672, 160, 1), (5, 960, 160, 1), (5, 960, 160, 1),
)  # fmt: skip
# (kernel, expansion, width, blocks) of each stage
B0 = (
    (3, 1, 16, 1), (3, 6, 24, 2), (5, 6, 40, 2), (3, 6, 80, 3), (5, 6, 112, 3), (5, 6, 192, 4),
    (3, 6, 320, 1),
)  # fmt: skip
SHUFFLE = {
    "0.5": (48, 96, 192, 1024),
    "1.0": (116, 232, 464, 1024),
    "1.5": (176, 352, 704, 1024),
    "2.0": (244, 488, 976, 2048),
}
VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # 0: pooling


def eighths(value):
    """Return the value as a multiple of 8, at least 90 % of it."""
    width = max(8, int(value + 4) // 8 * 8)
    return width + 8 if width < 0.9 * value else width


@dataclass
class Table:
    rows: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)

    def conv(self, name, inputs, outputs, kernel, bias=False):
        self.rows.append((f"{name}.weight", (outputs, inputs, kernel, kernel)))
        if bias:
            self.rows.append((f"{name}.bias", (outputs,)))

    def norm(self, name, channels):
        for last in ("weight", "bias", "running_mean", "running_var"):
            self.rows.append((f"{name}.{last}", (channels,)))
        self.rows.append((f"{name}.num_batches_tracked", ()))

    def both(self, conv, norm, inputs, outputs, kernel=1):
        self.conv(conv, inputs, outputs, kernel)
        self.norm(norm, outputs)

    def pair(self, name, inputs, outputs, kernel=1):
        """Write convolution 0 and norm 1 of a sequence."""
        self.both(f"{name}.0", f"{name}.1", inputs, outputs, kernel)

    def linear(self, name, inputs, outputs):
        self.rows += [(f"{name}.weight", (outputs, inputs)), (f"{name}.bias", (outputs,))]

    def squeeze(self, name, channels, hidden):
        self.conv(f"{name}.fc1", channels, hidden, 1, bias=True)
        self.conv(f"{name}.fc2", hidden, channels, 1, bias=True)

    def row(self, name, inputs, expanded, outputs, kernel, hidden):
        """Write a block whose modules are numbered: [expansion], depthwise, [SE], projection."""
        i = 0
        if expanded != inputs:
            self.pair(f"{name}.{i}", inputs, expanded)
            i += 1
        self.pair(f"{name}.{i}", 1, expanded, kernel)
        if hidden:
            self.squeeze(f"{name}.{i + 1}", expanded, hidden)
            i += 1
        self.pair(f"{name}.{i + 1}", expanded, outputs)


def mobilenet_v2(scale=1.0, classes=1000):
    table, channels, at = Table(), eighths(32 * scale), 1
    table.pair("features.0", 3, channels, 3)
    for expansion, base, depth in V2:
        width = eighths(base * scale)
        for _ in range(depth):
            name, hidden, i = f"features.{at}.conv", channels * expansion, 0
            if expansion != 1:
                table.pair(f"{name}.0", channels, hidden)
                i = 1
            table.pair(f"{name}.{i}", 1, hidden, 3)
            table.both(f"{name}.{i + 1}", f"{name}.{i + 2}", hidden, width)
            channels, at = width, at + 1
    last = eighths(1280 * max(1.0, scale))
    table.pair(f"features.{at}", channels, last)
    table.linear("classifier.1", last, classes)
    return table.rows


def mobilenet_v3(blocks, fit, classes=1000):
    table, channels = Table(), 16
    table.pair("features.0", 3, channels, 3)
    for i, (kernel, expanded, width, se) in enumerate(blocks, start=1):
        hidden = eighths(expanded // 4) if se else 0
        table.row(f"features.{i}.block", channels, expanded, width, kernel, hidden)
        channels = width
    table.pair(f"features.{len(blocks) + 1}", channels, 6 * channels)
    table.linear("classifier.0", 6 * channels, fit)
    table.linear("classifier.3", fit, classes)
    return table.rows


def efficientnet_b0(classes=1000):
    table, channels = Table(), 32
    table.pair("features.0", 3, channels, 3)
    for i, (kernel, expansion, width, depth) in enumerate(B0, start=1):
        for j in range(depth):
            name, hidden = f"features.{i}.{j}.block", channels * expansion
            table.row(name, channels, hidden, width, kernel, max(1, channels // 4))
            channels = width
    table.pair("features.8", channels, 1280)
    table.linear("classifier.1", 1280, classes)
    return table.rows


def shufflenet_v2(scale, classes=1000):
    table, channels = Table(), 24
    *widths, last = SHUFFLE[scale]
    table.pair("conv1", 3, channels, 3)
    for i, (width, depth) in enumerate(zip(widths, (4, 8, 4), strict=True), start=2):
        half = width // 2
        for j in range(depth):
            name, inputs = f"stage{i}.{j}", half
            if j == 0:
                inputs = channels
                table.both(f"{name}.branch1.0", f"{name}.branch1.1", 1, channels, 3)
                table.both(f"{name}.branch1.2", f"{name}.branch1.3", channels, half)
            table.both(f"{name}.branch2.0", f"{name}.branch2.1", inputs, half)
            table.both(f"{name}.branch2.3", f"{name}.branch2.4", 1, half, 3)
            table.both(f"{name}.branch2.5", f"{name}.branch2.6", half, half)
        channels = width
    table.pair("conv5", channels, last)
    table.linear("fc", last, classes)
    return table.rows


def resnet(depths=(2, 2, 2, 2), classes=1000, width=64):
    table, channels = Table(), width
    table.both("conv1", "bn1", 3, width, 7)
    for i, depth in enumerate(depths):
        outputs = width << i
        for j in range(depth):
            name = f"layer{i + 1}.{j}"
            table.both(f"{name}.conv1", f"{name}.bn1", channels, outputs, 3)
            table.both(f"{name}.conv2", f"{name}.bn2", outputs, outputs, 3)
            if channels != outputs:
                table.pair(f"{name}.downsample", channels, outputs)
            channels = outputs
    table.linear("fc", channels, classes)
    return table.rows


def vgg(widths=VGG16, norm=False, classes=1000, side=7, hidden=4096):
    table, channels, at = Table(), 3, 0
    for width in widths:
        if width:
            table.conv(f"features.{at}", channels, width, 3, bias=True)
            if norm:
                table.norm(f"features.{at + 1}", width)
            channels = width
        at += (3 if norm else 2) if width else 1
    table.linear("classifier.0", channels * side * side, hidden)
    table.linear("classifier.3", hidden, hidden)
    table.linear("classifier.6", hidden, classes)
    return table.rows
