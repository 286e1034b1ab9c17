"""Inference engines behind one small interface: each names exactly what it is, and proves that it ran.

onnxruntime falls back silently to its own kernels where a provider fails. Engines forbid that: they ask for
one provider alone, switch fall-back off, and check which provider the session has.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lcnas.errors import EngineError, listing, not_among, reason, shorten
from lcnas.latency.machine import CAPS, Machine, has_bf16, this_machine
from lcnas.onnx_export import SCHEMES

Array = NDArray[np.float32]
PRECISIONS = ("fp32", "bf16", "int8")
_INT8 = f"int8-{SCHEMES[0]}"  # how float32 networks are quantised: another scheme, another latency
MAX_THREADS = 1024
_MAX_BATCH = 4096


class Session(Protocol):
    """A loaded network, ready to run."""

    def run(self) -> None:
        """Run the network once on its own random input.

        Raises:
            EngineError: the engine loaded the model, but cannot run it.
        """

    def outputs(self, inputs: Array) -> Array:
        """Return the first output for an input.

        Raises:
            EngineError: the engine loaded the model, but cannot run it on that input.
        """


@dataclass(frozen=True)
class Engine:
    """The full identity of what runs networks: latencies compare only where their engines are equal."""

    name: str  # "openvino", "dnnl", "mlas", "openvino-plugin" or "openvino-package"
    version: str  # such as "1.24.1+openvino2025.4.1"; for int8 with the scheme, "+int8-dense"
    isa: str  # instruction set of its kernels
    precision: str = "fp32"  # "fp32", "bf16" or "int8"
    threads: int = 1
    batch: int = 1

    def open(self, model: bytes) -> Session:
        """Return a fresh session of an ONNX model.

        Raises:
            EngineError: the engine is not installed, refuses the model, or another provider took it.
        """
        return _ENGINES[self.name].open(self, model)

    @property
    def label(self) -> str:
        """The name in file names and tables: "openvino1.24.1-fp32-t1-b1"."""
        version = self.version.partition("+")[0]
        return f"{self.name}{version}-{self.precision}-t{self.threads}-b{self.batch}"


@dataclass(frozen=True)
class _Kind:
    version: Callable[[], str]  # raises EngineError where the engine is not installed
    open: Callable[[Engine, bytes], Session]
    precisions: tuple[str, ...]
    onednn: bool = True  # whether its kernels are oneDNN's, which obey ONEDNN_MAX_CPU_ISA


def machine_of(name: str) -> Machine:
    """Return this machine as an engine's kernels see it: a cap of oneDNN does not apply to those of mlas."""
    return this_machine(capped=name not in _ENGINES or _ENGINES[name].onednn)


def names() -> tuple[str, ...]:
    """Return the names of all engines, installed or not."""
    return tuple(_ENGINES)


def default() -> str:
    """Return the name of the default engine: "openvino" where it is installed, else "mlas"."""
    try:
        _openvino_version()
    except EngineError:
        return "mlas"
    return "openvino"


def engine(
    name: str | None = None, *, threads: int = 1, precision: str = "fp32", batch: int = 1
) -> Engine:
    """Return an engine of this machine.

    Args:
        name: one of :func:`names`; None: :func:`default`.
        threads: number of threads.
        precision: "fp32", "bf16" (where the processor has it) or "int8" (static quantisation).
        batch: images per run.

    Raises:
        EngineError: the engine is unknown or not installed, or lacks a setting.
    """
    if name is None:
        name = default()
    if name not in _ENGINES:
        raise EngineError(not_among("engine", name, names()))
    kind = _ENGINES[name]
    _check_integer("threads", threads, MAX_THREADS)
    _check_integer("batch", batch, _MAX_BATCH)
    if precision not in PRECISIONS:
        raise EngineError(not_among("precision", precision, PRECISIONS))
    if precision not in kind.precisions:
        raise EngineError(not_among(f"engine {name}: precision", precision, kind.precisions))
    isa = machine_of(name).isa
    if precision == "bf16" and not has_bf16(isa):
        raise EngineError(_no_bf16(isa))
    version = kind.version() + (f"+{_INT8}" if precision == "int8" else "")
    return Engine(name, version, isa, precision, threads, batch)


