"""Engines: their identity, and the errors that users meet."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from lcnas import latency, onnx_export, zoo
from lcnas.errors import EngineError
from lcnas.latency import engines, machine, sources

HERE = [
    name
    for name in ("openvino", "mlas")
    if not (name == "openvino" and engines.default() != "openvino")
]


@pytest.fixture(scope="module")
def small():
    return zoo.load("pplcnet_0.25x", resolution=32)


@pytest.mark.parametrize("name", HERE)
def test_an_engine_runs_a_network_and_names_itself(name, small):
    engine = engines.engine(name)
    session = sources.open_fresh(small, engine, classes=10)
    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32), dtype=np.float32)
    assert session.outputs(x).shape == (1, 10)
    session.run()
    assert engine.version[0].isdigit()
    assert engine.label == f"{name}{engine.version.partition('+')[0]}-fp32-t1-b1"
    assert engine.isa == latency.this_machine().isa


@pytest.mark.parametrize("name", HERE)
def test_batch_is_part_of_the_engine(name, small):
    engine = engines.engine(name, batch=3)
    x = np.zeros((3, 3, 32, 32), dtype=np.float32)
    assert sources.open_fresh(small, engine, 10).outputs(x).shape == (3, 10)
    model = sources.onnx_bytes(small, engines.engine(name), 10)
    with pytest.raises(EngineError, match="is made for batch 1, the engine for 3"):
        engine.open(model)


@pytest.mark.parametrize("name", HERE)
def test_int8_gives_nearly_the_same_and_not_the_same(name, small):
    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32), dtype=np.float32)
    exact = sources.open_fresh(small, engines.engine(name), 10).outputs(x)
    rough = sources.open_fresh(small, engines.engine(name, precision="int8"), 10).outputs(x)
    assert not np.array_equal(exact, rough)
    assert np.corrcoef(exact.ravel(), rough.ravel())[0, 1] > 0.8


@pytest.mark.skipif("openvino" not in HERE, reason="the OpenVINO provider is not installed")
@pytest.mark.skipif(
    not machine.has_bf16(machine.this_machine().isa), reason="this processor has no bf16"
)
def test_bf16_is_really_bf16_and_fp32_really_fp32(small):
    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32), dtype=np.float32)
    exact = sources.open_fresh(small, engines.engine("mlas"), 10).outputs(x)
    fp32 = sources.open_fresh(small, engines.engine("openvino"), 10).outputs(x)
    bf16 = sources.open_fresh(small, engines.engine("openvino", precision="bf16"), 10).outputs(x)
    scale = np.abs(exact).max()
    assert np.abs(fp32 - exact).max() < 1e-4 * scale
    assert 1e-4 * scale < np.abs(bf16 - exact).max() < 0.1 * scale


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "openvin"}, "engine: 'openvin' is not among .*did you mean 'openvino'"),
        ({"name": 7}, "engine: 7 is not among"),
        (
            {"name": "mlas", "precision": "bf16"},
            "engine mlas: precision: 'bf16' is not among fp32, int8",
        ),
        ({"name": "mlas", "precision": "fp16"}, "precision: 'fp16' is not among .*did you mean"),
        ({"name": "mlas", "threads": 0}, "threads: 0 is not a whole number of 1 to"),
        ({"name": "mlas", "batch": True}, "batch: True is not a whole number"),
    ],
)
def test_settings_that_an_engine_does_not_have(settings, message):
    with pytest.raises(EngineError, match=message) as caught:
        engines.engine(**settings)
    assert "\n" not in str(caught.value)


def test_an_engine_that_is_not_in_this_build_says_which_builds_have_it():
    with pytest.raises(EngineError, match="only builds from source with --use_dnnl have it"):
        engines.engine("dnnl")


@pytest.mark.parametrize(
    ("name", "package"),
    [("openvino-plugin", "onnxruntime_ep_openvino"), ("openvino-package", "openvino")],
)
def test_optional_engines_say_what_to_install(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(EngineError, match=f"engine {name}: not installed; pip install "):
        engines.engine(name)


class FakeRuntime:
    """A stock onnxruntime whose plug-in may or may not offer a CPU device."""

    __version__ = "1.32.0"

    class OrtHardwareDeviceType:
        CPU, GPU = "cpu", "gpu"

    def __init__(self, kinds):
        self.kinds = kinds
        self.registered = []

    def register_execution_provider_library(self, name, path):
        self.registered.append((name, path))

    def get_ep_devices(self):
        device = types.SimpleNamespace
        return [
            device(ep_name=n, device=device(type=k)) for n, _ in self.registered for k in self.kinds
        ]


@pytest.fixture
def plugin(monkeypatch):
    module = types.SimpleNamespace(
        get_ep_name=lambda: "OpenVINOExecutionProvider", get_library_path=lambda: "/lib/plugin.so"
    )
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_openvino", module)
    monkeypatch.setattr(engines, "_installed", lambda name: "1.8.1")


@pytest.mark.usefixtures("plugin")
def test_the_plug_in_is_registered_once_and_its_cpu_device_is_taken(monkeypatch):
    fake = FakeRuntime(["gpu", "cpu"])
    monkeypatch.setattr(engines, "_runtime", lambda: fake)
    engine = engines.engine("openvino-plugin", threads=2)
    engines.engine("openvino-plugin")
    assert engine.version == "1.8.1+onnxruntime1.32.0"
    assert fake.registered == [("OpenVINOExecutionProvider", "/lib/plugin.so")]


@pytest.mark.usefixtures("plugin")
def test_a_plug_in_without_a_cpu_device_is_refused(monkeypatch):
    monkeypatch.setattr(engines, "_runtime", lambda: FakeRuntime(["gpu"]))
    with pytest.raises(EngineError, match="offers no CPU device here"):
        engines.engine("openvino-plugin")


def test_without_the_provider_the_openvino_engine_says_what_to_install(monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(
        EngineError, match=r"pip install onnxruntime-openvino .* or use --engine mlas"
    ):
        engines.engine("openvino")
    assert engines.default() == "mlas"


def test_two_builds_of_onnxruntime_at_once_are_refused(monkeypatch):
    monkeypatch.setattr(engines, "_installed", lambda name: "1.24.1")
    with pytest.raises(EngineError, match="are both installed and overwrite one another; run: pip"):
        engines.engine("mlas")


def test_bf16_on_a_processor_without_it(monkeypatch):
    old = machine.Machine("Old CPU", "avx2", 2, "Linux x86_64")
    monkeypatch.setattr(engines, "this_machine", lambda **_: old)
    with pytest.raises(EngineError, match=r"this processor \(avx2\) does not multiply bf16"):
        engines.engine("openvino", precision="bf16")


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("model", [b"", b"not a model"])
def test_a_file_that_the_engine_rejects(name, model):
    with pytest.raises(EngineError, match=f"engine {name}: refuses the model: ") as caught:
        engines.engine(name).open(model)
    assert "\n" not in str(caught.value)


def test_another_provider_than_the_one_asked_for_is_an_error(monkeypatch, small):
    import onnxruntime

    class Silent(onnxruntime.InferenceSession):  # type: ignore[misc]
        def get_providers(self):
            return ["SomeOtherExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Silent)
    model = onnx_export.to_bytes(onnx_export.export(small))
    with pytest.raises(EngineError, match=r"asked for CPUExecutionProvider, but \['SomeOther"):
        engines.engine("mlas").open(model)


@pytest.mark.skipif("openvino" not in HERE, reason="the OpenVINO provider is not installed")
def test_falling_back_to_another_provider_is_forbidden():
    """A node that the OpenVINO provider does not take may not go to onnxruntime's own kernels."""
    import onnx
    from onnx import TensorProto, helper

    node = helper.make_node(
        "Unique", ["input"], ["output"]
    )  # no static output shape: not on OpenVINO
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "g",
        [value("input", TensorProto.FLOAT, [1, 8])],
        [value("output", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert isinstance(model, onnx.ModelProto)
    engines.engine("mlas").open(model.SerializeToString()).run()
    message = (
        "engine openvino: refuses the model: it does not run the operator Unique; --engine mlas has"
    )
    with pytest.raises(EngineError, match=message):
        engines.engine("openvino").open(model.SerializeToString())


@pytest.mark.skipif("openvino" not in HERE, reason="the OpenVINO provider is not installed")
def test_operators_that_an_engine_lacks_are_named_with_their_nodes(monkeypatch):
    import onnxruntime
    from onnx import TensorProto, helper

    nodes = [helper.make_node("Relu", ["input"], ["r"], name="fine")]
    nodes += [
        helper.make_node("Unique", ["r" if i == 0 else f"u{i - 1}"], [f"u{i}"], name=f"odd{i}")
        for i in range(3)
    ]
    nodes.append(helper.make_node("NonZero", ["u2"], ["output"], name="last"))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("input", TensorProto.FLOAT, [1, 8])],
        [value("output", TensorProto.INT64, None)],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    with pytest.raises(EngineError) as caught:
        engines.engine("openvino").open(model)
    assert "the operator Unique (node 'odd0', 3 times)" in str(caught.value)
    assert "Relu" not in str(caught.value)

    class Older(onnxruntime.InferenceSession):  # type: ignore[misc]
        def __getattribute__(self, name):
            if name == "get_provider_graph_assignment_info":
                raise AttributeError(name)
            return super().__getattribute__(name)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Older)
    with pytest.raises(EngineError, match="it does not run some operator of it; --engine mlas"):
        engines.engine("openvino").open(model)


