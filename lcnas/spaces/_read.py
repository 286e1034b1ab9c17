"""Reading and checking a space file: genes, stages, rules. See docs/reference/spaces.md for the format."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from lcnas import blocks as vocabulary
from lcnas.arch import Resolution, check_resolution
from lcnas.blocks import Block
from lcnas.errors import ArchError, SpaceError, listing, not_among, shorten
from lcnas.spaces._fields import FieldReader
from lcnas.spaces._spec import (
    Choice,
    Const,
    Element,
    FromNetwork,
    Limit,
    NetworkGene,
    NonDecreasing,
    Param,
    Rule,
    SpaceSpec,
    Template,
    Value,
    refs,
)

VERSION = 1
MAX_DEPTH = 64  # blocks of one stage
MAX_STAGES = 64


def read(path: Path) -> SpaceSpec:
    """Return the space of a TOML file.

    Raises:
        SpaceError: one line with the file, the key, the value and the allowed ones.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")  # editors may put a mark first
    except OSError as error:
        raise SpaceError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SpaceError(f"{path}: is not UTF-8 text") from None
    return parse(text, path.stem, path.name)


def parse(text: str, name: str, source: str) -> SpaceSpec:
    """Return the space of TOML text; errors name ``source``."""
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SpaceError(f"{source}: not TOML: {shorten(str(error))}") from None
    except ValueError as error:  # an integer of too many digits, a date that does not exist
        raise SpaceError(f"{source}: not TOML: {shorten(str(error))}") from None
    try:
        return _Reader(source).spec(data, name)
    except RecursionError:
        raise SpaceError(f"{source}: tables are nested too deeply") from None


_TOP = ("version", "summary", "resolution", "network", "blocks", "stem", "stages", "head", "rules")
_ELEMENT = ("name", "block", "depth", "stride", "total_stride")


