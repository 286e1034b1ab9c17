"""Settings of a search: as asked for, as resolved by presets and machine, and how it is executed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from lcnas.arch import Resolution, check_resolution
from lcnas.errors import LcnasError, not_among, shorten
from search.errors import SearchError
from search.registry import EVALUATORS, SEARCHERS

DEFAULT_EVALUATOR = "train"  # ranks best on three spaces together: results/evaluators.json
SCORES = ("synflow", "naswot", "zico", "gradient_norm", "swap", "params", "macs")


@dataclass(frozen=True)
class ExecutionOptions:
    """Where a search runs and how far; none of it changes the results."""

    address: str | None = None  # of a Ray cluster; None: this machine
    storage: str | None = None  # place of Ray Tune's own files
    until: str | None = None  # last step; None: all steps


@dataclass(frozen=True)
class Settings:
    """Settings as asked for; :meth:`resolve` replaces None by presets and the machine's values."""

    space: str = "pplcnet_tail"  # name, or path of a TOML file
    # Resolution of deployment: of measuring, training, testing and export. None: of the space or the images,
    # see search.resolution.
    resolution: Resolution | None = None
    max_latency_ms: float | None = None  # of measured latency; None: that of PP-LCNet 1.0x
    min_latency_ms: float | None = None  # None: that of PP-LCNet 0.25x
    engine: str | None = None  # None: this machine's default
    threads: int = 1  # threads of a network when it is measured
    precision: str = "fp32"
    batch: int = 1  # images per call when it is measured
    table: str | None = None  # name or path; None: that of this machine and engine
    remeasure: bool | None = None  # measure finalists; None: if the table is this machine's

    data: str = "synthetic"
    max_bad: float = 0.01  # maximum share of damaged images: data.MAX_BAD
    permute_labels: bool = False  # a control: nothing can be better
    # Training size of the evaluator, pixels. None: the resolution, limited by the preset.
    train_size: Resolution | None = None
    images: int | None = None  # maximum training images of the search
    evaluator: str | None = None
    score: str | None = None  # score of the evaluator "proxy"
    epochs: int | None = None  # epochs of the evaluator's trainings
    init: str | None = None  # initial weights of the supernet
    searcher: str = "nsga2"
    predictor: bool | None = None  # whether a predictor of accuracy screens proposals
    trials: int | None = None
    networks_per_trial: int | None = None  # networks per call of a worker
    time_budget: float | None = None  # seconds of proposing; None: no limit but the trials
    lag: int | None = None  # proposal i depends on the results of the first i - lag

    finalists: int | None = None
    bands: int | None = None  # latency bands, each with a winner
    final_epochs: int | None = None
    final_seeds: int | None = None
    final_images: int | None = None  # maximum training images of finalists; None: all
    baselines: bool = True

    blocks: tuple[str, ...] = ()  # files with your own blocks
    workers: int | None = None  # processes of one thread; None: one per core of the cluster
    seed: int = 0
    preset: str = "quick"

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))
        for name in ("resolution", "train_size"):
            value = getattr(self, name)
            if value is not None:
                size = tuple(value) if isinstance(value, list) else value
                object.__setattr__(self, name, check_resolution(size, name))
        if self.evaluator is not None:
            EVALUATORS.check(self.evaluator)
        SEARCHERS.check(self.searcher)
        _one_of("score", self.score, SCORES)
        _one_of("preset", self.preset, tuple(PRESETS))
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise SearchError(f"{name}: {shorten(value)} is not a whole number of at least 1")
        self._check_latency()
        if not 0 <= self.max_bad <= 1:
            raise SearchError(f"max_bad: {self.max_bad:g} is not a share from 0 to 1")
        finalists = self.finalists or PRESETS[self.preset]["finalists"]
        if self.bands is not None and self.bands > finalists:
            raise SearchError(
                f"bands: {self.bands} are more than the {finalists} finalists; give at most as many"
            )
        if self.init is not None and self.evaluator_name != "supernet":
            raise SearchError(f"init: is for the evaluator supernet, not {self.evaluator_name}")
        if self.score is not None and self.evaluator not in (None, "proxy"):
            raise SearchError(f"score: is for the evaluator proxy, not {self.evaluator}")

    def _check_latency(self) -> None:
        low, high = self.min_latency_ms, self.max_latency_ms
        for name, value in (("min_latency_ms", low), ("max_latency_ms", high)):
            if value is not None and not 0 < value < 1e6:
                raise SearchError(f"{name}: {value:g} is not a latency in ms above 0")
        if low is not None and high is not None and low >= high:
            raise SearchError(f"min_latency_ms: {low:g} is not less than max_latency_ms, {high:g}")

    @property
    def evaluator_name(self) -> str:
        """The name of the evaluator, the default included."""
        return self.evaluator or ("proxy" if self.score else DEFAULT_EVALUATOR)

    def resolve(self, cores: int) -> ResolvedSettings:
        """Return the settings with nothing left open but the latencies that the table decides.

        Args:
            cores: number of cores for the workers.
        """
        preset = PRESETS[self.preset]
        evaluator = self.evaluator_name
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name, value in values.items():
            if value is None and name in preset:
                values[name] = _for_evaluator(preset[name], evaluator)
        values["evaluator"] = evaluator
        if evaluator == "proxy":
            values["score"] = self.score or "swap"
        if self.train_size is None and self.resolution is not None:
            values["train_size"] = at_most(self.resolution, preset["evaluator_pixels"])
        workers = self.workers or cores
        values["workers"] = workers
        per_trial = self.networks_per_trial or (8 if evaluator == "supernet" else 1)
        values["networks_per_trial"] = per_trial
        values["lag"] = self.lag or max(4, 2 * workers * per_trial)
        if self.predictor is None:  # random search is the baseline of others, so it is not screened
            values["predictor"] = evaluator != "proxy" and self.searcher != "random"
        values["bands"] = self.bands or min(preset["bands"], values["finalists"])
        return ResolvedSettings(**values)

    def to_data(self) -> dict[str, Any]:
        """Return the settings as JSON data."""
        data = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in data.items()}

    @classmethod
    def from_data(cls, data: Any, source: str) -> Self:
        """Return the settings of JSON data.

        Raises:
            SearchError: they are of another version, or damaged; names the source.
        """
        try:
            return cls(**{_RENAMED.get(name, name): value for name, value in data.items()})
        except LcnasError as error:
            raise SearchError(f"{source}: {error}") from None
        except TypeError as error:
            raise SearchError(f"{source}: not settings of this version: {error}") from None

    def differences(self, other: Settings, names: frozenset[str] | None = None) -> list[str]:
        """Return descriptions of what differs in other settings, of all of them or of some names."""
        return [
            f"{f.name} is {_shown(getattr(other, f.name))} there and {_shown(getattr(self, f.name))} here"
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != getattr(other, f.name) and (not names or f.name in names)
        ]


