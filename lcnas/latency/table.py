"""LatencyTable: the latencies of placed blocks on one machine and engine, and the error of their sum.

The file is JSON (``docs/reference/latency-table.md`` has its format): machine, engine, method, an entry for
each placed block with its time alone and its fitted term, the networks that the fit and its errors rest on,
and the errors.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lcnas import blocks as vocabulary
from lcnas import files, paths, renamed
from lcnas.arch import Arch, PlacedBlock, Resolution, walk
from lcnas.budgets import Terms
from lcnas.errors import (
    EngineError,
    LcnasError,
    TableError,
    ZooError,
    shorten,
)
from lcnas.latency import engines, validation
from lcnas.latency.engines import Engine
from lcnas.latency.machine import Machine
from lcnas.latency.table_data import (
    ROLES,
    Entry,
    MeasuredNetwork,
    block_of,
    entry_data,
    entry_of,
    machine_of,
    network_data,
    network_of,
    rounded,
    ticks,
)
from lcnas.latency.table_files import available, find
from lcnas.outputs import destination, write_text

VERSION = 2
READABLE_VERSIONS = (1, 2)  # 1 had no times in context
TICK_MS = 0.001  # terms are whole microseconds
TICKS_PER_MS = 1000  # divide by it: 1126 / 1000 is 1.126, 1126 * 0.001 is slightly more
_PLACEHOLDER = "NETWORK.json"  # stands for a file in commands
Floats = NDArray[np.float64]


class BlockSpace(Protocol):
    """The part of :class:`lcnas.spaces.Space` that a table needs."""

    name: str

    def placed_blocks(self, classes: int = 1000) -> Sequence[PlacedBlock]: ...


@dataclass
class LatencyTable:
    """The latencies of placed blocks on one machine and engine; see the module's docstring."""

    machine: Machine
    engine: Engine
    entries: dict[PlacedBlock, Entry] = field(default_factory=dict)
    networks: list[MeasuredNetwork] = field(default_factory=list)
    base: int = 0  # ticks, added once per network
    overhead_ms: float = 0.0  # of entering a session, measured on a network that does nothing
    method: dict[str, Any] = field(default_factory=dict)  # how it was measured and fitted
    errors: dict[str, Any] = field(
        default_factory=dict
    )  # of the fit, of other methods and the noise floor, by lcnas.latency.fitting.error_keys
    residuals: tuple[
        float, ...
    ] = ()  # measured / predicted - 1 of networks that no fit has seen, sorted
    source: str = ""  # file that it was read from, for messages
    _known_terms: dict[tuple[str, int], Terms] = field(default_factory=dict, repr=False)

    # -- files -------------------------------------------------------------------------------------

    @property
    def file_name(self) -> str:
        """The table's file name in a folder."""
        return f"{self.machine.slug}-{self.machine.isa}-{self.engine.label}.json"

    @property
    def machine_label(self) -> str:
        """Machine and engine that the latencies belong to, in words."""
        e = self.engine
        threads = f"{e.threads} thread{'s' * (e.threads > 1)}"
        engine = f"{e.name} {e.version}, {e.precision}, {threads}, batch {e.batch}"
        return f"{self.machine.cpu} ({self.machine.isa}), {engine}"

    @property
    def whose(self) -> str:
        """The former name of :attr:`machine_label`; deprecated."""
        renamed.warn("LatencyTable.whose", "machine_label")
        return self.machine_label

    @property
    def rows(self) -> dict[PlacedBlock, Entry]:
        """The former name of :attr:`entries`; deprecated."""
        renamed.warn("LatencyTable.rows", "entries")
        return self.entries

    @rows.setter
    def rows(self, entries: dict[PlacedBlock, Entry]) -> None:
        renamed.warn("LatencyTable.rows", "entries")
        self.entries = entries

    @classmethod
    def load(cls, path_or_name: str | Path) -> LatencyTable:
        """Return the table of a file, or of a name in the folders that are searched for tables.

        Raises:
            TableError: there is no such table, or its file is truncated, invalid or of another version.
        """
        path = find(path_or_name)
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise TableError(f"{path}: cannot be read: {error.strerror}") from None
        return cls.from_data(validation.parse_json(raw, str(path)), str(path))

    def save(self, folder: str | Path) -> Path:
        """Write the table into a folder, first beside its final place, then renamed; returns the path."""
        target = Path(folder) / self.file_name
        write_text(
            target,
            json.dumps(self.to_data(), indent=None, separators=(",", ":")).replace(
                '},{"block"', '},\n{"block"'
            )
            + "\n",
        )
        return target

    def to_data(self) -> dict[str, Any]:
        """Return the table as JSON data."""
        numbers = {placed: i for i, placed in enumerate(self.entries)}
        blocks = {b: i for i, b in enumerate(dict.fromkeys(p.block for p in self.entries))}
        return {
            "format": "lcnas-latency-table",
            "version": VERSION,
            "machine": dataclasses.asdict(self.machine),
            "engine": dataclasses.asdict(self.engine),
            "method": self.method,
            "errors": self.errors,
            "base_us": self.base,
            "overhead_ms": rounded(self.overhead_ms),
            "residuals": [round(r, 5) for r in self.residuals],
            "networks": [network_data(n, numbers) for n in self.networks],
            "blocks": [vocabulary.to_data(block) for block in blocks],
            "rows": [entry_data(placed, entry, blocks) for placed, entry in self.entries.items()],
        }

    @classmethod
    def from_data(cls, data: object, source: str = "table") -> LatencyTable:
        """Return the table of JSON data.

        Raises:
            TableError: the data are invalid; names the place.
        """
        keys = ("format", "version", "machine", "engine", "method", "errors", "base_us", "overhead_ms",
                "residuals", "networks", "blocks", "rows")  # fmt: skip
        table = validation.json_object(data, keys, source)
        if table["format"] != "lcnas-latency-table" or table["version"] not in READABLE_VERSIONS:
            raise TableError(
                f"{source}: is {shorten(table['format'])} version {shorten(table['version'])}, not "
                f"'lcnas-latency-table' version {' or '.join(map(str, READABLE_VERSIONS))}"
            )
        try:
            machine = machine_of(table["machine"], f"{source}: machine")
            engine = engines.from_data(table["engine"])
        except (EngineError, TypeError) as error:
            raise TableError(f"{source}: {error}") from None
        blocks = [
            block_of(item, f"{source}: blocks[{i}]")
            for i, item in enumerate(validation.json_list(table["blocks"], f"{source}: blocks"))
        ]
        pairs = [
            entry_of(item, blocks, f"{source}: rows[{i}]")
            for i, item in enumerate(validation.json_list(table["rows"], f"{source}: rows"))
        ]
        entries = dict(pairs)
        if len(entries) < len(pairs):
            raise TableError(f"{source}: rows: {len(pairs) - len(entries)} occur twice")
        order = list(entries)
        return cls(
            machine=machine,
            engine=engine,
            entries=entries,
            networks=[
                network_of(item, order, f"{source}: networks[{i}]")
                for i, item in enumerate(
                    validation.json_list(table["networks"], f"{source}: networks")
                )
            ],
            base=ticks(table["base_us"], f"{source}: base_us"),
            overhead_ms=validation.number(
                table["overhead_ms"], f"{source}: overhead_ms", zero=True
            ),
            method=validation.fit_method(table["method"], f"{source}: method"),
            errors=validation.errors(table["errors"], f"{source}: errors"),
            residuals=validation.residuals(table["residuals"], f"{source}: residuals"),
            source=source,
        )

    # -- use ---------------------------------------------------------------------------------------

    def coverage(self, space: BlockSpace, classes: int = 1000) -> float:
        """Return the share of a space's placed blocks that the table has entries for, from 0 to 1."""
        placed = space.placed_blocks(classes)
        return sum(p in self.entries for p in placed) / len(placed)

    def missing(self, space: BlockSpace, classes: int = 1000) -> list[PlacedBlock]:
        """Return the placed blocks of a space that the table has no entries for."""
        return [p for p in space.placed_blocks(classes) if p not in self.entries]

    def term(
        self, placed: PlacedBlock, owner: Arch | BlockSpace | None = None, classes: int = 1000
    ) -> int:
        """Return a placed block's term in ticks.

        Args:
            placed: the block.
            owner: the network or space that needs it, for the error.
            classes: outputs of the owner's last layer.

        Raises:
            TableError: the table has no entry for the block; names it, and the command that would measure it.
        """
        entry = self.entries.get(placed)
        if entry is None or entry.term is None:
            command = self.command_for(placed, owner, classes)
            note = " (the network's to_json(), in a file)" if _PLACEHOLDER in command else ""
            raise TableError(
                f"{self.source or self.file_name}: no entry for {placed}; measure it with: {command}{note}"
            )
        return entry.term

    def command_for(
        self, placed: PlacedBlock, owner: Arch | BlockSpace | None = None, classes: int = 1000
    ) -> str:
        """Return the command that would measure a placed block, on the table's machine.

        Args:
            placed: the block.
            owner: the space or the published network that it belongs to; for any other network the command
                names a file NETWORK.json, into which you write ``arch.to_json()`` first.
            classes: outputs of the owner's last layer.
        """
        e = self.engine
        if owner is None or isinstance(owner, Arch):
            options = _network_options(owner)
        else:
            options = _space_options(owner, placed, classes)
        parts = [
            f"python -m lcnas.profile_blocks {options} --engine {e.name} --threads {e.threads}",
            f"--precision {e.precision} --batch {e.batch}",
        ]
        own = len(placed.out_shape) == 1 and placed.depends_on_classes
        if own or classes != 1000:
            parts.append(f"--classes {placed.out_shape[0] if own else classes}")
        return " ".join(parts)

    def terms(self, space: BlockSpace, classes: int = 1000) -> Terms:
        """Return the terms of a space's placed blocks, in ticks of a microsecond, for budgets."""
        placed = space.placed_blocks(classes)
        ticks = np.array([self.term(p, space, classes) for p in placed], dtype=np.int64)
        known = self._known_terms.get((space.name, classes))
        if known is not None and known.base == self.base and np.array_equal(known.entries, ticks):
            return known  # with the results that it caches for its spaces
        terms = Terms(base=self.base, entries=ticks, classes=classes)
        self._known_terms[space.name, classes] = terms
        return terms

    def predict(self, archs: Arch | Sequence[Arch], classes: int = 1000) -> Floats:
        """Return the predicted latency of networks, in ms, an array of shape (n,).

        Raises:
            TableError: the table has no entry for a block of them.
        """
        networks = [archs] if isinstance(archs, Arch) else list(archs)
        ticks = [
            self.base + sum(self.term(p, a, classes) for p in walk(a, None, classes))
            for a in networks
        ]
        return np.array(ticks, dtype=np.float64) / TICKS_PER_MS

    def predict_codes(self, space: Any, codes: NDArray[np.integer], classes: int = 1000) -> Floats:
        """Return the predicted latency of each network of an (n, genes) array of codes, in ms."""
        ticks = self.terms(space, classes).cost(space, codes)
        predicted: Floats = ticks.astype(np.float64) / TICKS_PER_MS
        return predicted

    def interval(
        self, archs: Arch | Sequence[Arch], level: float = 0.9, classes: int = 1000
    ) -> tuple[Floats, Floats]:
        """Return the prediction intervals of networks at a level, (low, high) in ms.

        Conformal: the bounds are quantiles of the relative residuals of networks that the fit has not seen.
        """
        low, high = self.bounds(level)
        predicted = self.predict(archs, classes)
        return predicted * (1 + low), predicted * (1 + high)

    def bounds(self, level: float = 0.9) -> tuple[float, float]:
        """Return the relative bounds of an interval of that level."""
        is_number = isinstance(level, int | float | np.number) and not isinstance(level, bool)
        if not is_number or not 0 < level < 1:
            raise TableError(f"level: {shorten(level)} is not between 0 and 1")
        if not self.residuals:
            raise TableError(
                f"{self.source or self.file_name}: was not validated, so it has no intervals"
            )
        return conformal(self.residuals, level)

    def of_this_machine(self) -> bool:
        """Return whether the table was measured on a machine like this one."""
        return self.machine.same_kind(engines.machine_of(self.engine.name))


