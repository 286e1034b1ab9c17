"""Command line: print a network block by block, what a space may vary, or where two networks differ.

python -m lcnas.show pplcnet_0.5x
python -m lcnas.show pplcnet_tail
python -m lcnas.show --diff pplcnet_0.5x my_network.json
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import Any

from lcnas import blocks, commandline, cost, spaces, terminal, zoo
from lcnas.arch import Arch, Resolution, height_width, labels, walk
from lcnas.blocks import Block
from lcnas.errors import LcnasError, ZooError
from lcnas.layers import format_shape
from lcnas.spaces import Gene, Space

PROG = "lcnas.show"


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if not args.what and not args.diff and not args.list:
        parser.error("name a network or a space, or give --diff A B or --list")
    blocks.load_files(args.blocks)
    size = None if args.resolution is None else commandline.resolution(args.resolution)
    classes = commandline.classes(args.classes)
    wide = terminal.columns()
    parts: list[str] = []
    data: dict[str, Any] = {}
    if args.list:
        parts.append(listing())
        data["spaces"], data["networks"] = spaces.available(), list(zoo.names())
    shown = [find(name, size) for name in args.what]
    parts += [describe(what, size, classes, wide) for what in shown]
    if shown:
        data["shown"] = [to_data(what, size, classes) for what in shown]
    if args.diff:
        for name in args.diff:
            if name in spaces.available():
                raise LcnasError(f"--diff: {name!r} is a space; it compares two networks")
        a, b = (commandline.network(name) for name in args.diff)
        parts.append(difference(a, b, size, classes, wide))
        data["compared"] = [to_data(arch, size, classes) for arch in (a, b)]
    commandline.show_result(args, "\n\n".join(parts), lambda: data)
    return 0


def make_parser() -> commandline.Parser:
    """Return the parser of the command."""
    parser = commandline.Parser(
        PROG,
        "Print a network block by block with shapes, MACs and params; what a space may vary, its rules,\n"
        "size and extremes; or where two networks differ.",
    )
    parser.add_argument(
        "what",
        nargs="*",
        help="networks (zoo names or .json files) and spaces (names or .toml files)",
    )
    parser.add_argument(
        "--diff", nargs=2, metavar=("A", "B"), help="two networks to compare, block by block"
    )
    parser.add_argument("--list", action="store_true", help="names of all networks and spaces")
    parser.add_argument(
        "--resolution",
        metavar="R",
        help="pixels, a side or HEIGHTxWIDTH (default: that of each network or space)",
    )
    parser.add_argument("--classes", metavar="N", default="1000", help="outputs of the last layer")
    commandline.add_blocks_option(parser)
    return parser


def find(name: str, resolution: Resolution | None = None) -> Arch | Space:
    """Return the network or the space of a name or a file."""
    if name.endswith(".toml") or name in spaces.available():
        return spaces.load(name, resolution)
    if name.endswith(".json"):
        return commandline.network(name)
    if Path(name).suffix and Path(name).is_file():
        raise LcnasError(f"{name}: a network is a .json file, a space a .toml file")
    try:
        return zoo.load(name)
    except ZooError as error:
        if "is not among" not in str(error):
            raise
        raise commandline.unknown(name, (*spaces.available(), *zoo.names())) from None


def listing() -> str:
    """Return the names of all networks and spaces."""
    lines = ["spaces"]
    lines += [f"  {name:<18} {spaces.load(name).summary}" for name in spaces.available()]
    lines += ["", "networks (families with scales are built at any scale, e.g. pplcnet_0.62x)"]
    lines += ["  " + ", ".join(family.names()) for family in zoo.families()]
    return "\n".join(lines)


def describe(
    what: Arch | Space,
    resolution: Resolution | None = None,
    classes: int = 1000,
    columns: int | None = None,
) -> str:
    """Return a network or a space as text; with few columns, tables have one line per cell."""
    if isinstance(what, Space):
        return describe_space(what, classes, columns)
    return describe_arch(what if resolution is None else what.at(resolution), classes, columns)


def to_data(
    what: Arch | Space, resolution: Resolution | None = None, classes: int = 1000
) -> dict[str, Any]:
    """Return a network (with its arch, costs and blocks) or a space (with its genes) as JSON data."""
    if isinstance(what, Space):
        return {
            "space": what.name,
            "summary": what.summary,
            "resolutions": list(what.resolutions),
            "genes": [{"name": g.name, "choices": list(g.choices)} for g in what.genes],
            "rules": list(what.rule_texts),
            "size": what.size,
            "placed_blocks": len(what.placed_blocks(classes)),
        }
    arch = what if resolution is None else what.at(resolution)
    costs = cost.per_block(arch, None, classes)
    placed = zip(labels(arch), walk(arch, None, classes), costs, strict=True)
    return {
        "network": arch.name,
        "id": arch.id,
        "classes": classes,
        **dataclasses.asdict(cost.total(arch, None, classes)),
        "blocks": [
            {
                "name": name,
                "type": p.block.type,
                "settings": blocks.settings(p.block),
                "out_shape": list(p.out_shape),
                "params": c.params,
                "macs": c.macs,
            }
            for name, p, c in placed
        ],
        "arch": json.loads(arch.to_json()),
    }


# -- a network -------------------------------------------------------------------------------------


def describe_arch(arch: Arch, classes: int = 1000, columns: int | None = None) -> str:
    """Return a network as a table of its blocks: shapes, params and MACs with their shares."""
    placed = walk(arch, None, classes)
    costs = cost.per_block(arch, None, classes)
    total = cost.total(arch, None, classes)
    head = ("block", "type", "settings", "output", "params", "%", "MACs", "%")
    rows = [head]
    for name, p, c in zip(labels(arch), placed, costs, strict=True):
        rows.append(
            (
                name,
                p.block.type,
                _settings(p.block),
                format_shape(p.out_shape),
                f"{c.params:,}",
                _share(c.params, total.params),
                f"{c.macs:,}",
                _share(c.macs, total.macs),
            )
        )
    rows.append(("total", "", "", "", f"{total.params:,}", "", f"{total.macs:,}", ""))
    size = format_shape(height_width(arch.resolution))
    lines = [f"{arch.name or 'network'}  id {arch.id}  input {size}x3  {classes} classes", ""]
    rules = (1, len(rows) - 1)
    lines += terminal.table(rows, right=(4, 5, 6, 7), rule_before=rules, columns=columns)
    memory = f"{total.peak_memory / 2**20:.2f} MiB (float32, batch 1)"
    lines += [
        "",
        f"activations {total.activations:,} values   peak memory {memory}",
        f"paddle.flops {total.paddle_flops:,}",
    ]
    training = cost.params(arch, classes, training=True)
    if training != total.params:
        lines.append(f"params in training, branches included: {training:,}")
    return "\n".join(lines + _published(arch))


def _published(arch: Arch) -> list[str]:
    try:
        facts = zoo.published(arch.name)
    except ZooError:
        return []
    published = zoo.load(arch.name)
    if facts.top1 is None or published.blocks != arch.blocks:
        return []
    how = "distilled" if facts.distilled else f"{facts.recipe} training"
    source = facts.top1_source or facts.source
    at = format_shape(height_width(published.resolution))
    return [f"published ImageNet top-1 at {at}: {facts.top1} % ({facts.data}, {how}; {source})"]


def _settings(block: Block) -> str:
    parts = []
    for key, value in blocks.settings(block).items():
        if value is True:
            parts.append(key)
        elif isinstance(value, tuple):
            parts.append(f"{key} {','.join(map(str, value))}")
        else:
            parts.append(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}")
    return " ".join(parts)


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "-"


# -- a space ---------------------------------------------------------------------------------------


def describe_space(space: Space, classes: int = 1000, columns: int | None = None) -> str:
    """Return the genes of a space, its rules, its size, and the least and greatest MACs and params."""
    lines = [f"{space.name}  {space.summary}", ""]
    sizes = ", ".join(format_shape(height_width(r)) for r in space.resolutions)
    lines += [f"input {sizes}   {classes} classes", "", f"what may vary ({len(space.genes)} genes)"]
    rows = [(f"  {names}", choices) for names, choices in _grouped(space)]
    lines += terminal.table(rows, columns=columns, head=False) if rows else ["  nothing"]
    if space.block_texts:
        lines += ["", "kinds of block", *(f"  {text}" for text in space.block_texts)]
    lines += ["", "rules"]
    lines += [f"  {text}" for text in space.rule_texts] or ["  none"]
    placed = space.placed_blocks(classes)
    lines += [
        "",
        f"networks  {space.size:,}  ({rough(space.size)})",
        f"distinct placed blocks  {len(placed):,}",
    ]
    for title, figure in (("MACs", "macs"), ("params", "params")):
        values = [getattr(cost.of(p), figure) for p in placed]
        (low, least), (high, most) = space.extremes(values, classes)
        least_of, most_of = (
            f"{low:,} ({len(least.blocks)} blocks)",
            f"{high:,} ({len(most.blocks)} blocks)",
        )
        lines.append(f"{title:<7} least {least_of}   greatest {most_of}")
    return "\n".join(lines)


def rough(number: int) -> str:
    """Return "1.4e+11" for a whole number of any size."""
    if number < 10_000:
        return str(number)
    # Decimal knows no overflow, and rounds 99,999 to 1.0e+5.
    return f"{Decimal(number):.1e}"


def _grouped(space: Space) -> list[tuple[str, str]]:
    """Return (genes, choices); equal genes of a stage's blocks are one line."""
    groups: dict[tuple[str, tuple[object, ...]], list[Gene]] = {}
    for gene in space.genes:
        groups.setdefault((_stem(gene), gene.choices), []).append(gene)
    return [
        (
            genes[0].name if len(genes) == 1 else f"{genes[0].name} .. {genes[-1].name}",
            _choices(genes[0]),
        )
        for genes in groups.values()
    ]