class _Reader(FieldReader):
    """Converts parsed TOML to a :class:`SpaceSpec`; errors name the file."""

    # -- the parts of the file --

    def spec(self, data: dict[str, Any], name: str) -> SpaceSpec:
        version = data.get("version", VERSION)  # first: another version may have other keys
        if version != VERSION or not isinstance(version, int) or isinstance(version, bool):
            raise self.fail(
                "version", f"{shorten(version)} is not {VERSION}, the format this lcnas reads"
            )
        self.keys(data, "file", _TOP, ("version", "resolution", "stem", "stages", "head"))
        summary = data.get("summary", "")
        if not isinstance(summary, str):
            raise self.fail("summary", f"{shorten(summary)} is not a text")
        templates = self.templates(data.get("blocks", {}))
        network = self.network(data.get("network", {}))
        elements = self.elements(data, templates, network)
        self.templates_used(templates, elements)
        return SpaceSpec(
            name=name,
            source=self.source,
            summary=summary,
            resolutions=self.resolutions(data["resolution"]),
            network=self.used(network, elements),
            elements=elements,
            rules=self.rules(data.get("rules", []), elements),
        )

    def resolutions(self, value: object) -> tuple[Resolution, ...]:
        seen: list[Resolution] = []
        for item in self.listed(value, "resolution", "a list, such as [224]"):
            try:
                resolution = check_resolution(item, f"{self.source}: resolution")
            except ArchError as error:
                raise SpaceError(str(error)) from None
            if resolution in seen:
                raise self.fail("resolution", f"{shorten(item)} is listed twice")
            seen.append(resolution)
        return tuple(seen)

    def templates(self, data: object) -> dict[str, Template]:
        templates = {}
        for name, item in self.table(data, "blocks").items():
            where = f"blocks.{name}"
            if name in vocabulary.types():
                raise self.fail(where, f"the name is taken: {name!r} is a block of the vocabulary")
            table = dict(self.table(item, where))
            if "type" not in table:
                raise self.fail(
                    where, f"key 'type' is missing, one of {listing(vocabulary.types())}"
                )
            cls = self.block_class(table.pop("type"), f"{where}.type")
            parts = [self.table(table.pop(key, {}), f"{where}.{key}") for key in ("first", "rest")]
            templates[name] = Template(
                name,
                cls,
                self.template_fields(table, cls, where),
                self.template_fields(parts[0], cls, f"{where}.first"),
                self.template_fields(parts[1], cls, f"{where}.rest"),
            )
        return templates

    def block_class(self, name: object, where: str) -> type[Block]:
        if not isinstance(name, str) or name not in vocabulary.types():
            raise SpaceError(f"{self.source}: {not_among(where, name, vocabulary.types())}")
        return vocabulary.find(name)

    def template_fields(
        self, table: dict[str, Any], cls: type[Block], where: str
    ) -> tuple[tuple[str, Value], ...]:
        allowed = tuple(name for name in vocabulary.field_names(cls) if name != "stride")
        extra = () if where.endswith((".first", ".rest")) else ("type", "first", "rest")
        self.keys(table, where, (*extra, *allowed))
        return tuple((key, self.value(value, f"{where}.{key}")) for key, value in table.items())

    def network(self, data: object) -> dict[str, NetworkGene]:
        return {
            name: self.network_gene(name, self.table(item, f"network.{name}"))
            for name, item in self.table(data, "network").items()
        }

    def network_gene(self, name: str, table: dict[str, Any]) -> NetworkGene:
        where = f"network.{name}"
        if not name.isidentifier() or name == "resolution":
            raise self.fail(
                "network",
                f"{shorten(name)} cannot name a gene (letters, digits, underscores)",
            )
        self.keys(table, where, ("choices", "patterns", "values"))
        if ("choices" in table) == ("patterns" in table):
            raise self.fail(where, "needs either choices or patterns (with values)")
        if "choices" in table:
            self.keys(table, where, ("choices",))
            return NetworkGene(name, self.values(table["choices"], f"{where}.choices"))
        self.keys(table, where, ("patterns", "values"), ("values",))
        values = {
            self.letter(key, f"{where}.values"): self.value(item, f"{where}.values.{key}")
            for key, item in self.table(table["values"], f"{where}.values").items()
        }
        by_name: dict[str, tuple[Value, ...]] = {}
        patterns = self.table(table["patterns"], f"{where}.patterns")
        if not patterns:
            raise self.fail(f"{where}.patterns", "is empty; it needs at least one pattern")
        for key, item in patterns.items():
            pattern = self.pattern(item, values, f"{where}.patterns.{key}")
            for other, earlier in by_name.items():
                if pattern == earlier:
                    raise self.fail(f"{where}.patterns.{key}", f"is the same pattern as {other!r}")
            by_name[key] = pattern
        return NetworkGene(name, tuple(by_name), tuple(by_name.values()))

    def letter(self, key: str, where: str) -> str:
        if len(key) != 1:
            raise self.fail(where, f"{shorten(key)} is not one letter or digit")
        return key

    def pattern(self, item: object, values: dict[str, Value], where: str) -> tuple[Value, ...]:
        for letter in self.text(item, where):
            if letter not in values:
                raise SpaceError(f"{self.source}: {not_among(where, letter, values)}")
        return tuple(values[letter] for letter in self.text(item, where))

    def templates_used(self, templates: dict[str, Template], elements: tuple[Element, ...]) -> None:
        used = {template.name for element in elements for template in element.templates}
        for name in templates:
            if name not in used:
                raise self.fail(
                    f"blocks.{name}", "is the block of no stage; use it or leave it out"
                )

    def used(
        self, network: dict[str, NetworkGene], elements: tuple[Element, ...]
    ) -> tuple[NetworkGene, ...]:
        refs = {p.gene for e in elements for _, p in e.params if isinstance(p, FromNetwork)}
        for name in network:
            if name not in refs:
                raise self.fail(
                    f"network.{name}", "is used by no block; write { gene = ... } where it acts"
                )
        return tuple(network.values())

    def elements(
        self,
        data: dict[str, Any],
        templates: dict[str, Template],
        network: dict[str, NetworkGene],
    ) -> tuple[Element, ...]:
        stages = self.listed(data["stages"], "stages", "a list of tables, [[stages]]")
        if len(stages) > MAX_STAGES:
            raise self.fail("stages", f"{len(stages)} stages are more than {MAX_STAGES}")
        parts = [("stem", "stem", data["stem"])]
        parts += [(f"stage{i}", f"stages[{i}]", item) for i, item in enumerate(stages, start=1)]
        parts.append(("head", "head", data["head"]))
        elements = tuple(
            self.element(name, where, self.table(item, where), templates, network)
            for name, where, item in parts
        )
        names = [element.name for element in elements]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise self.fail(elements[i].where, f"name {name!r} is used twice")
        self.check_patterns(network, elements)
        return elements

    def element(
        self,
        name: str,
        where: str,
        table: dict[str, Any],
        templates: dict[str, Template],
        network: dict[str, NetworkGene],
    ) -> Element:
        stage = where.startswith("stages")
        if not stage:
            for key in ("name", "depth"):
                if key in table:
                    raise self.fail(where, f"key {key!r} is for stages only")
        if "block" not in table:
            raise self.fail(where, "key 'block' is missing")
        used = self.block_choices(table["block"], f"{where}.block", templates)
        name = self.text(table["name"], f"{where}.name") if "name" in table else name
        if not name.isidentifier():
            raise self.fail(
                f"{where}.name", f"{shorten(name)} is not letters, digits and underscores"
            )
        if "stride" in table and "total_stride" in table:
            raise self.fail(where, "has both stride and total_stride; give one")
        if stage and "stride" not in table and "total_stride" not in table:
            raise self.fail(where, "key 'stride' (or 'total_stride') is missing")
        return Element(
            name=name,
            where=where,
            depths=self.depths(table["depth"], f"{where}.depth") if "depth" in table else (1,),
            templates=used,
            stride=self.stride(table["stride"], f"{where}.stride") if "stride" in table else None,
            total_stride=self.total(table, where),
            params=self.params(table, where, used, network),
        )

    def block_choices(
        self, value: object, where: str, templates: dict[str, Template]
    ) -> tuple[Template, ...]:
        names: tuple[Value, ...] = (value,)
        if isinstance(value, dict):
            self.keys(value, where, ("choices",), ("choices",))
            names = self.values(value["choices"], f"{where}.choices")
        templates_of_names = []
        for name in names:
            if not isinstance(name, str) or (
                name not in templates and name not in vocabulary.types()
            ):
                allowed = (*templates, *vocabulary.types())
                raise SpaceError(f"{self.source}: {not_among(where, name, allowed)}")
            templates_of_names.append(templates.get(name) or Template(name, vocabulary.find(name)))
        return tuple(templates_of_names)

    def depths(self, value: object, where: str) -> tuple[int, ...]:
        if not isinstance(value, dict):
            return (self.whole(value, where, 1, MAX_DEPTH),)
        if "choices" in value:
            self.keys(value, where, ("choices",))
            depths = self.values(value["choices"], f"{where}.choices")
            return tuple(self.whole(v, f"{where}.choices", 1, MAX_DEPTH) for v in depths)
        self.keys(value, where, ("from", "to", "choices"), ("from", "to"))
        low = self.whole(value["from"], f"{where}.from", 1, MAX_DEPTH)
        high = self.whole(value["to"], f"{where}.to", 1, MAX_DEPTH)
        if low > high:
            raise self.fail(
                where, f"from {low} to {high} is reversed; did you mean from {high} to {low}?"
            )
        return tuple(range(low, high + 1))

    def stride(self, value: object, where: str) -> Value:
        sides = value if isinstance(value, list) else [value]
        if not 1 <= len(sides) <= 2:
            raise self.fail(
                where, f"{shorten(value)} is neither a number nor [vertical, horizontal]"
            )
        strides = tuple(self.whole(v, where, 1, 64) for v in sides)
        return strides[0] if len(set(strides)) == 1 else strides

    def total(self, table: dict[str, Any], where: str) -> tuple[int, int] | None:
        if "total_stride" not in table:
            return None
        stride = self.stride(table["total_stride"], f"{where}.total_stride")
        return stride if isinstance(stride, tuple) else (stride, stride)

    def params(
        self,
        table: dict[str, Any],
        where: str,
        templates: tuple[Template, ...],
        network: dict[str, NetworkGene],
    ) -> tuple[tuple[str, Param], ...]:
        taken = {name for t in templates for name in _taken(t)}
        params = []
        for key, value in table.items():
            if key in _ELEMENT:
                continue
            if key not in taken:
                allowed = (*_ELEMENT, *sorted(taken - {"stride"}))
                raise SpaceError(
                    f"{self.source}: {not_among(f'{where}: unknown key', key, allowed)}"
                )
            params.append((key, self.param(value, f"{where}.{key}", network)))
        return tuple(params)

    def param(self, value: object, where: str, network: dict[str, NetworkGene]) -> Param:
        if not isinstance(value, dict):
            return Const(self.value(value, where))
        if "gene" in value:
            self.keys(value, where, ("gene", "base"))
            gene = value["gene"]
            if not isinstance(gene, str) or gene not in network:
                raise SpaceError(f"{self.source}: {not_among(f'{where}.gene', gene, network)}")
            if "base" not in value:
                return FromNetwork(gene)
            base = self.whole(value["base"], f"{where}.base", 1, 1 << 16)
            for v in network[gene].choices:
                if isinstance(v, bool) or not isinstance(v, int | float) or not 0 < v <= 1024:
                    raise self.fail(
                        f"network.{gene}", f"{shorten(v)} cannot scale a base; give numbers over 0"
                    )
            return FromNetwork(gene, base)
        self.keys(value, where, ("choices", "per", "gene", "base"), ("choices",))
        self.keys(value, where, ("choices", "per"))
        per = value.get("per", "stage")
        if per not in ("stage", "block"):
            raise SpaceError(f"{self.source}: {not_among(f'{where}.per', per, ('stage', 'block'))}")
        return Choice(self.values(value["choices"], f"{where}.choices"), per == "block")

    def check_patterns(
        self, network: dict[str, NetworkGene], elements: tuple[Element, ...]
    ) -> None:
        stages = [e for e in elements if e.where.startswith("stages")]
        for gene in network.values():
            if not gene.patterns:
                continue
            for element in elements:
                refs = [
                    p
                    for _, p in element.params
                    if isinstance(p, FromNetwork) and p.gene == gene.name
                ]
                if refs and element not in stages:
                    raise self.fail(
                        element.where,
                        f"pattern {gene.name!r} has a value for each block of the stages only",
                    )
                if any(p.base for p in refs):
                    raise self.fail(element.where, f"pattern {gene.name!r} cannot scale a base")
            if any(len(e.depths) > 1 for e in stages):
                raise self.fail(f"network.{gene.name}", "patterns need stages of fixed depth")
            count = sum(e.depths[0] for e in stages)
            for name, pattern in zip(gene.choices, gene.patterns, strict=True):
                if len(pattern) != count:
                    raise self.fail(
                        f"network.{gene.name}.patterns.{name}",
                        f"has {len(pattern)} digits, but the stages have {count} blocks",
                    )

    # -- rules --

    def rules(self, data: object, elements: tuple[Element, ...]) -> tuple[Rule, ...]:
        if not isinstance(data, list):
            raise self.fail("rules", f"{shorten(data)} is not a list of tables, [[rules]]")
        rules: list[Rule] = []
        for i, item in enumerate(data, start=1):
            rule = self.rule(self.table(item, f"rules[{i}]"), f"rules[{i}]", elements)
            if any(rule.name == other.name for other in rules):
                raise self.fail(f"rules[{i}].name", f"{rule.name!r} is used twice")
            rules.append(rule)
        return tuple(rules)

    def rule(self, table: dict[str, Any], where: str, elements: tuple[Element, ...]) -> Rule:
        if ("limit" in table) == ("non_decreasing" in table):
            raise self.fail(where, "needs either limit (with to) or non_decreasing")
        kind = "limit" if "limit" in table else "non_decreasing"
        allowed = (
            ("name", "limit", "to", "in", "except") if kind == "limit" else ("name", kind, "in")
        )
        self.keys(
            table, where, allowed, ("name", "limit", "to") if kind == "limit" else ("name", kind)
        )
        name = self.text(table["name"], f"{where}.name")
        params = sorted({key for e in elements for key, _ in e.params} | {"depth", "block"})
        param = table[kind]
        if param not in params:
            raise SpaceError(f"{self.source}: {not_among(f'{where}.{kind}', param, params)}")
        if kind == "limit":
            values = self.values(table["to"], f"{where}.to")
            return Limit(name, param, values, self.places(table, where, param, elements))
        stages = tuple(e.name for e in elements[:-1] if param in dict(e.params))
        chosen = table.get("in", list(stages))
        for item in self.listed(chosen, f"{where}.in"):
            if item not in stages:
                raise SpaceError(f"{self.source}: {not_among(f'{where}.in', item, stages)}")
        return NonDecreasing(name, param, tuple(e for e in stages if e in chosen))

    def places(
        self, table: dict[str, Any], where: str, param: str, elements: tuple[Element, ...]
    ) -> tuple[str, ...]:
        having = [
            e.name
            for e in elements
            if param == "block"
            or (param == "depth" and e.where.startswith("stages"))
            or param in dict(e.params)
        ]
        allowed = [place for name in having for place in (name, f"{name}.first", f"{name}.rest")]
        if "in" in table and "except" in table:
            raise self.fail(where, "has both in and except; give one")
        key = "in" if "in" in table else "except"
        listed = self.listed(table[key], f"{where}.{key}") if key in table else []
        for item in listed:
            if item not in allowed:
                raise SpaceError(f"{self.source}: {not_among(f'{where}.{key}', item, allowed)}")
        if key == "in":
            return tuple(listed)
        parts = [f"{name}.{part}" for name in having for part in ("first", "rest")]
        left = tuple(p for p in parts if p not in listed and p.split(".")[0] not in listed)
        if not left:
            raise self.fail(where, "excepts every place, so it holds nowhere; leave the rule out")
        return left


def _taken(template: Template) -> set[str]:
    """Return the stage parameters that a template takes, by name or by "$name"."""
    names: set[str] = set()
    for is_first in (True, False):
        settings = template.settings(is_first)
        names |= {name for name in vocabulary.field_names(template.cls) if name not in settings}
        names |= {ref for value in settings.values() for ref in refs(value)}
    return names
