"""oneDNN capped to fewer instruction sets: another machine, other kernels, another table."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

from lcnas import latency, paths
from lcnas.errors import EngineError
from lcnas.latency import engines, machine
from lcnas.latency.table import LatencyTable, default, of_engine

from .synthetic import ENGINE

AVX2 = "sse4_1 sse4_2 avx avx2 fma"
AVX512 = f"{AVX2} avx512f avx512bw avx512vl avx512dq"
ZEN3 = AVX2
SKYLAKE = AVX512
CASCADE_LAKE = f"{AVX512} avx512_vnni"
ZEN4 = f"{CASCADE_LAKE} avx512_bf16"
ZEN5 = f"{ZEN4} avx_vnni"
SAPPHIRE_RAPIDS = f"{ZEN5} avx512_fp16 amx_tile amx_int8 amx_bf16"
GRANITE_RAPIDS = f"{SAPPHIRE_RAPIDS} amx_fp16"
ALDER_LAKE = f"{AVX2} avx_vnni"
LUNAR_LAKE = f"{ALDER_LAKE} avx_vnni_int8 avx_ne_convert"

x86 = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="oneDNN's caps are of x86-64"
)
onednn = pytest.mark.skipif(
    engines.default() != "openvino", reason="the OpenVINO provider is not installed"
)
avx2_and_more = pytest.mark.skipif(
    latency.this_machine(capped=False).isa in ("avx2", "sse42"),
    reason="this processor has nothing above AVX2",
)


@pytest.fixture(autouse=True)
def uncapped(monkeypatch):
    for name in machine.CAPS:
        monkeypatch.delenv(name, raising=False)


@x86
@pytest.mark.parametrize(
    ("flags", "cap", "isa"),
    [
        (ZEN5, "SSE41", "sse41"),
        (ZEN5, "AVX", "avx"),
        (ZEN5, "AVX2", "avx2"),
        (ZEN5, "AVX2_VNNI", "avxvnni"),
        (ZEN5, "AVX2_VNNI_2", "avxvnni"),  # which it lacks
        (ZEN5, "AVX512_CORE", "avx512"),
        (ZEN5, "AVX512_CORE_VNNI", "avx512vnni"),
        (ZEN5, "AVX512_CORE_BF16", "avx512bf16"),
        (ZEN5, "AVX512_CORE_FP16", "avx512bf16"),
        (ZEN5, "AVX512_CORE_AMX", "avx512bf16"),
        (ZEN4, "AVX2_VNNI", "avx2"),  # its VNNI is that of AVX-512 alone
        (ZEN3, "AVX512_CORE", "avx2"),  # the lower of the two
        (ZEN3, "AVX2", "avx2"),
        (ZEN3, "AVX", "avx"),
        (SKYLAKE, "AVX512_CORE_VNNI", "avx512"),
        (CASCADE_LAKE, "AVX512_CORE", "avx512"),
        (SAPPHIRE_RAPIDS, "AVX512_CORE_AMX", "amx"),
        (SAPPHIRE_RAPIDS, "AVX10_1_512_AMX", "amx"),  # the same by its other name
        (SAPPHIRE_RAPIDS, "AVX512_CORE_FP16", "avx512fp16"),
        (SAPPHIRE_RAPIDS, "AVX10_1_512", "avx512fp16"),
        (SAPPHIRE_RAPIDS, "AVX512_CORE_BF16", "avx512bf16"),
        (SAPPHIRE_RAPIDS, "AVX2_VNNI", "avxvnni"),
        (GRANITE_RAPIDS, "AVX512_CORE_AMX_FP16", "amx"),  # its name with nothing left out
        (GRANITE_RAPIDS, "AVX512_CORE_AMX", "amxcapped"),
        (ALDER_LAKE, "AVX2_VNNI", "avxvnni"),
        (ALDER_LAKE, "AVX512_CORE_FP16", "avxvnni"),  # oneDNN's fp16 step has the VNNI of AVX2 below it
        (ALDER_LAKE, "AVX512_CORE_BF16", "avx2"),  # and its bf16 step has not
        (LUNAR_LAKE, "AVX2_VNNI_2", "avxvnni"),
        (LUNAR_LAKE, "AVX2_VNNI", "avxvnnicapped"),
    ],
)  # fmt: skip
def test_what_a_cap_leaves_of_a_processor(flags, cap, isa):
    info = {"flags": flags}
    own = machine.instruction_set(info)
    for name in machine.CAPS:
        for value in (cap, cap.lower()):  # oneDNN ignores case
            assert machine.capped_set(info, {name: value}) == isa
    for nothing in ({}, {machine.CAPS[0]: ""}, {machine.CAPS[0]: "DEFAULT"}):
        assert machine.capped_set(info, nothing) == own


@x86
def test_values_that_cap_nothing_and_which_of_two_names_counts():
    def capped(**variables: str) -> str:
        return machine.capped_set({"flags": ZEN4}, variables)

    # As oneDNN has it: what it doesn't know caps nothing, and hides the old name too; an empty one doesn't.
    for value in ("ALL", "DEFAULT", "AVX3", " AVX2", "2"):
        assert capped(ONEDNN_MAX_CPU_ISA=value) == "avx512bf16"
        assert capped(ONEDNN_MAX_CPU_ISA=value, DNNL_MAX_CPU_ISA="AVX2") == "avx512bf16"
    assert capped(ONEDNN_MAX_CPU_ISA="AVX2", DNNL_MAX_CPU_ISA="AVX512_CORE") == "avx2"
    assert capped(ONEDNN_MAX_CPU_ISA="", DNNL_MAX_CPU_ISA="AVX512_CORE") == "avx512"


def test_a_cap_where_the_processor_is_not_known(monkeypatch):
    cap = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    monkeypatch.setattr(platform, "machine", lambda: "AMD64")  # Windows
    assert machine.capped_set({}, {}) == "amd64"
    assert machine.capped_set({}, cap) == "amd64-avx2"
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert machine.capped_set({"Features": "fp asimd asimddp"}, cap) == "dotprod"


def test_which_steps_multiply_bf16():
    having = ("amx", "amxcapped", "avx512bf16", "avx512bf16capped", "avx512fp16")
    assert all(machine.has_bf16(isa) for isa in having)
    assert not any(machine.has_bf16(isa) for isa in ("avx512vnni", "avx512", "avxvnni", "avx2", ""))


def test_processors_differ_in_all_properties_that_a_compiler_reads(monkeypatch):
    info = {"model name": "AMD EPYC", "cpu family": "25", "model": "17", "flags": ZEN4}

    def key(**changes: str) -> str:
        monkeypatch.setattr(machine, "_cpuinfo", lambda: info | changes)
        return machine.processor_key()

    own = key()
    assert own.startswith("amd-epyc-")
    assert own == key() == key(flags=" ".join(reversed(ZEN4.split())))
    others = [key(flags=f"{ZEN4} avx512_vp2intersect"), key(flags=AVX2), key(model="24")]
    assert len({own, *others}) == 4
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")  # which does not concern a compiler
    assert key() == own


@x86
@avx2_and_more
def test_only_engines_on_onednn_are_capped(monkeypatch):
    full = latency.this_machine()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert (latency.this_machine().isa, latency.this_machine(capped=False)) == ("avx2", full)
    assert not latency.this_machine().same_kind(full)
    for name in engines.names():
        assert engines.machine_of(name).isa == (full.isa if name == "mlas" else "avx2")
    assert engines.engine("mlas").isa == full.isa


@x86
@onednn
@avx2_and_more
def test_bf16_is_refused_under_a_cap_that_leaves_it_out(monkeypatch):
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "avx2")
    message = (
        r"precision: oneDNN is capped to avx2 \(DNNL_MAX_CPU_ISA\), which does not multiply bf16"
    )
    with pytest.raises(EngineError, match=message if _has_bf16() else "does not multiply bf16"):
        engines.engine("openvino", precision="bf16")


def _has_bf16() -> bool:
    return machine.has_bf16(latency.this_machine(capped=False).isa)


@x86
@avx2_and_more
def test_a_capped_table_is_not_the_full_processors(tmp_path, monkeypatch):
    monkeypatch.setenv("LCNAS_TABLES", str(tmp_path))
    full = LatencyTable(engines.machine_of("openvino"), ENGINE).save(tmp_path)
    assert default(ENGINE) == full
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert default(ENGINE) is None
    assert not LatencyTable.load(full).of_this_machine()
    capped = LatencyTable(engines.machine_of("openvino"), ENGINE).save(tmp_path)
    assert capped.name == full.name.replace(f"-{latency.this_machine(capped=False).isa}-", "-avx2-")
    assert default(ENGINE) == capped
    assert LatencyTable.load(capped).of_this_machine()
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    assert default(ENGINE) == full
    assert not LatencyTable.load(capped).of_this_machine()


@x86
@avx2_and_more
def test_a_table_of_mlas_is_the_same_under_a_cap(tmp_path, monkeypatch):
    engine = engines.engine("mlas")
    path = LatencyTable(engines.machine_of("mlas"), engine).save(tmp_path)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("LCNAS_TABLES", str(tmp_path))
    assert engines.engine("mlas") == engine
    assert default(engine) == path
    assert LatencyTable.load(path).of_this_machine()


@x86
def test_packaged_tables_stay_those_of_their_machine(monkeypatch):
    """Names and contents that were written before caps existed still match."""
    for path in sorted((paths.spaces_dir().parent / "latency_tables").glob("*.json")):
        table = LatencyTable.load(path)
        stem = table.file_name.removesuffix(".json")
        assert path.stem == stem or path.stem.startswith(f"{stem}-")
        machine_of_table = table.machine
        monkeypatch.setattr(engines, "this_machine", lambda m=machine_of_table, **_: m)
        assert path in of_engine(table.engine)
        assert default(table.engine) == path.with_stem(stem)
        assert table.of_this_machine()


PROBE = """
import hashlib, json
import numpy as np
from lcnas import latency, zoo
from lcnas.latency import engines, sources

