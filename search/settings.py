"""Settings of a search: what was asked for, and what that means where nothing was said."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lcnas.arch import Resolution, check_resolution
from lcnas.errors import LcnasError, not_among, shorten
from search.errors import SearchError

DEFAULT_EVALUATOR = "train"  # ranks best on three spaces together: results/evaluators.json
EVALUATORS = ("supernet", "train", "proxy")
SEARCHERS = ("nsga2", "evolution", "tpe", "random", "local")
SCORES = ("synflow", "naswot", "zico", "gradient_norm", "swap", "params", "macs")


@dataclass(frozen=True)
class Settings:
    """What a search is asked for; None stands for what :meth:`filled` puts there."""

    space: str = "pplcnet_tail"  # name, or path of a TOML file
    # Of deployment: what is timed, trained, tested and exported; None: by the space or the images, see
    # search.resolution.
    resolution: Resolution | None = None
    max_latency_ms: float | None = None  # of measured latency; None: that of PP-LCNet 1.0x
    min_latency_ms: float | None = None  # None: that of PP-LCNet 0.25x
    engine: str | None = None
    threads: int = 1  # that compute a network when it is timed
    precision: str = "fp32"
    batch: int = 1  # images at once when it is timed
    table: str | None = None  # name or path; None: that of this machine and engine
    remeasure: bool | None = None  # finalists; None: where the table is this machine's

    data: str = "synthetic"
    max_bad: float = 0.01  # share of the images that may be damaged: data.MAX_BAD
    permute_labels: bool = False  # a control: nothing better may be found
    # Pixels that the evaluator looks at; None: those of deployment, but not more than the preset's.
    train_size: Resolution | None = None
    images: int | None = None  # at most so many training images in the search
    evaluator: str | None = None
    score: str | None = None  # that the evaluator "proxy" ranks by
    epochs: int | None = None  # of the evaluator's trainings
    init: str | None = None  # weights that the supernet starts from
    searcher: str = "nsga2"
    predictor: bool | None = None  # whether an accuracy predictor screens proposals
    trials: int | None = None
    networks_per_trial: int | None = None  # evaluated by one call of a worker
    time_budget: float | None = None  # seconds of proposing; None: no limit but the trials
    lag: int | None = None  # proposal i rests on the results of the first i - lag

    finalists: int | None = None
    bands: int | None = None  # latency bands, each with a winner
    final_epochs: int | None = None
    final_seeds: int | None = None
    final_images: int | None = None  # at most so many training images; None: all
    baselines: bool = True

    blocks: tuple[str, ...] = ()  # files with blocks of one's own
    workers: int | None = None  # processes of one thread; None: one a core of the cluster
    seed: int = 0
    preset: str = "quick"

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))
        for name in ("resolution", "train_size"):
            value = getattr(self, name)
            if value is not None:
                size = tuple(value) if isinstance(value, list) else value
                object.__setattr__(self, name, check_resolution(size, name))
        _one_of("evaluator", self.evaluator, EVALUATORS)
        _one_of("searcher", self.searcher, SEARCHERS)
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
        if self.init is not None and self.evaluated_by != "supernet":
            raise SearchError(f"init: is for the evaluator supernet, not {self.evaluated_by}")
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
    def evaluated_by(self) -> str:
        """The evaluator, also where none was named."""
        return self.evaluator or ("proxy" if self.score else DEFAULT_EVALUATOR)

    @property
    def trains_alike(self) -> bool:
        """Whether the search trains its networks exactly as the finals do theirs: images, epochs and size."""
        search = (self.epochs, self.images, self.train_size)
        final = (self.final_epochs, self.final_images, self.resolution)
        return self.evaluated_by == "train" and search == final

    def filled(self, cores: int) -> Settings:
        """Return the settings with nothing left open but what the table decides.

        Args:
            cores: that the workers may use.
        """
        preset = PRESETS[self.preset]
        evaluator = self.evaluated_by
        values: dict[str, Any] = {
            f.name: _of_evaluator(preset[f.name], evaluator)
            for f in dataclasses.fields(self)
            if getattr(self, f.name) is None and f.name in preset
        }
        values["evaluator"] = evaluator
        if evaluator == "proxy":
            values["score"] = self.score or "swap"
        if self.train_size is None and self.resolution is not None:
            values["train_size"] = at_most(self.resolution, preset["evaluator_pixels"])
        workers = self.workers or cores
        values["workers"] = workers
        each = self.networks_per_trial or {"supernet": 8, "train": 1, "proxy": 1}[evaluator]
        values["networks_per_trial"] = each
        values["lag"] = self.lag or max(4, 2 * workers * each)
        # Random search is what others are compared to.
        screened = evaluator != "proxy" and self.searcher != "random"
        values["predictor"] = screened if self.predictor is None else self.predictor
        finalists = self.finalists or preset["finalists"]
        values["bands"] = self.bands or min(preset["bands"], finalists)
        return dataclasses.replace(self, **values)

    def to_data(self) -> dict[str, Any]:
        """Return them as plain data."""
        made = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in made.items()}

    @classmethod
    def from_data(cls, data: Any, where: str) -> Settings:
        """Return the settings of such data.

        Raises:
            SearchError: they are of another version, or edited; names the place.
        """
        try:
            return cls(**{_RENAMED.get(name, name): value for name, value in data.items()})
        except LcnasError as error:
            raise SearchError(f"{where}: {error}") from None
        except TypeError as error:
            raise SearchError(f"{where}: no settings of this version: {error}") from None

    def differences(self, there: Settings, names: frozenset[str] | None = None) -> list[str]:
        """Return in words what is different in other settings; of all of them, or of some names."""
        return [
            f"{f.name} is {_shown(getattr(there, f.name))} there and {_shown(getattr(self, f.name))} here"
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != getattr(there, f.name) and (not names or f.name in names)
        ]


# What settings were called in runs of before.
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

# Numbers that differ by evaluator are mappings; what is not there is of no use to it.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Minutes on two cores: enough to see everything at work.
    "quick": {
        # The finals train alike, so that programs are compiled once.
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
    # An hour or so on two cores: the least from which something can be learnt of real images.
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


def _of_evaluator(value: Any, evaluator: str) -> Any:
    return value.get(evaluator) if isinstance(value, Mapping) else value


def _one_of(what: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise SearchError(not_among(what, value, allowed))


def _shown(value: object) -> str:
    return "not given" if value is None else str(value)
