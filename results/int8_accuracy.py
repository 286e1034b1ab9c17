"""What int8 costs in accuracy and gives in latency: each way to quantise, on each engine, and capped.

    python -m lcnas.train --arch pplcnet_32_0.5x --data cifar10:DIR --recipe cifar10 --epochs 6 --out RUN
    python -m results.int8_accuracy --data cifar10:DIR --size 32 --text-line DIR RUN/best.onnx
    python -m results.int8_accuracy --text-line DIR RUN/best.onnx --only latency

Each network is quantised in every way of lcnas.onnx_export.quantise, calibrated with the same training
images, drawn by seed. Two ways more are the 8-bit file with other types for the same numbers: signed
activations, and unsigned weights. All answer the test images of the set, on onnxruntime's own kernels (mlas),
on openvino, and on openvino with oneDNN capped to AVX2, in a process of its own: there two products are added
in 16 bits, as on processors without VNNI. The text-line network (a trained PP-LCNet 0.25x) is calibrated on
two of its images, and its log-odds are compared with those of another runtime. Writes
results/int8-accuracy.json; --only says which parts are made anew, and the others stay. Takes about 10
minutes, latencies 3 of them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _report

NAME = "int8-accuracy"
PARTS = ("accuracy", "text-line", "latency")
CALIBRATE, BATCH, SEED = 512, 32, 0
TIMED = (
    "pplcnet_0.5x",
    "mobilenet_v2_1.0x",
)  # at 224 px, with random weights; and the networks given
WAYS: dict[str, dict[str, Any]] = {
    f"{scheme}, {ranges}, {weights}": {"scheme": scheme, "ranges": ranges, "weights": weights}
    for scheme, ranges, weights in itertools.product(
        ("dense", "all"), ("extremes", "mean"), ("7bit", "8bit")
    )
}
PLACES = {  # engine, and the environment in which it runs
    "mlas": ("mlas", {}),
    "openvino": ("openvino", {}),
    "openvino capped to AVX2": ("openvino", {"ONEDNN_MAX_CPU_ISA": "AVX2"}),
}


# -- the files -------------------------------------------------------------------------------------


def ways(model: bytes, batches: list[Any], ranges: tuple[str, ...]) -> dict[str, bytes]:
    """Return the fp32 file and its int8 files."""
    from lcnas import onnx_export

    files = {"fp32": model}
    for name, options in WAYS.items():
        if options["ranges"] in ranges:
            files[name] = onnx_export.quantise(model, batches, **options)
    for scheme in ("dense", "all"):
        full = files[f"{scheme}, extremes, 8bit"]
        files[f"{scheme}, signed activations"] = shifted(full, np.uint8, np.int8, -128)
        files[f"{scheme}, unsigned weights"] = shifted(full, np.int8, np.uint8, 128)
    return files


def shifted(model: bytes, old: type, new: type, by: int) -> bytes:
    """Return a file whose 8-bit constants of one type are of another, by a shift: the same numbers."""
    import onnx
    from onnx import numpy_helper

    shifted_model = onnx.load_from_string(model)
    for tensor in shifted_model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == old:
            moved: Any = (values.astype(int) + by).astype(new)
            tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
    data: bytes = shifted_model.SerializeToString(deterministic=True)
    return data


def text_line(folder: Path) -> tuple[bytes, Any, Any]:
    """Return the text-line network, its images, and the log-odds of another runtime."""
    from lcnas import onnx_export
    from lcnas.models import pretrained

    network = pretrained.read(folder / "inference.pdiparams")
    model = onnx_export.export(network.arch, weights=network.weights, classes=2, batch=None)
    with np.load(folder / "reference.npz") as reference:
        return onnx_export.to_bytes(model), reference["x"], reference["log_odds"]


# -- one place: a process of its own ---------------------------------------------------------------


def everywhere(work: Path, task: str) -> dict[str, Any]:
    """Return what the files of a folder give in every place."""
    answers = {}
    for place, (engine, variables) in PLACES.items():
        command = [sys.executable, "-m", "results.int8_accuracy", "--child", task, engine]
        done = subprocess.run(
            [*command, str(work)], env={**os.environ, **variables}, check=True, capture_output=True
        )
        answers[place] = json.loads(done.stdout)
    return answers


def outputs(engine: str, path: Path, x: Any) -> Any:
    """Return the logits of a file for normalised images (n, height, width, 3)."""
    from lcnas import onnx_export
    from lcnas.latency import engines

    def begin(data: bytes, interface: Any) -> Any:
        return engines.engine(engine, batch=interface.batch or 1).open(data).outputs

    return onnx_export.Classifier.of(path, begin=begin).logits(x)


def child(task: str, engine: str, work: Path) -> dict[str, Any]:
    """Return what a place says of each file of a folder."""
    from lcnas import latency, onnx_export
    from lcnas.latency import engines, timing

    files = {path.stem: path for path in sorted(work.glob("*.onnx"))}
    if task == "latency":
        plan = timing.TimingPlan(sessions=2, rounds=4, most_rounds=6, target=0.02, visit_ms=8.0)
        estimates = latency.measure_all(files, engines.engine(engine), plan=plan, seed=SEED)
        return {name: [round(v, 4) for v in (m.ms, m.low, m.high)] for name, m in estimates.items()}
    x = np.load(work / "images.npy")
    if x.dtype == np.uint8:
        interface = onnx_export.interface(onnx_export.read(files["fp32"]))
        x = interface.preprocessing()(x)
    wanted = np.load(work / "wanted.npy")
    results = {name: outputs(engine, path, x) for name, path in files.items()}
    if task == "accuracy":
        return {n: float((logits.argmax(1) == wanted).mean()) for n, logits in results.items()}
    return {n: against(logits[:, 0] - logits[:, 1], wanted) for n, logits in results.items()}


def against(actual: Any, expected: Any) -> dict[str, Any]:
    """Return how far log-odds are off; the first four are the images of text, the last three noise."""
    off = np.abs(actual - expected)
    return {
        "answers_kept": int(((actual > 0) == (expected > 0))[:4].sum()),
        "relative": round(float((off / np.abs(expected))[:4].max()), 4),
        "largest": round(float(off.max()), 3),
    }


# -- the parts -------------------------------------------------------------------------------------


def laid(
    files: dict[str, bytes], x: Any = None, wanted: Any = None
) -> tempfile.TemporaryDirectory[str]:
    """Return a folder with files, and what they are asked."""
    folder = tempfile.TemporaryDirectory()
    for name, data in files.items():
        (Path(folder.name) / f"{name}.onnx").write_bytes(data)
    if x is not None:
        np.save(Path(folder.name) / "images.npy", x)
        np.save(Path(folder.name) / "wanted.npy", wanted)
    return folder


def accuracies(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the test accuracies of each network's files."""
    from lcnas import onnx_export, training

    rows = []
    with training.load_data(args.data, size=args.size) as data:
        taken = data.train.batches(BATCH, seed=SEED, epoch=0)
        calibration = [b.images for b in itertools.islice(taken, CALIBRATE // BATCH)]
        test = list(data.test.batches(250))
        x, labels = (
            np.concatenate([np.asarray(getattr(b, what))[b.mask] for b in test])
            for what in ("images", "labels")
        )
        for path in args.networks:
            files = ways(path.read_bytes(), calibration, ("extremes", "mean"))
            with laid(files, x, labels) as work:
                answers = everywhere(Path(work), "accuracy")
            sizes = {name: len(data) for name, data in files.items()}
            name = arch_of(onnx_export.read(path))
            rows.append({"network": name, "images": len(x), "bytes": sizes, "accuracy": answers})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def arch_of(model: Any) -> str:
    """Return the name of the network in a file of ours."""
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    return str(json.loads(metadata["lcnas.arch"])["name"])


def texts(args: argparse.Namespace) -> dict[str, Any]:
    """Return how far the log-odds of the text-line network's files are off."""
    model, x, expected = text_line(args.text_line)
    with laid(ways(model, [x[:2]], ("extremes",)), x.transpose(0, 2, 3, 1), expected) as work:
        answers = everywhere(Path(work), "text-line")
    print(json.dumps(answers), flush=True)
    return {"calibrated_on": 2, "images": len(x), "off": answers}


def latencies(args: argparse.Namespace) -> dict[str, Any]:
    """Return the latency of every choice, ms with its 90 % interval, one thread, batch 1."""
    from lcnas import onnx_export, zoo

    sources = {name: onnx_export.export(zoo.load(name)) for name in TIMED}
    for path in args.networks:
        model = onnx_export.read(path)
        sources[arch_of(model)] = model
    if args.text_line is not None:
        sources["text-line"] = onnx_export.read(text_line(args.text_line)[0])
    out = {}
    for name, model in sources.items():
        interface = onnx_export.interface(model)
        size = interface.preprocessing().size
        if interface.batch is None:
            model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        draws = np.random.default_rng(SEED).normal(size=(2, *size, 3)).astype(np.float32)
        with laid(ways(onnx_export.to_bytes(model), [draws], ("extremes",))) as work:
            out[name] = everywhere(Path(work), "latency")
        print(json.dumps({name: out[name]}), flush=True)
    return out


def main() -> None:
    """Make the parts asked for, write, print."""
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(sys.argv[2], sys.argv[3], Path(sys.argv[4]))))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", type=Path, nargs="*")
    parser.add_argument("--data")
    parser.add_argument("--size", type=int)
    parser.add_argument("--text-line", type=Path)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    args = parser.parse_args()
    path = _report.RESULTS / f"{NAME}.json"
    data: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    parts = {"accuracy": accuracies, "text-line": texts, "latency": latencies}
    for part in args.only:
        kind = (args.data or "").partition(":")[0]
        of_data = f"--data {kind}:DIR --size {args.size} " if part == "accuracy" else ""
        command = f"python -m results.int8_accuracy {of_data}--text-line DIR NETWORKS --only {part}"
        about = {**_report.conditions([SEED]), "command": command}
        data[part] = {**about, "found": parts[part](args)}
        _report.write(NAME, data)


if __name__ == "__main__":
    main()
