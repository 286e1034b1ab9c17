"""Writes docs/reference/zoo.md, the table of every network of the zoo; with --check only compares.

Exit code: 1 where --check finds docs/reference/zoo.md out of date.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from lcnas import cost, zoo
from lcnas.arch import Arch, height_width
from lcnas.zoo import Published

PATH = Path(__file__).resolve().parent.parent / "docs" / "reference" / "zoo.md"

HEADER = """\
# The zoo

<!-- Made by scripts/make_zoo_docs.py from lcnas/zoo; do not edit. -->

Every published network that `lcnas.zoo.load(name)` knows. Families with a width scale can be built
at any other scale too, such as `pplcnet_0.62x`.

- **params**: all that is trained, batch norm's scale and shift included, with 1,000 classes.
- **MACs**: multiply-accumulates of convolutions and linear layers, squeeze-and-excite's included,
  for one image of the given side.
- **published**: the figure as it was printed. Where ours, rounded to its digits, is another one, it
  is ~~struck out~~; the [references](#references) say what the network follows instead.
- **top-1**: ImageNet-1k validation accuracy in %, as published. The source says how it was trained
  where that is not the paper's own recipe on ImageNet-1k.
"""

REFERENCES = """\
## References

Well-known implementations that the networks agree with: params exactly, MACs within 1 %. Where a
figure above is struck out, or none was published, this is what the network follows.
"""

PADDLE = """\
## FLOPs as PaddlePaddle counts them

The "FLOPs" of PP-LCNet's paper and of PaddleClas are those of `paddle.flops`, which counts biases,
normalisation and average pooling too: `lcnas.cost.paddle_flops`.
"""


def table(head: str, rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table; columns whose name ends with ":" are aligned to the right."""
    names = head.split(" | ")
    lines = [
        "| " + " | ".join(name.rstrip(":") for name in names) + " |",
        "|" + "|".join(" ---: " if name.endswith(":") else " --- " for name in names) + "|",
    ]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def printed(count: int, figure: str) -> str:
    """Return a printed figure, struck out where ``count`` does not round to it."""
    return figure if not figure or zoo.agrees(count, figure) else f"~~{figure}~~"


def origin(published: Published) -> str:
    """Return where the figures are from, and how the network was trained if not as in its paper."""
    parts = [published.source]
    if published.top1_source:
        parts.append(f"top-1: {published.top1_source}")
    usual = Published()
    if published.recipe != usual.recipe:
        parts.append(f"recipe: {published.recipe}")
    if published.data != usual.data:
        parts.append(f"data: {published.data}")
    if published.distilled:
        parts.append("distilled")
    return "; ".join(part for part in parts if part)


def side(arch: Arch) -> str:
    """Return the deployment resolution, "224" or "192x320"."""
    height, width = height_width(arch.resolution)
    return str(height) if height == width else f"{height}x{width}"


def network_row(name: str, published: Published) -> list[str]:
    """Return the row of one network in the first table."""
    arch = zoo.load(name)
    total = cost.total(arch)
    return [
        f"`{name}`",
        side(arch),
        f"{total.params:,}",
        printed(total.params, published.params),
        f"{total.macs:,}",
        printed(total.macs, published.macs),
        "" if published.top1 is None else f"{published.top1:.2f}".rstrip("0").rstrip("."),
        origin(published),
    ]


def reference_row(name: str, published: Published) -> list[str]:
    """Return the row of one network in the table of references."""
    reference = published.reference
    assert reference is not None
    return [
        f"`{name}`",
        reference.name,
        f"{reference.params:,}" + (" (in training)" if reference.training else ""),
        "" if reference.macs is None else f"{reference.macs:,}",
        reference.note,
    ]


def paddle_row(name: str, published: Published) -> list[str]:
    """Return the row of one network in the table of FLOPs."""
    count = cost.paddle_flops(zoo.load(name))
    return [f"`{name}`", f"{count:,}", printed(count, published.paddle_flops)]


def members() -> list[tuple[str, Published]]:
    """Return every named network with what was published of it (or nothing)."""
    members_ = []
    for family in zoo.families():
        for name, scale in zip(family.names(), family.scales or (1.0,), strict=True):
            members_.append((name, family.published.get(scale, Published())))
    return members_


def render() -> str:
    """Return the text of docs/reference/zoo.md."""
    networks = members()
    head = "network | px: | params: | published: | MACs: | published: | top-1: | source"
    return "\n".join(
        [
            HEADER,
            table(head, (network_row(*member) for member in networks)),
            REFERENCES,
            table(
                "network | implementation | params: | MACs: | note",
                (reference_row(*member) for member in networks if member[1].reference),
            ),
            PADDLE,
            table(
                "network | paddle.flops: | published:",
                (paddle_row(*member) for member in networks if member[1].paddle_flops),
            ),
        ]
    )


def is_current() -> bool:
    """Return whether docs/reference/zoo.md is what :func:`render` gives."""
    return PATH.is_file() and PATH.read_text(encoding="utf-8") == render()


def main(arguments: list[str] | None = None) -> int:
    """Write docs/reference/zoo.md, or compare it; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if out of date")
    if parser.parse_args(arguments).check:
        if not is_current():
            print(
                "docs/reference/zoo.md is out of date: run scripts/make_zoo_docs.py",
                file=sys.stderr,
            )
            return 1
        return 0
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(render(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
