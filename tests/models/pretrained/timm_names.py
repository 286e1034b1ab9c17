"""timm's names and shapes of its networks, from the strings by which timm describes them.

Written from timm's naming scheme, apart from lcnas: nothing here knows an arch. A table is a list of
(name, shape) in the order of execution, which is timm's order too.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

LCNET = (
    ("dsa_r1_k3_c32",),
    ("dsa_r2_k3_c64",),
    ("dsa_r2_k3_c128",),
    ("dsa_r1_k3_c256", "dsa_r1_k5_c256"),
    ("dsa_r4_k5_c256",),
    ("dsa_r2_k5_c512_se",),
)
V3_SMALL = (
    ("ds_r1_k3_c16_se",),
    ("ir_r1_k3_e4.5_c24", "ir_r1_k3_e3.67_c24"),
    ("ir_r1_k5_e4_c40_se", "ir_r2_k5_e6_c40_se"),
    ("ir_r2_k5_e3_c48_se",),
    ("ir_r3_k5_e6_c96_se",),
    ("cn_r1_k1_c576",),
)
V3_LARGE = (
    ("ds_r1_k3_c16",),
    ("ir_r1_k3_e4_c24", "ir_r1_k3_e3_c24"),
    ("ir_r3_k5_e3_c40_se",),
    ("ir_r1_k3_e6_c80", "ir_r1_k3_e2.5_c80", "ir_r2_k3_e2.3_c80"),
    ("ir_r2_k3_e6_c112_se",),
    ("ir_r3_k5_e6_c160_se",),
    ("cn_r1_k1_c960",),
)
V2 = (
    ("ds_r1_k3_c16",),
    ("ir_r2_k3_e6_c24",),
    ("ir_r3_k3_e6_c32",),
    ("ir_r4_k3_e6_c64",),
    ("ir_r3_k3_e6_c96",),
    ("ir_r3_k3_e6_c160",),
    ("ir_r1_k3_e6_c320",),
)
V4_SMALL = (
    ("cn_r1_k3_c32", "cn_r1_k1_c32"),
    ("cn_r1_k3_c96", "cn_r1_k1_c64"),
    ("uir_r1_a5_k5_e3_c96", "uir_r4_a0_k3_e2_c96", "uir_r1_a3_k0_e4_c96"),
    (
        "uir_r1_a3_k3_e6_c128",
        "uir_r1_a5_k5_e4_c128",
        "uir_r1_a0_k5_e4_c128",
        "uir_r1_a0_k5_e3_c128",
        "uir_r2_a0_k3_e4_c128",
    ),
    ("cn_r1_k1_c960",),
)


def rounded(channels, scale=1.0):
    """timm's round_channels."""
    value = channels * scale
    width = max(8, int(value + 4) // 8 * 8)
    return width + 8 if width < 0.9 * value else width


@dataclass
class Table:
    """Collects names and shapes; kernels are (out, in / groups, height, width)."""

    scale: float
    rows: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)

    def conv(self, name, inputs, outputs, kernel=1, groups=1, bias=False):
        self.rows.append((f"{name}.weight", (outputs, inputs // groups, kernel, kernel)))
        if bias:
            self.rows.append((f"{name}.bias", (outputs,)))

    def norm(self, name, channels):
        for last in ("weight", "bias", "running_mean", "running_var"):
            self.rows.append((f"{name}.{last}", (channels,)))
        self.rows.append((f"{name}.num_batches_tracked", ()))

    def squeeze(self, name, channels, eighths):
        hidden = rounded(channels * 0.25) if eighths else round(channels * 0.25)
        self.conv(f"{name}.conv_reduce", channels, hidden, bias=True)
        self.conv(f"{name}.conv_expand", hidden, channels, bias=True)

    def depthwise(self, name, norm, channels, kernel):
        self.conv(name, channels, channels, kernel, channels)
        self.norm(norm, channels)

    def pointwise(self, name, norm, inputs, outputs):
        self.conv(name, inputs, outputs)
        self.norm(norm, outputs)

    def block(self, name, kind, options, inputs, eighths):
        """Add a block and return its output channels."""
        outputs = rounded(int(options["c"]), self.scale)
        kernel = int(options["k"])
        expanded = rounded(inputs * float(options.get("e", 1)))
        if kind == "cn":
            self.conv(f"{name}.conv", inputs, outputs, kernel)
            self.norm(f"{name}.bn1", outputs)
        elif kind == "uir":
            self.universal(name, options, inputs, expanded, outputs)
        elif kind == "ir":
            self.pointwise(f"{name}.conv_pw", f"{name}.bn1", inputs, expanded)
            self.depthwise(f"{name}.conv_dw", f"{name}.bn2", expanded, kernel)
            if "se" in options:
                self.squeeze(f"{name}.se", expanded, eighths)
            self.pointwise(f"{name}.conv_pwl", f"{name}.bn3", expanded, outputs)
        else:
            self.depthwise(f"{name}.conv_dw", f"{name}.bn1", inputs, kernel)
            if "se" in options:
                self.squeeze(f"{name}.se", inputs, eighths)
            self.pointwise(f"{name}.conv_pw", f"{name}.bn2", inputs, outputs)
        return outputs

    def universal(self, name, options, inputs, expanded, outputs):
        if int(options["a"]):
            self.depthwise(
                f"{name}.dw_start.conv", f"{name}.dw_start.bn", inputs, int(options["a"])
            )
        self.pointwise(f"{name}.pw_exp.conv", f"{name}.pw_exp.bn", inputs, expanded)
        if int(options["k"]):
            self.depthwise(f"{name}.dw_mid.conv", f"{name}.dw_mid.bn", expanded, int(options["k"]))
        self.pointwise(f"{name}.pw_proj.conv", f"{name}.pw_proj.bn", expanded, outputs)


def options_of(text):
    """Return ("ir", {"r": "2", "e": "4.5", ...}) of "ir_r2_e4.5"."""
    kind, *rest = text.split("_")
    return kind, dict(re.findall("^([a-z]+)(.*)$", item)[0] for item in rest)


def table(
    stages, scale=1.0, classes=1000, *, head, depth=1.0, fix=False, stem=16, eighths=False, fit=1280
):
    """Return (name, shape) of a network.

    Args:
        stages: timm's strings.
        scale: channel multiplier.
        classes: of the classifier.
        head: "bias" (MobileNetV3, LCNet), "norm" (MobileNetV4) or "conv" (MobileNetV2).
        depth: multiplier of the blocks of a stage, not of the first and the last.
        fix: the stem (and MobileNetV2's last width) does not scale.
        stem: channels of the stem.
        eighths: squeeze-and-excite is rounded to multiples of 8.
        fit: channels before the classifier.
    """
    names = Table(scale)
    channels = stem if fix else rounded(stem, scale)
    names.conv("conv_stem", 3, channels, 3)
    names.norm("bn1", channels)
    for i, texts in enumerate(stages):
        j = 0
        for text in texts:
            kind, options = options_of(text)
            ends = i in (0, len(stages) - 1)
            for _ in range(math.ceil(int(options["r"]) * (1.0 if ends else depth))):
                channels = names.block(f"blocks.{i}.{j}", kind, options, channels, eighths)
                j += 1
    if head == "conv":
        fit = fit if fix else max(fit, rounded(fit, scale))
        names.conv("conv_head", channels, fit)
        names.norm("bn2", fit)
    else:
        names.conv("conv_head", channels, fit, bias=head == "bias")
        if head == "norm":
            names.norm("norm_head", fit)
    return [*names.rows, ("classifier.weight", (classes, fit)), ("classifier.bias", (classes,))]


def lcnet(scale, classes=1000):
    return table(LCNET, scale, classes, head="bias")


def mobilenetv3_small(scale, classes=1000):
    fix = scale < 0.75
    return table(V3_SMALL, scale, classes, head="bias", fix=fix, eighths=True, fit=1024)


def mobilenetv3_large(scale, classes=1000):
    return table(V3_LARGE, scale, classes, head="bias", fix=scale < 0.75, eighths=True)


def mobilenetv2(scale, classes=1000, depth=1.0, fix=False):
    return table(V2, scale, classes, head="conv", depth=depth, fix=fix, stem=32)


def mobilenetv4_conv_small(scale, classes=1000):
    return table(V4_SMALL, scale, classes, head="norm", fix=scale < 1, stem=32)
