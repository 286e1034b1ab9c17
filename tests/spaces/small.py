"""Small spaces that can be listed whole, one for each way in which codes and networks differ."""

from __future__ import annotations

# Depths, per-block genes, and limits by place.
PER_BLOCK = """
version = 1
resolution = [32]

[stem]
block = "conv"
width = { choices = [8, 16] }
stride = 2

[[stages]]
block = "depthwise_separable"
depth = { from = 1, to = 3 }
stride = 2
width = 16
kernel = { choices = [3, 5], per = "block" }
se = { choices = [false, true], per = "block" }

[[stages]]
block = "depthwise_separable"
depth = { from = 1, to = 2 }
stride = 2
width = { choices = [16, 24, 32] }
kernel = { choices = [3, 5], per = "block" }
se = { choices = [false, true], per = "block" }

[head]
block = "classifier"
width = { choices = [0, 64] }

[[rules]]
name = "se_late"
limit = "se"
to = [false]
except = ["stage2"]

[[rules]]
name = "large_kernels_behind"
limit = "kernel"
to = [3]
in = ["stage1.first"]
"""
# 2 stems x stage 1 (1 + 2 + 4) x 3 widths x (4 + 16) x 2 heads
PER_BLOCK_SIZE = 2 * 7 * 3 * 20 * 2

# Kinds of block that are one at depth 1, a gene that one kind does not have, a stem of two strides.
KINDS = """
version = 1
resolution = [32]

[blocks.plain]
type = "depthwise_separable"

[blocks.shortcut]
type = "depthwise_separable"
rest = { shortcut = true }

[blocks.pointwise]
type = "conv"
kernel = 1

[stem]
block = "conv_stem"
width = { choices = [8, 16] }
convs = { choices = [1, 2] }

[[stages]]
block = { choices = ["plain", "shortcut", "pointwise"] }
depth = { from = 1, to = 3 }
total_stride = 4
width = { choices = [8, 16] }
kernel = { choices = [3, 5] }
act = { choices = ["relu", "hard_swish"] }

[[stages]]
block = { choices = ["shortcut", "plain"] }
depth = { from = 1, to = 2 }
total_stride = 8
width = 24
kernel = { choices = [3, 5] }
act = "relu"

[head]
block = "classifier"
width = 0
"""
# 4 stems x stage 1 (2 widths x 2 acts x (2 + 1 at depth 1, 2 x 2 + 1 at depths 2 and 3)) x stage 2 (2 + 4)
KINDS_SIZE = 4 * (2 * 2 * (3 + 5 + 5)) * (2 + 4)

# Network-wide genes, patterns, several resolutions, and a rule over neighbours.
NETWORK_WIDE = """
version = 1
resolution = [32, [32, 64]]

[network.act]
choices = ["relu", "hard_swish"]

[network.scale]
choices = [0.5, 1.0, 1.5]

[network.se]
patterns = { none = "000", last = "001", all = "111" }
values = { 0 = false, 1 = true }

[stem]
block = "conv"
width = { gene = "scale", base = 16 }
stride = 2
act = { gene = "act" }

[[stages]]
block = "depthwise_separable"
depth = 1
stride = [2, 1]
width = { choices = [8, 16, 32] }
act = { gene = "act" }
se = { gene = "se" }

[[stages]]
block = "depthwise_separable"
depth = 2
stride = 2
width = { choices = [8, 16, 24] }
act = { gene = "act" }
se = { gene = "se" }

[head]
block = "classifier"
width = { choices = [0, 32] }
act = { gene = "act" }

[[rules]]
name = "widths_grow"
non_decreasing = "width"
"""
# stem 8, 16, 24; pairs (w1, w2) with stem <= w1 <= w2: 8: (8: 3) + (16: 2) + (32: 0) = 5; 16: 2; 24: 0
NETWORK_WIDE_SIZE = 2 * 2 * 3 * (5 + 2 + 0) * 2

SMALL = {
    "per_block": (PER_BLOCK, PER_BLOCK_SIZE),
    "kinds": (KINDS, KINDS_SIZE),
    "network_wide": (NETWORK_WIDE, NETWORK_WIDE_SIZE),
}