arch = zoo.load("pplcnet_0.25x", resolution=32)
x = np.random.default_rng(0).standard_normal((1, 3, 32, 32), dtype=np.float32)
out = {}
for name in ("openvino", "mlas"):
    engine = engines.engine(name)
    y = sources.open_fresh(arch, engine, 10).outputs(x)
    out[name] = [engine.isa, hashlib.sha256(y.tobytes()).hexdigest(), y.ravel().tolist()]
print(json.dumps(out))
"""


@x86
@onednn
def test_the_cap_reaches_the_kernels():
    """In processes of their own: oneDNN looks at the variable once. AVX2 and SSE4.1 round otherwise."""

    def run(cap: str) -> dict[str, tuple[str, str, list[float]]]:
        env = os.environ | {"ONEDNN_MAX_CPU_ISA": cap}
        process = subprocess.run(
            [sys.executable, "-c", PROBE], env=env, capture_output=True, text=True
        )
        assert process.returncode == 0, process.stderr
        outputs: dict[str, tuple[str, str, list[float]]] = json.loads(process.stdout)
        return outputs

    avx2, sse = run("AVX2"), run("SSE41")
    assert (avx2["openvino"][0], sse["openvino"][0]) == ("avx2", "sse41")
    assert avx2["openvino"][1] != sse["openvino"][1]
    assert avx2["openvino"][2] == pytest.approx(sse["openvino"][2], rel=1e-3, abs=1e-3)
    assert avx2["mlas"] == sse["mlas"]  # its kernels are its own
