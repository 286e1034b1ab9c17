"""The test of the final evaluation: exported files run over the test images, once.

Winners are named by validation before test images are read. Files run on the engine of the measured latency,
over images that are read from their originals and preprocessed as in ``lcnas.classify``. In a run of version
1, whose networks were trained at another size than they are exported for, the file of the training size is
tested.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lcnas import files
from lcnas.latency.engines import Engine
from lcnas.training import deployed
from lcnas.training import run as run_files
from lcnas.training.data import Test, require
from lcnas.training.onnx_validation import correct
from search.context import SearchContext
from search.errors import SearchFailedError
from search.finals.network_training import TrainedNetwork
from search.finals.training import FinalEntry, TrainedEntry
from search.outcome import FINALIST, FinalNetwork, FinalRun
from search.problem import SearchProblem
from search.run_dir import HITS, HITS_FP32, HITS_LAST, LAST_ONNX, NETWORK_FP32, NETWORKS, RunDir

if TYPE_CHECKING:
    from lcnas.training.data import Data


def test(
    context: SearchContext, trained: Sequence[TrainedEntry]
) -> tuple[tuple[FinalNetwork, ...], tuple[str, ...]]:
    """Return all networks with their accuracies, and notes."""
    winners = _winners(trained)
    engine, note = deployed.local_engine(context.problem.table.engine)
    _test_files(context.data, trained, engine)
    networks = []
    for t in trained:
        best = max(t.trainings, key=lambda training: training.validation)
        _copy_network(t.entry, best, context.run_dir)
        runs = tuple(_run(t.entry, training, engine, context.run_dir) for training in t.trainings)
        networks.append(replace(t.entry.network, winner=t.entry.name in winners, runs=runs))
    return tuple(networks), (note,) if note else ()


def tested_by(problem: SearchProblem) -> str:
    """Return the label of the engine that runs exported files for their accuracies."""
    return deployed.local_engine(problem.table.engine)[0].label


def measured_by(problem: SearchProblem, networks: Sequence[FinalNetwork]) -> str:
    """Return the label of the engine of the measured latencies; "" if none was measured."""
    measured = any(network.measured is not None for network in networks)
    return problem.local_engine.label if measured else ""


def last_onnx_hits(out: str | Path, data: Data) -> NDArray[np.bool_]:
    """Return which test images the network of an older run classifies correctly, in their order, (n,).

    It is ``last.onnx`` in the folder, at the training size, and sees what an evaluation of the training would
    show it. Images that cannot be read are left out.

    Raises:
        OnnxError: the file does not exist.
    """
    from lcnas import onnx_export
    from lcnas.training.augment import Augment
    from lcnas.training.data import Normalization

    classifier = onnx_export.Classifier.of(Path(out) / LAST_ONNX)
    preprocessing = classifier.interface.preprocessing()
    normalization = Normalization(preprocessing.mean, preprocessing.std)
    augment = Augment(evaluate_crop=preprocessing.crop)
    return correct(classifier, augment, normalization, require(data.test, Test))


def save_hits(path: str | Path, hits: NDArray[np.bool_]) -> None:
    """Write hits as a NumPy file.

    Raises:
        SearchFailedError: it cannot be written.
    """
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(hits, bool), allow_pickle=False)
    try:
        files.write(Path(path), buffer.getvalue())
    except OSError as error:
        raise SearchFailedError(f"{path}: cannot be written: {error.strerror}") from None


def _test_files(data: Data, trained: Sequence[TrainedEntry], engine: Engine) -> None:
    """Run all files that have not been tested over the test images, and write their hits."""
    delivered: dict[str, Path] = {}  # path of the hits -> file
    twins: dict[str, Path] = {}  # of their fp32 twins
    for t in trained:
        for training in t.trainings:
            out = t.entry.out(training.seed)
            if not training.is_deployed:
                if not (out / HITS_LAST).is_file():
                    save_hits(out / HITS_LAST, last_onnx_hits(out, data))
                continue
            delivered |= _untested(out / HITS, out / training.onnx)
            if engine.precision != "fp32":
                twin = out / NETWORK_FP32
                twins |= _untested(out / HITS_FP32, twin if twin.is_file() else out / training.onnx)
    fp32_engine = deployed.with_precision(engine, "fp32")
    for untested, by in ((delivered, engine), (twins, fp32_engine)):
        if untested:
            results = deployed.hits(untested, data, require(data.test, Test), engine=by)
            for path, hits in results.items():
                save_hits(path, hits.correct)


def _untested(hits: Path, file: Path) -> dict[str, Path]:
    return {} if hits.is_file() else {str(hits): file}


def _copy_network(entry: FinalEntry, best: TrainedNetwork, run_dir: RunDir) -> None:
    """Copy the network of the best seed by validation to the folder of delivered networks."""
    target = run_dir / NETWORKS / f"{entry.name}.onnx"
    with run_files.unwritable(target.parent):
        target.parent.mkdir(exist_ok=True)
        files.copy(entry.out(best.seed) / best.onnx, target)


def _winners(trained: Sequence[TrainedEntry]) -> set[str]:
    """Return the name of the best finalist of each band by validation accuracy, mean over seeds."""
    best: dict[int, tuple[float, str]] = {}
    # Workers without the engine validate by another one: then the fp32 accuracy counts, which all have.
    mixed = len({training.engine for t in trained for training in t.trainings}) > 1
    for t in trained:
        network = t.entry.network
        if network.role == FINALIST:
            accuracies = [one.fp32 if mixed else one.validation for one in t.trainings]
            mean = float(np.mean(accuracies))
            if network.band not in best or mean > best[network.band][0]:
                best[network.band] = (mean, network.name)
    return {name for _, name in best.values()}


def _run(entry: FinalEntry, training: TrainedNetwork, engine: Engine, run_dir: RunDir) -> FinalRun:
    out = entry.out(training.seed)
    hits, twin_hits = out / (HITS if training.is_deployed else HITS_LAST), out / HITS_FP32
    has_twin = training.is_deployed and twin_hits.is_file()
    return FinalRun(
        seed=training.seed,
        validation=training.validation,
        test=_accuracy(hits),
        onnx=str((out / training.onnx).relative_to(run_dir.path)),
        hits=str(hits.relative_to(run_dir.path)),
        seconds=training.seconds,
        compile_seconds=training.compile_seconds,
        images_s=training.images_s,
        resolution=training.size,
        precision=engine.precision if training.is_deployed else "fp32",
        test_fp32=_accuracy(twin_hits) if has_twin else None,
    )


def _accuracy(path: Path) -> float:
    return float(np.load(path, allow_pickle=False).mean())