@dataclass(frozen=True)
class ResolvedSettings(Settings):
    """Settings with nothing left open, made by :meth:`Settings.resolve`.

    None still has a meaning in ``max_latency_ms`` and ``min_latency_ms`` (the table decides), ``engine`` and
    ``table`` (this machine's), ``remeasure`` (by the table), ``init``, ``time_budget``, ``score`` and
    ``epochs`` (not used), and ``final_images`` (all).
    """

    resolution: Resolution = 0
    train_size: Resolution = 0
    images: int = 0
    evaluator: str = ""
    predictor: bool = False
    trials: int = 0
    networks_per_trial: int = 0
    lag: int = 0
    finalists: int = 0
    bands: int = 0
    final_epochs: int = 0
    final_seeds: int = 0
    workers: int = 0

    @property
    def trains_alike(self) -> bool:
        """Whether the search trains like the final trainings: images, epochs and resolution."""
        search = (self.epochs, self.images, self.train_size)
        final = (self.final_epochs, self.final_images, self.resolution)
        return self.evaluator == "train" and search == final


# Names of settings in older runs.
_RENAMED = {"pictures": "images", "final_pictures": "final_images"}

_COUNTS = (
    "threads",
    "batch",
    "images",
    "epochs",
    "trials",
    "networks_per_trial",
    "lag",
    "finalists",
    "bands",
    "final_epochs",
    "final_seeds",
    "final_images",
    "workers",
)

# Numbers that differ by evaluator are mappings; None if an evaluator has no use for one.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Minutes on two cores: enough to see every step.
    "quick": {
        # Final trainings are alike, so that programs are compiled once.
        "evaluator_pixels": 64,
        "images": 4000,
        "epochs": {"train": 4, "supernet": 4},
        "trials": {"train": 6, "supernet": 64, "proxy": 200},
        "finalists": 2,
        "bands": 2,
        "final_epochs": 4,
        "final_seeds": 3,
        "final_images": 4000,
    },
    # About an hour on two cores: the minimum for real images.
    "hour": {
        "evaluator_pixels": 64,
        "images": 9000,
        "epochs": {"train": 2, "supernet": 24},  # ranks no worse than 4: docs/decisions.md
        "trials": {"train": 72, "supernet": 500, "proxy": 1000},
        "finalists": 2,
        "bands": 2,
        "final_epochs": 16,
        "final_seeds": 5,  # half as wide an interval as with 3
        "final_images": 9000,
    },
    # A night on a few cores, or a cluster.
    "thorough": {
        "evaluator_pixels": 128,
        "images": 20_000,
        "epochs": {"train": 8, "supernet": 60},
        "trials": {"train": 400, "supernet": 2000, "proxy": 2000},
        "finalists": 6,
        "bands": 3,
        "final_epochs": 40,
        "final_seeds": 5,
    },
}


def at_most(resolution: Resolution, pixels: int) -> Resolution:
    """Return a resolution whose short side has at most so many pixels, in the same proportions.

    >>> at_most(224, 64), at_most(32, 64), at_most((80, 160), 64)
    (64, 32, (64, 128))
    """
    if isinstance(resolution, int):
        return min(resolution, pixels)
    share = min(1.0, pixels / min(resolution))
    return (round(resolution[0] * share), round(resolution[1] * share))


def _for_evaluator(value: Any, evaluator: str) -> Any:
    if not isinstance(value, Mapping):
        return value
    known = evaluator if evaluator in EVALUATORS.builtin else DEFAULT_EVALUATOR
    return value.get(known)


def _one_of(what: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise SearchError(not_among(what, value, allowed))


def _shown(value: object) -> str:
    return "not given" if value is None else str(value)
