"""What all tests share: JAX's strict modes, capped threads, the folder of downloaded data."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import hypothesis
import pytest

# The same examples in every CI run: a new one that fails is found at a desk, not on a submission.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")

CHECKOUT = Path(__file__).resolve().parent.parent

# The libraries read these when first imported, so a test that needs none of them imports none.
_DEFAULTS = {
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_PLATFORMS": "cpu",
    "MPLBACKEND": "Agg",
    # The tests' arrays are small: on a machine with many cores threads would only be in the way.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
for _name, _value in _DEFAULTS.items():
    os.environ.setdefault(_name, _value)
os.environ["COLUMNS"] = "80"  # whatever the terminal is; narrow ones have tests of their own


def _lend_a_home() -> None:
    """Give libraries that ask for a home folder one, where the user has none (a container's bare user id).

    Tests of what the commands do without one take HOME away again, in processes of their own.
    """
    try:
        Path.home()
    except RuntimeError:
        home = tempfile.mkdtemp(prefix="lcnas-home-")
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        os.environ["HOME"] = home


_lend_a_home()


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the checkout that is tested."""
    return CHECKOUT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Data sets and published weights: `$LCNAS_DATA`, or `../shared/data` beside the checkout."""
    named = os.environ.get("LCNAS_DATA")
    folder = Path(named) if named else CHECKOUT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs data sets and weights: {folder} is not a folder; set LCNAS_DATA")
    return folder.resolve()