def _network_options(arch: Arch | None) -> str:
    """Return the options that name a network: its name in the zoo, else a file to be written first."""
    from lcnas import zoo

    if arch is not None and arch.name:
        with contextlib.suppress(ZooError):
            known = zoo.load(arch.name)
            if known.at(arch.resolution) == arch:
                size = f" --resolution {_resolution(arch.resolution)}"
                return f"--blocks-from {arch.name}{size if known != arch else ''}"
    return f"--blocks-from {_PLACEHOLDER}"


def _space_options(space: BlockSpace, placed: PlacedBlock, classes: int) -> str:
    """Return the options that name a space, and the resolution at which it has a placed block."""
    from lcnas import spaces

    options = f"--space {space.name}{'' if space.name in spaces.available() else '.toml'}"
    if not isinstance(space, spaces.Space):
        return options
    for size in space.resolutions:
        single = space if len(space.resolutions) == 1 else space.restrict(resolution=size)
        if placed in single.placed_blocks(classes):
            return f"{options} --resolution {_resolution(size)}"
    return options


def _resolution(size: Resolution) -> str:
    return f"{size[0]}x{size[1]}" if isinstance(size, tuple) else str(size)


# -- finding and writing files ---------------------------------------------------------------------


def default(engine: Engine) -> Path | None:
    """Return the table of this machine and engine, or None."""
    name = LatencyTable(engines.machine_of(engine.name), engine).file_name
    for folder in paths.table_dirs():
        if (folder / name).is_file():
            return folder / name
    return None


