"""The outcome of a search: all that its report shows, as JSON data in ``outcome.json``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lcnas import renamed
from lcnas.arch import Arch, Resolution, height_width
from lcnas.errors import shorten
from search.errors import SearchError

VERSION = 1
_FORMAT = "lcnas-search-outcome"
# Roles of networks in the final evaluation; values on disk, so the last one keeps its old spelling.
FINALIST, PPLCNET, PUBLISHED = "finalist", "pplcnet", "shelf"
ROLES = (FINALIST, PPLCNET, PUBLISHED)


@dataclass(frozen=True)
class MeasuredLatency:
    """A measured latency, ms; see :mod:`lcnas.latency.timing`."""

    ms: float
    low: float  # 90 % interval
    high: float


@dataclass(frozen=True)
class FinalRun:
    """One final training of a network, from scratch."""

    seed: int
    validation: float  # accuracy of the exported file, 0 to 1
    test: float | None  # accuracy, 0 to 1; None: the test images were not read
    onnx: str  # path of the exported file, relative to the run directory
    hits: str = ""  # relative path of a NumPy file: the correct test images (bools); "": none
    seconds: float = 0.0  # of training, without compilation
    compile_seconds: float = 0.0
    images_s: float = 0.0
    resolution: Resolution | None = None  # of the file that was validated and tested, pixels
    precision: str = "fp32"  # of that file
    test_fp32: float | None = None  # accuracy of its fp32 twin, if the precision is another one


@dataclass(frozen=True)
class FinalNetwork:
    """A network of the final evaluation: a finalist of the search, or a baseline."""

    name: str  # "finalist-1", "pplcnet_0.62x", "mobilenet_v3_small_1.0x"
    role: str  # one of ROLES
    arch: Arch
    band: int  # latency band of a finalist, from 0; of a baseline that of its finalist
    beside: tuple[str, ...]  # names of the finalists that a baseline is compared with
    params: int
    macs: int
    predicted_ms: float | None  # by the table; None: it lacks an entry
    predicted_low: float | None = None  # 90 % interval of the prediction
    predicted_high: float | None = None
    measured: MeasuredLatency | None = None  # as a whole network on the table's machine
    search_accuracy: float | None = None  # of a finalist, by the evaluator
    number: int | None = None  # of a finalist's trial
    published_top1: float | None = None  # of a baseline: ImageNet, %
    runs: tuple[FinalRun, ...] = ()  # one per seed, the same seeds for all networks
    winner: bool = False  # of its band, chosen by validation before the test images were read

    @property
    def latency_ms(self) -> float | None:
        """The measured latency, or the predicted one if there is none."""
        return self.predicted_ms if self.measured is None else self.measured.ms


@dataclass(frozen=True)
class Outcome:
    """The outcome of a whole search."""

    settings: Mapping[str, Any]  # as in config.json
    surroundings: Mapping[str, Any]  # versions and machine
    space: str
    table: str  # LatencyTable.machine_label
    on_this_machine: bool  # whether finalists were measured on the table's machine
    max_latency_ms: float  # the budget
    min_latency_ms: float
    searched_max_ms: float  # limit of predictions, lower than the budget by the table's error
    networks: int  # in the budget, exactly
    synthetic: bool  # a demonstration: its images are synthetic
    trials: int  # finished ones, failed ones included
    failed: int
    evaluator: str
    searcher: str
    front: tuple[int, ...]  # numbers of the trials that no other trial dominates, by latency
    finals: tuple[FinalNetwork, ...] = ()
    times: Mapping[str, float] = field(default_factory=dict)  # seconds of each step, in order
    compile_seconds: float = 0.0  # of all steps together, summed over workers
    evaluation: Mapping[str, Any] = field(default_factory=dict)  # images/s, chance, and the like
    candidates_measured: int = 0  # for the places of finalists, replaced ones included; 0: unknown
    notes: tuple[str, ...] = ()  # for the reader: replaced finalists, missing baselines
    tested_by: str = ""  # engine that ran the exported files for their accuracies; "": none
    measured_by: str = ""  # engine of the measured latencies; "": none measured, or unknown

    @property
    def warning(self) -> str:
        """A warning for the reader: accuracies and latencies of different inputs; "": none."""
        resolutions = {
            (run.resolution, final.arch.resolution)
            for final in self.finals
            for run in final.runs
            if run.resolution is not None
            and height_width(run.resolution) != height_width(final.arch.resolution)
        }
        return "; ".join([*self._precision_warnings(), *self._resolution_warnings(resolutions)])

    def _precision_warnings(self) -> list[str]:
        if self.tested_by:  # by the engine of the latencies, or else a note explains
            return []
        requested = str(self.settings.get("precision") or "fp32")
        precisions = {run.precision for final in self.finals for run in final.runs}
        return [
            f"accuracies here are of {precision} files, latencies of {requested}: this run is older than the "
            "rule that both belong to one file"
            for precision in sorted(precisions - {requested})
        ]

    def _resolution_warnings(
        self, resolutions: Iterable[tuple[Resolution | None, Resolution]]
    ) -> list[str]:
        return [
            f"accuracies here are of networks trained and tested at {pixels(tested)} px, latencies and ONNX "
            f"files of {pixels(timed)} px: this run is older than the rule of one resolution, and the files "
            "are less accurate than reported (python -m lcnas.evaluate FILE --data SET measures it)"
            for tested, timed in sorted(resolutions, key=str)
            if tested is not None
        ]

    def to_json(self) -> str:
        """Return the outcome as JSON."""
        data = dataclasses.asdict(self)
        for final, final_data in zip(self.finals, data["finals"], strict=True):
            final_data["arch"] = json.loads(final.arch.to_json())
        data = {_KEYS_ON_DISK.get(name, name): value for name, value in data.items()}
        return json.dumps({"format": _FORMAT, "version": VERSION, **data}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "outcome") -> Outcome:
        """Return the outcome of JSON.

        Raises:
            SearchError: it is not an outcome; names the source.
        """
        try:
            data = json.loads(text)
            if (data.pop("format"), data.pop("version")) != (_FORMAT, VERSION):
                raise SearchError(f"{source}: is not {_FORMAT} version {VERSION}")
            for name, key in _KEYS_ON_DISK.items():
                if key in data:
                    data[name] = data.pop(key)
            # Older runs do not record their resolution: it was the training size of the search.
            size = data["settings"].get("train_size")
            data["finals"] = tuple(_final_network(item, source, size) for item in data["finals"])
            return cls(**data | {"front": tuple(data["front"]), "notes": tuple(data["notes"])})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, SearchError):
                raise
            raise SearchError(f"{source}: not an outcome: {shorten(str(error))}") from None


_KEYS_ON_DISK = {"candidates_measured": "put_up"}  # field -> key, where they differ


def pixels(resolution: Resolution) -> str:
    """Return a resolution as text: "128", "80x160"."""
    height, width = height_width(resolution)
    return str(height) if height == width else f"{height}x{width}"


def _final_network(data: dict[str, Any], source: str, size: Any) -> FinalNetwork:
    measured = data["measured"]
    runs = [{"resolution": size, **run} for run in data["runs"]]
    return FinalNetwork(
        **data
        | {
            "arch": Arch.from_data(data["arch"], source),
            "beside": tuple(data["beside"]),
            "measured": None if measured is None else MeasuredLatency(**measured),
            "runs": tuple(
                FinalRun(**run | {"resolution": _resolution(run["resolution"])}) for run in runs
            ),
        }
    )


def _resolution(data: Any) -> Resolution | None:
    resolution: Resolution | None = tuple(data) if isinstance(data, list) else data
    return resolution


__getattr__ = renamed.in_module(
    __name__, {"Timed": "MeasuredLatency", "Run": "FinalRun", "Final": "FinalNetwork"}
)
