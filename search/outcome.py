"""What came out of a search: all that its report shows, as plain data in ``outcome.json``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lcnas.arch import Arch, Resolution, height_width
from lcnas.errors import shorten
from search.errors import SearchError

VERSION = 1
_FORMAT = "lcnas-search-outcome"
ROLES = ("finalist", "pplcnet", "shelf")


@dataclass(frozen=True)
class Timed:
    """A latency as it was measured, ms; see :mod:`lcnas.latency.timing`."""

    ms: float
    low: float  # 90 % interval
    high: float


@dataclass(frozen=True)
class Run:
    """One training of a network from scratch."""

    seed: int
    validation: float  # share of 1, of the network that is exported
    test: float | None  # share of 1; None: the test images were not read
    onnx: str  # path of the exported network, relative to the folder of the search
    hits: str = (
        ""  # path of the test images that were right (NumPy file of bools), relative; "": none
    )
    seconds: float = 0.0  # of training, without compilation
    compile_seconds: float = 0.0
    images_s: float = 0.0
    resolution: Resolution | None = None  # pixels of the file that was validated and tested
    precision: str = "fp32"  # of that file as it was run
    test_fp32: float | None = None  # of its fp32 twin, where the precision is another one


@dataclass(frozen=True)
class Final:
    """A network that was trained from scratch: a finalist of the search, or a baseline."""

    name: str  # "finalist-1", "pplcnet_0.62x", "mobilenet_v3_small_1.0x"
    role: str  # one of ROLES
    arch: Arch
    band: int  # latency band of a finalist, from 0; of a baseline that of its finalist
    beside: tuple[str, ...]  # names of the finalists that a baseline is compared with
    params: int
    macs: int
    predicted_ms: float | None  # by the table; None: it lacks a row
    predicted_low: float | None = None  # 90 % interval of the prediction
    predicted_high: float | None = None
    measured: Timed | None = None  # as a whole network on the table's machine
    search_accuracy: float | None = None  # the evaluator's, of finalists
    number: int | None = None  # of the trial, of finalists
    published_top1: float | None = None  # ImageNet, %, of baselines
    runs: tuple[Run, ...] = ()  # one a seed, the same seeds for all
    winner: bool = False  # of its band, named by validation before the test images were read

    @property
    def latency_ms(self) -> float | None:
        """The measured latency, or the predicted one where there is none."""
        return self.predicted_ms if self.measured is None else self.measured.ms


@dataclass(frozen=True)
class Outcome:
    """A whole search."""

    settings: Mapping[str, Any]  # as in config.json
    surroundings: Mapping[str, Any]  # versions and machine
    space: str
    table: str  # whose latencies: LatencyTable.machine_label
    on_this_machine: bool  # whether finalists were measured where the table was made
    max_latency_ms: float  # the budget
    min_latency_ms: float
    searched_max_ms: float  # what the search kept to, lower by the table's error
    networks: int  # in the budget, exactly
    synthetic: bool  # a demonstration: its images are synthetic
    trials: int  # finished, failed ones included
    failed: int
    evaluator: str
    searcher: str
    front: tuple[int, ...]  # numbers of the trials that no other one dominates, by latency
    finals: tuple[Final, ...] = ()
    times: Mapping[str, float] = field(default_factory=dict)  # seconds of each step, in order
    compile_seconds: float = 0.0  # of all steps together, summed over workers
    evaluation: Mapping[str, Any] = field(default_factory=dict)  # images/s, chance, and the like
    put_up: int = (
        0  # networks measured for a finalist's place, those that made room too; 0: not known
    )
    notes: tuple[str, ...] = ()  # what a reader has to know: replaced finalists, missing baselines
    tested_by: str = ""  # engine that ran the exported files for their accuracies; "": none did
    measured_by: str = (
        ""  # engine of the measured latencies; "": none was measured, or it is not known
    )

    @property
    def warning(self) -> str:
        """What a reader has to know first: accuracies and latencies of different inputs; "": nothing."""
        found = {
            (run.resolution, final.arch.resolution)
            for final in self.finals
            for run in final.runs
            if run.resolution is not None
            and height_width(run.resolution) != height_width(final.arch.resolution)
        }
        return "; ".join([*self._of_precisions(), *self._of_sizes(found)])

    def _of_precisions(self) -> list[str]:
        if self.tested_by:  # and so by the engine of the latencies, or a note says why not
            return []
        asked = str(self.settings.get("precision") or "fp32")
        runs = {run.precision for final in self.finals for run in final.runs}
        return [
            f"accuracies here are of {precision} files, latencies of {asked}: this run was made before both "
            "were of one file"
            for precision in sorted(runs - {asked})
        ]

    def _of_sizes(self, found: Iterable[tuple[Resolution | None, Resolution]]) -> list[str]:
        return [
            f"accuracies here are of networks trained and tested at {pixels(seen)} px, latencies and ONNX "
            f"files of {pixels(timed)} px: this run was made before both were of one resolution, and the "
            "files are less accurate than it says (python -m lcnas.evaluate FILE --data SET measures it)"
            for seen, timed in sorted(found, key=str)
            if seen is not None
        ]

    def to_json(self) -> str:
        """Return it as JSON."""
        made = dataclasses.asdict(self)
        for final, data in zip(self.finals, made["finals"], strict=True):
            data["arch"] = json.loads(final.arch.to_json())
        return json.dumps({"format": _FORMAT, "version": VERSION, **made}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "outcome") -> Outcome:
        """Return the outcome of such JSON.

        Raises:
            SearchError: it is none; names the place.
        """
        try:
            data = json.loads(text)
            if (data.pop("format"), data.pop("version")) != (_FORMAT, VERSION):
                raise SearchError(f"{where}: is no {_FORMAT} of version {VERSION}")
            # Before runs said it, they were of the search's training size.
            size = data["settings"].get("train_size")
            data["finals"] = tuple(_final(item, where, size) for item in data["finals"])
            return cls(**data | {"front": tuple(data["front"]), "notes": tuple(data["notes"])})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, SearchError):
                raise
            raise SearchError(f"{where}: no outcome: {shorten(str(error))}") from None


def pixels(resolution: Resolution) -> str:
    """Return a resolution as text: "128", "80x160"."""
    height, width = height_width(resolution)
    return str(height) if height == width else f"{height}x{width}"


def _final(data: dict[str, Any], where: str, size: Any) -> Final:
    timed = data["measured"]
    runs = [{"resolution": size, **run} for run in data["runs"]]
    return Final(
        **data
        | {
            "arch": Arch.from_data(data["arch"], where),
            "beside": tuple(data["beside"]),
            "measured": None if timed is None else Timed(**timed),
            "runs": tuple(Run(**run | {"resolution": _size(run["resolution"])}) for run in runs),
        }
    )


def _size(given: Any) -> Resolution | None:
    size: Resolution | None = tuple(given) if isinstance(given, list) else given
    return size