def _no_bf16(isa: str) -> str:
    own = this_machine(capped=False).isa
    if isa == own:
        return f"precision: this processor ({isa}) does not multiply bf16; use fp32"
    caps = " or ".join(name for name in CAPS if os.environ.get(name))
    return f"precision: oneDNN is capped to {isa} ({caps}), which does not multiply bf16; use fp32"


def _check_integer(what: str, value: object, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high:
        raise EngineError(f"{what}: {shorten(value)} is not a whole number of 1 to {high}")


# -- onnxruntime -----------------------------------------------------------------------------------


def _runtime() -> Any:
    """Return the onnxruntime module, or refuse if two builds of it overwrite one another."""
    installed = [n for n in ("onnxruntime", "onnxruntime-openvino") if _installed(n) is not None]
    if len(installed) > 1:
        raise EngineError(
            "engine: onnxruntime and onnxruntime-openvino are both installed and overwrite one another; "
            "run: pip uninstall -y onnxruntime onnxruntime-openvino, then install the one you want"
        )
    try:
        import onnxruntime
    except ImportError:
        raise EngineError(
            "engine: onnxruntime is not installed; pip install onnxruntime-openvino (x86-64) or onnxruntime"
        ) from None
    return onnxruntime


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _mlas_version() -> str:
    return str(_runtime().__version__)


def _openvino_version() -> str:
    runtime = _runtime()
    if "OpenVINOExecutionProvider" not in runtime.get_available_providers():
        raise EngineError(
            "engine openvino: this onnxruntime has no OpenVINO provider; "
            "pip install onnxruntime-openvino (CPython 3.11 to 3.13, x86-64), or use --engine mlas"
        )
    capi = Path(runtime.__file__).parent / "capi"
    matches = [re.fullmatch(r"libopenvino\.so\.(\d+\.\d+\.\d+)", p.name) for p in capi.glob("*")]
    versions = [match[1] for match in matches if match]
    return f"{runtime.__version__}+openvino{versions[0]}" if versions else str(runtime.__version__)


def _dnnl_version() -> str:
    runtime = _runtime()
    if "DnnlExecutionProvider" not in runtime.get_available_providers():
        raise EngineError(
            "engine dnnl: this onnxruntime has no oneDNN provider; only builds from source with --use_dnnl "
            "have it. The engine openvino runs oneDNN's kernels too"
        )
    return str(runtime.__version__)


def _options(threads: int) -> Any:
    options = _runtime().SessionOptions()
    options.log_severity_level = 4  # faults are reported by exceptions
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    return options


def _open_mlas(engine: Engine, model: bytes) -> Session:
    return _session(engine, model, _options(engine.threads), "CPUExecutionProvider", {})


def _open_dnnl(engine: Engine, model: bytes) -> Session:
    options = _options(engine.threads)
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return _session(engine, model, options, "DnnlExecutionProvider", {})


_openvino_threads: list[int] = []  # number of threads of the first session in this process


def threads_at_most(threads: int) -> int:
    """Return ``threads``, or the fewer threads with which OpenVINO began in this process."""
    return min([threads, *_openvino_threads])


def _check_openvino_threads(engine: Engine) -> None:
    """Refuse more threads than the process's first OpenVINO session had: a later session does not get them.

    OpenVINO sizes its pool once per process; a later session that asks for more runs on the first one's.
    """
    if not _openvino_threads:
        _openvino_threads.append(engine.threads)
    if engine.threads > _openvino_threads[0]:
        raise EngineError(
            f"threads: OpenVINO began with {_openvino_threads[0]} in this process and cannot go up to "
            f"{engine.threads}; measure that in a process of its own"
        )


def _open_openvino(engine: Engine, model: bytes) -> Session:
    _check_openvino_threads(engine)
    options = _options(1)  # the provider has its own threads
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    settings = {"device_type": "CPU", **_openvino_settings(engine)}
    return _session(engine, model, options, "OpenVINOExecutionProvider", settings)


def _openvino_settings(engine: Engine) -> dict[str, str]:
    """Return the provider's settings: threads, one stream, and an explicit precision."""
    hint = "bf16" if engine.precision == "bf16" else "f32"
    return {
        "num_of_threads": str(engine.threads),
        "num_streams": "1",
        "load_config": json.dumps({"CPU": {"INFERENCE_PRECISION_HINT": hint}}),
    }


def _session(
    engine: Engine,
    model: bytes,
    options: Any,
    provider: str,
    settings: Mapping[str, str] | None = None,
) -> Session:
    """Open a session on one provider; without settings, on the devices named in the options."""
    runtime = _runtime()
    providers: dict[str, Any] = {}
    if settings is not None:
        providers = {"providers": [provider], "provider_options": [dict(settings)]}
    try:
        session = runtime.InferenceSession(model, options, **providers)
    except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions have no base of their own
        if "fallback" in str(error):
            raise EngineError(_unsupported_operators(engine, model, providers)) from None
        raise _refusal(engine, "refuses the model", error) from None
    active = session.get_providers()
    # Behind a provider of its own onnxruntime always lists its CPU provider; fall-back to it is off.
    if not active or active[0] != provider:
        raise EngineError(
            f"engine {engine.name}: asked for {provider}, but {active} took the model"
        )
    return _RuntimeSession(session, engine)


def _unsupported_operators(engine: Engine, model: bytes, providers: Mapping[str, Any]) -> str:
    """Return the message that names the operators of a model that an engine does not run.

    onnxruntime itself only says that there are some. The session that reports them is never run.
    """
    options = _options(1)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    nodes_of: dict[str, list[str]] = {}  # operator -> names of its nodes
    try:
        session = _runtime().InferenceSession(model, options, **providers)
        for part in session.get_provider_graph_assignment_info():
            for node in part.get_nodes() if part.ep_name == "CPUExecutionProvider" else ():
                nodes_of.setdefault(node.op_type, []).append(node.name)
    except Exception:  # noqa: BLE001 - releases before 1.24 cannot report it, and nothing else may be lost
        nodes_of = {}
    what = ", ".join(_named(kind, nodes) for kind, nodes in nodes_of.items())
    return (
        f"engine {engine.name}: refuses the model: it does not run {what or 'some operator of it'}; "
        "--engine mlas has more operators"
    )


def _named(kind: str, nodes: Sequence[str]) -> str:
    """Return an operator with the first of its nodes."""
    first = next(filter(None, nodes), "")
    details = [f"node {shorten(first)}"] if first else []
    details += [f"{len(nodes)} times"] if len(nodes) > 1 else []
    return f"the operator {kind}" + (f" ({', '.join(details)})" if details else "")


def _refusal(engine: Engine, what: str, error: Exception) -> EngineError:
    """Return the error of an engine in one line: the first line of its own message."""
    return EngineError(f"engine {engine.name}: {what}: {reason(error)}")


# The input types that a session may have, by onnxruntime's names.
_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


class _RuntimeSession:
    """A session of onnxruntime with a fixed random input."""

    def __init__(self, session: Any, engine: Engine) -> None:
        self._session = session
        self._engine = engine
        inputs = session.get_inputs()
        if len(inputs) != 1:
            raise EngineError(
                f"model: has {len(inputs)} inputs, one is needed: {[i.name for i in inputs]}"
            )
        self._name = inputs[0].name
        if inputs[0].type not in _FLOATS:
            raise EngineError(
                f"model: its input is {inputs[0].type}, only {listing(_FLOATS)} can be measured"
            )
        self._type: Any = _FLOATS[inputs[0].type]
        shape = [n if isinstance(n, int) else None for n in inputs[0].shape]
        if not shape or any(n is None for n in shape[1:]):
            raise EngineError(
                f"model: the input's shape {inputs[0].shape} is open beyond its batch"
            )
        if shape[0] not in (None, engine.batch):
            raise EngineError(f"model: is made for batch {shape[0]}, the engine for {engine.batch}")
        size = [engine.batch, *(n for n in shape[1:] if n is not None)]
        x = np.random.default_rng(0).standard_normal(size, dtype=np.float32)
        self._feed = {self._name: x.astype(self._type)}

    def run(self) -> None:
        self._run(self._feed)

    def outputs(self, inputs: Array) -> Array:
        output: Array = self._run({self._name: inputs.astype(self._type, copy=False)})[0]
        return output

    def _run(self, feed: Mapping[str, Array]) -> Any:
        try:
            return self._session.run(None, feed)
        except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions have no base of their own
            raise _refusal(self._engine, "cannot run the model", error) from None


# -- the OpenVINO provider as a plug-in of a stock onnxruntime --------------------------------------


def _plugin_devices() -> list[Any]:
    """Return the CPU devices of the plug-in, or refuse if it is missing or offers none."""
    try:
        import onnxruntime_ep_openvino as plugin
    except ImportError:
        raise EngineError(
            "engine openvino-plugin: not installed; pip install onnxruntime-ep-openvino beside onnxruntime"
        ) from None
    runtime = _runtime()
    name = plugin.get_ep_name()
    if not any(device.ep_name == name for device in runtime.get_ep_devices()):
        runtime.register_execution_provider_library(name, plugin.get_library_path())
    devices = [
        device
        for device in runtime.get_ep_devices()
        if device.ep_name == name and device.device.type == runtime.OrtHardwareDeviceType.CPU
    ]
    if not devices:
        raise EngineError(
            "engine openvino-plugin: the plug-in offers no CPU device here (it asks for an Intel processor); "
            "use the engine openvino (pip install onnxruntime-openvino) or mlas"
        )
    return devices


def _plugin_version() -> str:
    _plugin_devices()
    return f"{_installed('onnxruntime-ep-openvino')}+onnxruntime{_runtime().__version__}"


def _open_plugin(engine: Engine, model: bytes) -> Session:
    options = _options(1)  # the provider has its own threads
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_provider_for_devices(_plugin_devices(), _openvino_settings(engine))
    return _session(engine, model, options, "OpenVINOExecutionProvider")


# -- the openvino package itself -------------------------------------------------------------------


def _package_version() -> str:
    try:
        import openvino
    except ImportError:
        raise EngineError("engine openvino-package: not installed; pip install openvino") from None
    return str(openvino.__version__).partition("-")[0]


def _open_package(engine: Engine, model: bytes) -> Session:
    import openvino

    core = openvino.Core()
    hint = "bf16" if engine.precision == "bf16" else "f32"
    settings = {
        "INFERENCE_NUM_THREADS": engine.threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": hint,
    }
    try:
        compiled = core.compile_model(core.read_model(model), "CPU", settings)
    except RuntimeError as error:
        raise _refusal(engine, "refuses the model", error) from None
    return _PackageSession(compiled, engine)


class _PackageSession:
    """A compiled model of the openvino package with a fixed random input."""

    def __init__(self, compiled: Any, engine: Engine) -> None:
        self._engine = engine
        self._request = compiled.create_infer_request()
        shape = [d.get_length() if d.is_static else None for d in compiled.input(0).partial_shape]
        size = [engine.batch, *(n or 1 for n in shape[1:])]
        self._type = compiled.input(0).get_element_type().to_dtype()
        x = np.random.default_rng(0).standard_normal(size, np.float32)
        self._request.set_input_tensor(_tensor(x.astype(self._type)))

    def run(self) -> None:
        self._infer()

    def outputs(self, inputs: Array) -> Array:
        output: Array = np.array(next(iter(self._infer([inputs.astype(self._type)]).values())))
        return output

    def _infer(self, *inputs: Any) -> Any:
        try:
            return self._request.infer(*inputs)
        except RuntimeError as error:
            raise _refusal(self._engine, "cannot run the model", error) from None


def _tensor(values: Array) -> Any:
    import openvino

    return openvino.Tensor(values)


_ENGINES: Mapping[str, _Kind] = {
    "openvino": _Kind(_openvino_version, _open_openvino, PRECISIONS),
    "mlas": _Kind(_mlas_version, _open_mlas, ("fp32", "int8"), onednn=False),
    "dnnl": _Kind(_dnnl_version, _open_dnnl, ("fp32", "bf16")),
    "openvino-plugin": _Kind(_plugin_version, _open_plugin, PRECISIONS),
    "openvino-package": _Kind(_package_version, _open_package, PRECISIONS),
}


def from_data(data: Mapping[str, Any]) -> Engine:
    """Return the engine of JSON data, whether it is installed or not."""
    keys = {field.name: field.type for field in dataclasses.fields(Engine)}
    if set(data) != set(keys):
        raise EngineError(f"engine: keys {sorted(data)} are not {sorted(keys)}")
    texts = ("name", "version", "isa", "precision")
    if not all(isinstance(data[key], str) for key in texts):
        raise EngineError(f"engine: {shorten(dict(data))} has something that is not a text")
    _check_integer("engine: threads", data["threads"], MAX_THREADS)
    _check_integer("engine: batch", data["batch"], _MAX_BATCH)
    return Engine(**data)
