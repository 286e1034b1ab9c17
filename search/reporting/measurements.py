"""Latencies that were measured elsewhere, by ``python -m lcnas.measure --json FILE``, for an outcome."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lcnas.errors import listing, nearest, shorten
from search.errors import SearchError
from search.outcome import FinalNetwork, MeasuredLatency, Outcome

_FORMAT, _VERSIONS = "lcnas-measurements", (1, 2)


@dataclass(frozen=True)
class LatencyRecord:
    """One network as it was measured."""

    name: str  # of the zoo, a file's stem, or its path where stems were not unique
    id: str | None  # of the network; None: an ONNX file
    timed: MeasuredLatency


@dataclass(frozen=True)
class Measurements:
    """A file of measurements."""

    source: str
    machine: str  # label of machine and engine
    engine: str  # label
    precision: str
    entries: tuple[LatencyRecord, ...]


def read(path: Path) -> Measurements:
    """Return the measurements of a file.

    Raises:
        SearchError: no such file, or it is none of measurements.
    """
    from lcnas.latency import Engine

    try:
        data = json.loads(path.read_bytes())  # in any Unicode encoding, as shells write it
        if (data["format"], data["version"]) not in {(_FORMAT, v) for v in _VERSIONS}:
            version = f"{shorten(data['format'])} version {shorten(data['version'])}"
            raise SearchError(
                f"measurements: {path} is {version}, not '{_FORMAT}' version 1 or 2; "
                "python -m lcnas.measure --json FILE writes it"
            )
        entries = tuple(_entry(item) for item in data["networks"])
        engine = Engine(**data["engine"])
        machine = _machine_label(data["machine"], data["engine"])
        return Measurements(
            source=str(path),
            machine=machine,
            engine=engine.label,
            precision=engine.precision,
            entries=entries,
        )
    except OSError as error:
        raise SearchError(f"measurements: {path}: cannot be read: {error.strerror}") from None
    except SearchError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"{type(error).__name__}: {shorten(str(error))}"
        raise SearchError(
            f"measurements: {path} is no file of python -m lcnas.measure --json ({what})"
        ) from None


def _entry(item: Any) -> LatencyRecord:
    timed = MeasuredLatency(float(item["ms"]), float(item["low"]), float(item["high"]))
    if not 0 < timed.low <= timed.ms <= timed.high < math.inf:
        raise ValueError(f"{item['name']}: {timed.ms} ms, {timed.low} to {timed.high}")
    return LatencyRecord(str(item["name"]), None if item["id"] is None else str(item["id"]), timed)


def _machine_label(machine: Mapping[str, Any], engine: Mapping[str, Any]) -> str:
    from lcnas.latency import Engine, LatencyTable, Machine

    return LatencyTable(Machine(**machine), Engine(**engine)).machine_label


def apply(outcome: Outcome, measurements: Measurements) -> Outcome:
    """Return the outcome with these latencies in place of its own.

    A network is found by its id, its name, the path of one of its ONNX files or that file's stem. Where a
    network was measured more than once (an ONNX file a seed), the middle one counts. What the file lacks has
    no measured latency then: those of two machines do not compare.

    Raises:
        SearchError: a measured network is none of the search's, or may be several; names all such.
    """
    by_final: dict[str, list[MeasuredLatency]] = {}
    strangers, unclear = [], []
    for entry in measurements.entries:
        names = matching(entry, outcome.finals)
        if not names:
            other = entry.name in {final.name for final in outcome.finals}
            strangers.append(entry.name + " (at another resolution, or another network)" * other)
        elif len({f.arch.id for f in outcome.finals if f.name in names}) > 1:
            unclear.append(f"{entry.name} ({' or '.join(names)})")
        for name in names:
            by_final.setdefault(name, []).append(entry.timed)
    _refuse(measurements, outcome, strangers, unclear)
    _check_precision(measurements, outcome)
    finals = tuple(
        dataclasses.replace(final, measured=_middle(by_final.get(final.name, [])))
        for final in outcome.finals
    )
    lacking = [final.name for final in finals if final.measured is None]
    notes = [
        f"Measured latencies are those of {measurements.machine} ({Path(measurements.source).name})."
    ]
    if lacking:
        notes.append(f"Not among these measurements: {', '.join(lacking)}.")
    notes += _other_engine(measurements, outcome)
    return dataclasses.replace(
        outcome, finals=finals, measured_by=measurements.engine, notes=(*outcome.notes, *notes)
    )


def _check_precision(measurements: Measurements, outcome: Outcome) -> None:
    """Refuse latencies of another precision than accuracies are of."""
    tested = {run.precision for final in outcome.finals for run in final.runs}
    if tested and tested != {measurements.precision}:
        of = " and ".join(sorted(tested))
        raise SearchError(
            f"measurements: {measurements.source} is of {measurements.precision}, accuracies are of {of}; "
            f"measure the files with --precision {of}"
        )


def _other_engine(measurements: Measurements, outcome: Outcome) -> list[str]:
    """Return the note that accuracies and latencies are of two engines."""
    if not outcome.tested_by or outcome.tested_by == measurements.engine:
        return []
    return [
        f"Accuracies are of the files run by {outcome.tested_by}, latencies of {measurements.engine}."
    ]


def matching(entry: LatencyRecord, finals: Sequence[FinalNetwork]) -> list[str]:
    """Return the names of the networks that a measurement may be of, by the surest sign that fits any."""
    path = PurePosixPath(entry.name.replace("\\", "/"))
    # The stem of a path with no ONNX or JSON ending is the whole name: "pplcnet_0.5x" has a dot in it.
    stem = path.stem if path.suffix in (".onnx", ".json") else path.name
    signs = (
        lambda f: entry.id is not None and f.arch.id == entry.id,
        lambda f: entry.id is None and f.name in (entry.name, stem),
        lambda f: entry.id is None and any(_ends_with(run.onnx, path) for run in f.runs),
        lambda f: entry.id is None and any(PurePosixPath(run.onnx).stem == stem for run in f.runs),
        lambda f: entry.id is None and f.name in path.parts[:-1],
    )
    for sign in signs:
        names = [final.name for final in finals if sign(final)]
        if names:
            return names
    return []


def _ends_with(onnx: str, path: PurePosixPath) -> bool:
    """Return whether an exported file and a measured one share at least folder and name."""
    own = PurePosixPath(onnx).parts
    shared = min(len(own), len(path.parts))
    return shared > 1 and own[-shared:] == path.parts[-shared:]


def _refuse(
    measurements: Measurements, outcome: Outcome, strangers: Sequence[str], unclear: Sequence[str]
) -> None:
    names = [final.name for final in outcome.finals]
    if not names:
        raise SearchError(
            f"measurements: {measurements.source}: this search has no finalists that could be measured"
        )
    if strangers:
        hint = "" if strangers[0].partition(" (")[0] in names else nearest(strangers[0], names)
        raise SearchError(
            f"measurements: {measurements.source}: {listing(strangers)}: none of this search's networks, "
            f"which are {listing(names)}{hint}"
        )
    if unclear:
        raise SearchError(
            f"measurements: {measurements.source}: more than one network fits {listing(unclear)}; measure "
            "them by their paths, or in one command"
        )
    if not measurements.entries:
        raise SearchError(f"measurements: {measurements.source}: holds no network")


def _middle(timed: Sequence[MeasuredLatency]) -> MeasuredLatency | None:
    ordered = sorted(timed, key=lambda t: t.ms)
    return ordered[(len(ordered) - 1) // 2] if ordered else None
