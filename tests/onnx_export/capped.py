"""Runs networks in a subprocess in which oneDNN is capped, as on an older processor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

# OpenVINO reads the variable when it is loaded. Arguments: model, file of inputs, file of outputs.
_RUN = """
import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
settings = {"device_type": "CPU", "precision": "FP32", "num_of_threads": "1", "num_streams": "1"}
session = onnxruntime.InferenceSession(
    sys.argv[1], options, providers=["OpenVINOExecutionProvider"], provider_options=[settings]
)
assert session.get_providers()[0] == "OpenVINOExecutionProvider"
numpy.save(sys.argv[3], session.run(None, {session.get_inputs()[0].name: numpy.load(sys.argv[2])})[0])
"""


def outputs(file: Path, x: Any, isa: str) -> Any:
    """Return the first output of a file for ``x`` by openvino, whose oneDNN is capped to ``isa``."""
    input_file, output_file = file.with_suffix(".in.npy"), file.with_suffix(".out.npy")
    np.save(input_file, np.ascontiguousarray(x, np.float32))
    env = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa}
    command = [sys.executable, "-c", _RUN, str(file), str(input_file), str(output_file)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return np.load(output_file)
