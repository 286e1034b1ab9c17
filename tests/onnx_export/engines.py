"""The engines that the tests run ONNX models in, each with one thread."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort

from lcnas import onnx_export

# fp32: processors with AVX512-BF16 or AMX would otherwise compute in bf16.
_OPENVINO = {"device_type": "CPU", "precision": "FP32", "num_of_threads": "1", "num_streams": "1"}
ENGINES: dict[str, tuple[str, dict[str, str]]] = {
    "mlas": ("CPUExecutionProvider", {}),
    "openvino": ("OpenVINOExecutionProvider", _OPENVINO),
}


def available(engine: str) -> bool:
    return ENGINES[engine][0] in ort.get_available_providers()


def run(model: Any, x: Any, engine: str = "mlas") -> Any:
    """Return the output of a model for the input ``x``, computed by that engine alone."""
    provider, settings = ENGINES[engine]
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if provider != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = ort.InferenceSession(
        onnx_export.to_bytes(model), options, providers=[provider], provider_options=[settings]
    )
    assert session.get_providers()[0] == provider
    (y,) = session.run(["output"], {"input": np.asarray(x, np.float32)})
    return y