def test_instruction_sets():
    assert machine.instruction_set({"flags": "sse4_2 avx2 fma"}) == "avx2"
    flags = "sse4_2 avx2 fma avx512f avx512bw avx512vl"
    assert machine.instruction_set({"flags": flags}) == "avx512"
    assert machine.instruction_set({"flags": f"{flags} avx512_vnni"}) == "avx512vnni"
    assert machine.instruction_set({"flags": f"{flags} avx512_vnni avx512_bf16"}) == "avx512bf16"
    assert machine.instruction_set({"flags": f"{flags} amx_tile amx_bf16 avx512_bf16"}) == "amx"
    assert machine.instruction_set({"Features": "fp asimd asimddp"}) == "dotprod"
    assert machine.instruction_set({})


def test_names_of_processors_as_file_names():
    def slug(cpu: str) -> str:
        return machine.Machine(cpu, "avx2", 2, "").slug

    assert slug("Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz") == "intel-xeon-gold-6148"
    assert slug("AMD EPYC 9B14") == "amd-epyc-9b14"
    assert slug("AMD Ryzen 7 5800X 8-Core Processor") == "amd-ryzen-7-5800x"
    assert slug("") == "cpu"


def test_pinning_gives_the_cores_back():
    before = machine.usable_cores()
    with machine.pinned(1) as cores:
        if cores is not None:
            assert cores == before[-1:] == machine.usable_cores()
    assert machine.usable_cores() == before


def test_pinning_where_the_system_has_no_such_call(monkeypatch):
    monkeypatch.delattr("os.sched_setaffinity", raising=False)
    with machine.pinned(1) as cores:
        assert cores is None
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    assert machine.usable_cores()


def test_pinning_where_a_sandbox_forbids_it(monkeypatch):
    def forbidden(*_):
        raise PermissionError

    monkeypatch.setattr("os.sched_setaffinity", forbidden, raising=False)
    with machine.pinned(1) as cores:
        assert cores is None


def test_pinning_with_one_core_only(monkeypatch):
    requested = []
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0}, raising=False)
    monkeypatch.setattr(
        "os.sched_setaffinity", lambda _, cores: requested.append(tuple(cores)), raising=False
    )
    with machine.pinned(4) as cores:
        assert cores == (0,)
    assert requested == [(0,), (0,)]


def test_threads_are_at_most_those_that_openvino_began_with(monkeypatch):
    monkeypatch.setattr(engines, "_openvino_threads", [])
    assert engines.threads_at_most(4) == 4
    monkeypatch.setattr(engines, "_openvino_threads", [2])
    assert [engines.threads_at_most(n) for n in (1, 2, 4)] == [1, 2, 2]