def _stem(gene: Gene) -> str:
    stage, block, rest = gene.name.partition("_block")
    number, _, field = rest.partition("_")
    return f"{stage} {field}" if block and number.isdigit() and field else gene.name


def _choices(gene: Gene) -> str:
    return ", ".join(_choice(c) for c in gene.choices)


def _choice(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# -- two networks ----------------------------------------------------------------------------------


def difference(
    a: Arch,
    b: Arch,
    resolution: Resolution | None = None,
    classes: int = 1000,
    columns: int | None = None,
) -> str:
    """Return the differences of two networks, block by block, and the cost of each."""
    if resolution is not None:
        a, b = a.at(resolution), b.at(resolution)
    if a == b:
        return f"the same network, {a.id}"
    first, second = a.name or a.id[:8], b.name or b.id[:8]
    if first == second:
        first, second = f"{first} ({a.id[:8]})", f"{second} ({b.id[:8]})"
    rows: list[tuple[str, str, str]] = [("", first, second)]
    if a.resolution != b.resolution:
        sizes = [format_shape(height_width(arch.resolution)) for arch in (a, b)]
        rows.append(("resolution", sizes[0], sizes[1]))
    rows += _block_rows(a, b)
    for title, figure in (("params", "params"), ("MACs", "macs")):
        costs = [getattr(cost.total(arch, None, classes), figure) for arch in (a, b)]
        rows.append((title, f"{costs[0]:,}", f"{costs[1]:,}"))
    rules = (1, len(rows) - 2)
    return "\n".join(terminal.table(rows, rule_before=rules, columns=columns))


def _block_rows(a: Arch, b: Arch) -> list[tuple[str, str, str]]:
    rows = []
    stages = {s.name: s.blocks for s in a.stages}
    others = {s.name: s.blocks for s in b.stages}
    for name in [*stages, *(n for n in others if n not in stages)]:
        pairs = itertools.zip_longest(stages.get(name, ()), others.get(name, ()))
        for i, (first, second) in enumerate(pairs, start=1):
            if first != second:
                many = max(len(stages.get(name, ())), len(others.get(name, ()))) > 1
                rows.append((f"{name} block {i}" if many else name, *_contrast(first, second)))
    return rows


def _contrast(first: Block | None, second: Block | None) -> tuple[str, str]:
    if first is None or second is None or type(first) is not type(second):
        return _whole(first), _whole(second)
    names = [f.name for f in fields(first) if getattr(first, f.name) != getattr(second, f.name)]
    return _chosen(first, names), _chosen(second, names)


def _chosen(block: Block, names: Sequence[str]) -> str:
    return " ".join(f"{name} {_choice(getattr(block, name))}" for name in names)


def _whole(block: Block | None) -> str:
    return "-" if block is None else f"{block.type} {_settings(block)}"


if __name__ == "__main__":
    commandline.run(PROG, main)