def of_engine(engine: Engine) -> list[Path]:
    """Return all tables of this machine and engine, those of the first folder first.

    Beside the table of the usual name there may be others with a suffix, such as ``-64px``: entries of other
    resolutions, in files of their own so that none grows without end.
    """
    stem = LatencyTable(engines.machine_of(engine.name), engine).file_name.removesuffix(".json")
    files = (path for folder in paths.table_dirs() for path in sorted(folder.glob("*.json")))
    return [path for path in files if path.stem == stem or path.stem.startswith(f"{stem}-")]


def update(folder: Path, fresh: LatencyTable, change: Callable[[LatencyTable], None]) -> Path:
    """Change the table of a folder under its lock; returns its path.

    Args:
        folder: the folder of the table.
        fresh: the table to begin with where the folder has none.
        change: is called with the table, and changes it.
    """
    path = destination(folder / fresh.file_name)
    with files.locked(path):
        table = LatencyTable.load(path) if path.is_file() else fresh
        change(table)
        return table.save(folder)


def conformal(residuals: Sequence[float], level: float) -> tuple[float, float]:
    """Return the interval (low, high) that holds the next residual at a level, within the residuals' range.

    Args:
        residuals: sorted.
        level: probability, from 0 to 1.
    """
    n = len(residuals)
    # The conformal rank: the ceil((n + 1) q)-th smallest, kept inside the sample.
    high = min(n, math.ceil((n + 1) * (1 + level) / 2 - 1e-9)) - 1
    low = max(1, math.floor((n + 1) * (1 - level) / 2 + 1e-9)) - 1
    return residuals[low], residuals[high]


__getattr__ = renamed.in_module(__name__, {"Network": "MeasuredNetwork", "Row": "Entry"})

__all__ = [
    "Entry",
    "ROLES",
    "LatencyTable",
    "LcnasError",
    "MeasuredNetwork",
    "available",
    "default",
    "destination",
    "of_engine",
    "update",
    "write_text",
]
