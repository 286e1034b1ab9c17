"""Do terms for pairs of neighbours help? The `shrunk` fit with and without them, on the committed tables' networks.

    python -m results.pair_terms

No timing, only computing: a table stores every whole network that it rests on. The model is `shrunk`, plus a term
for each kind of pair: type, kernel, SE and stride of both blocks, and the ratio of their widths in halves of a
doubling. Terms of pairs have a normal prior around 0, of one width in ms for all pairs, or of one width relative to
the time of the two blocks; which, and how wide, is chosen by 10-fold cross-validation on the calibration networks.
Then the prior widths of the rest are fitted anew beside the chosen one. Held-out networks are used for the errors
alone. Writes results/pair-terms-<machine>.json, one entry a table.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import _report
from lcnas.arch import PlacedBlock
from lcnas.latency import predict
from lcnas.latency.fitting import _repeated_times, _TableArrays
from lcnas.latency.table import LatencyTable, MeasuredNetwork, write_text

Floats = NDArray[np.float64]
FOLDS = 10
SEED = 0
WIDTHS = {
    "ms": (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016),
    "relative": (0.005, 0.01, 0.02, 0.04, 0.08, 0.16),
}
FEWEST = 100  # networks to fit, below which a table says nothing about pairs


def coarse(p: PlacedBlock) -> tuple[object, ...]:
    """Return the kind of a block as far as pairs know it."""
    b = p.block
    return (b.type, *(getattr(b, name, None) for name in ("kernel", "se", "stride")))


def pair_kind(left: PlacedBlock, right: PlacedBlock) -> tuple[object, ...]:
    """Return the kind of a pair: both kinds, and the right one's width over the left one's."""
    ratio = 0.0
    if len(right.out_shape) == 3:
        ratio = round(2 * math.log2(right.out_shape[-1] / left.out_shape[-1])) / 2
    return (coarse(left), coarse(right), ratio)


class Pairs:
    """How much of each kind of pair each network has."""

    def __init__(self, networks: list[MeasuredNetwork], scale: Mapping[PlacedBlock, float]) -> None:
        self.kinds: dict[tuple[object, ...], int] = {}
        pairs = []
        for i, network in enumerate(networks):
            for left, right in itertools.pairwise(network.placed):
                kind = self.kinds.setdefault(pair_kind(left, right), len(self.kinds))
                pairs.append((i, kind, (scale[left] + scale[right]) / 2))
        self.counts = {name: np.zeros((len(networks), len(self.kinds))) for name in WIDTHS}
        for i, kind, both in pairs:
            self.counts["ms"][i, kind] += 1
            self.counts["relative"][i, kind] += both


class Paired(predict._Gaussian):
    """The `shrunk` model with terms for pairs."""

    def __init__(self, blocks: predict.BlockTimes, counts: Floats, times: Floats, overhead: float, pairs: Floats, width: float) -> None:  # fmt: skip
        super().__init__("shrunk", blocks, counts, times, overhead)
        self.pairs = pairs  # (networks, kinds of pair)
        self.width = width

    def _joint(self, h: Mapping[str, float]) -> tuple[Floats, Floats]:
        k, residual = super()._joint(h)
        relative = self.pairs / self.measured[:, None]
        return k + self.width**2 * relative @ relative.T, residual

    def predictor(self, h: Mapping[str, float]) -> tuple[predict.Fit, Floats]:
        """Return the fit of the blocks, and the terms of the pairs."""
        from scipy.linalg import cho_factor, cho_solve

        k, residual = self._joint(h)
        weights = cho_solve(cho_factor(k, lower=True), residual) / self.measured
        return self.fit(h), self.width**2 * self.pairs.T @ weights


@dataclasses.dataclass(frozen=True)
class Case:
    """A table as arrays."""

    data: _TableArrays
    pairs: Pairs

    def model(self, chosen: NDArray[np.int64], scaling: str, width: float) -> Paired:
        """Return the model of some networks."""
        d = self.data
        pairs = self.pairs.counts[scaling][chosen]
        return Paired(d.blocks, d.counts[chosen], d.times[chosen], d.overhead, pairs, width)

    def predict(self, fitted: tuple[predict.Fit, Floats], scaling: str, chosen: NDArray[np.int64]) -> Floats:  # fmt: skip
        """Return the latency of some networks, ms."""
        fit, terms = fitted
        predicted: Floats = fit.predict(self.data.counts[chosen]) + self.pairs.counts[scaling][chosen] @ terms  # fmt: skip
        return predicted

    def cross(self, h: Mapping[str, float], scaling: str, width: float) -> float:
        """Return the mean absolute error of calibration networks by fits that have not seen them."""
        numbers = np.flatnonzero(self.data.fitted)
        off = []
        for part in np.array_split(np.random.default_rng(SEED).permutation(numbers), FOLDS):
            kept = np.setdiff1d(numbers, part)
            fitted = self.model(kept, scaling, width).predictor(h)
            off += list(np.abs(self.predict(fitted, scaling, part) / self.data.times[part] - 1))
        return float(np.mean(off))


def study(table: LatencyTable) -> dict[str, Any]:
    """Return what pairs do for one table."""
    data = _TableArrays(table)
    scale = {p: e.inside_ms(data.overhead) + data.overhead for p, e in table.entries.items()}
    case = Case(data, Pairs(data.networks, scale))
    numbers = np.flatnonzero(data.fitted)
    additive = case.model(numbers, "ms", 0.0)
    h = additive.widths()
    tried = {"none": case.cross(h, "ms", 0.0)}
    for scaling, widths in WIDTHS.items():
        tried |= {f"{scaling} {w}": case.cross(h, scaling, w) for w in widths}
    best = min((k for k in tried if k != "none"), key=tried.__getitem__)
    scaling, width = best.split()[0], float(best.split()[1])
    model = case.model(numbers, scaling, width)
    fits = {"shrunk": additive.predictor(h), "pairs": model.predictor(h)}
    fits["pairs, all widths fitted anew"] = model.predictor(model.widths())
    predicted = {k: case.predict(f, scaling, np.arange(len(data.times))) for k, f in fits.items()}
    predicted["sum"] = data.fit("sum").predict(data.counts)
    predicted["noise floor"] = _repeated_times(data.networks)
    return {
        "whose": table.machine_label,
        "calibration": len(numbers),
        "kinds_of_pairs": len(case.pairs.kinds),
        "cross_validation": {k: round(v, 5) for k, v in tried.items()},
        "chosen": best,
        "errors": errors(data, predicted),
    }


def errors(data: _TableArrays, predicted: Mapping[str, Floats]) -> dict[str, Any]:
    """Return the errors of each way on each held-out set, and what pairs change, with a 90 % interval."""
    out: dict[str, Any] = {}
    for space in dict.fromkeys(n.space for n in data.networks):
        for role in ("held_out", "uniform"):
            chosen = data.select(space, role)
            if len(chosen) < 2:
                continue
            times = data.times[chosen]
            entry: dict[str, Any] = {
                k: dataclasses.asdict(predict.errors(v[chosen], times))
                for k, v in predicted.items()
            }
            off = {k: np.abs(predicted[k][chosen] / times - 1) for k in ("shrunk", "pairs")}
            change = off["pairs"] - off["shrunk"]
            draws = np.random.default_rng(SEED).integers(len(change), size=(2000, len(change)))
            low, high = np.quantile(change[draws].mean(axis=1), [0.05, 0.95])
            entry["change"] = [float(change.mean()), float(low), float(high)]  # of MAPE
            out.setdefault(space, {})[role] = entry
    return out


def main() -> None:
    """Study every committed table that has networks enough."""
    studies: dict[str, dict[str, Any]] = {}
    names: dict[str, str] = {}
    for path in sorted(Path("latency_tables").glob("*.json")):
        table = LatencyTable.load(path)
        if sum(n.role == "calibration" for n in table.networks) >= FEWEST:
            machine = f"{table.machine.slug}-{table.machine.isa}"
            studies.setdefault(machine, {})[path.stem] = study(table)
            names[machine] = table.machine.cpu
    for machine, cases in studies.items():
        data = {**_report.conditions([SEED]), "measured_on": names[machine], "tables": cases}
        write_text(
            Path("results") / f"pair-terms-{machine}.json", json.dumps(data, indent=1) + "\n"
        )
        for name, errors_of in cases.items():
            print(name, errors_of["chosen"], errors_of["cross_validation"])
            for space, roles in errors_of["errors"].items():
                for role, entry in roles.items():
                    shown = {k: round(v["mape"], 4) for k, v in entry.items() if k != "change"}
                    print(space, role, shown, [round(x, 4) for x in entry["change"]])


if __name__ == "__main__":
    main()
