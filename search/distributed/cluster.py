"""Starting and stopping Ray: on loopback, without usage reports, its files in a short temporary folder.

The settings are results of experiments with Ray 2.60 (docs/decisions.md). JAX may not run in this process
before Ray starts: Ray forks.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcnas.errors import LcnasError, shorten, spelt
from search.errors import SearchError, SearchFailedError

_PREFIX = "lcnas-ray-"
_TRIES = 3  # of starting Ray
_ADDRESS_VARIABLE = "RAY_ADDRESS"  # names a cluster; Ray prefers it to the address that it is given
_CONNECT_S = 10.0  # maximum seconds of connecting to an address
_JOIN_S = 60.0  # maximum seconds of joining a cluster
_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # so that a local Ray listens on 127.0.0.1 only
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # five files a trial
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is handled by the search
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # Tune's own record is not used: trials.jsonl is
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial reports several networks at once
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True)
class Cluster:
    """A running Ray."""

    local: bool  # started by this process
    cores: int  # cores for workers
    temporary: Path | None


@contextlib.contextmanager
def started(address: str | None, workers: int | None, store_mb: int = 256) -> Iterator[Cluster]:
    """Start Ray on this machine, or connect to a cluster; stop it at the end.

    Args:
        address: address of a cluster, such as "10.0.0.1:6379" or "auto"; None: this machine.
        workers: maximum number of worker processes; None: one per core.
        store_mb: MiB of shared memory for images and weights, if Ray starts on this machine.

    Raises:
        SearchError: the cluster cannot be reached.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with _no_other_cluster(address):
        cluster = _start_local(workers, store_mb) if address is None else _connect(address, workers)
        import ray

        try:
            yield cluster
        finally:
            ray.shutdown()
            if cluster.temporary is not None:
                _clear(cluster.temporary)


@contextlib.contextmanager
def _no_other_cluster(address: str | None) -> Iterator[None]:
    """Keep Ray from joining the cluster of the environment variable, unless the address is "auto"."""
    named = None if address == "auto" else os.environ.pop(_ADDRESS_VARIABLE, None)
    try:
        yield
    finally:
        if named is not None:
            os.environ[_ADDRESS_VARIABLE] = named


def _start_local(workers: int | None, store_mb: int) -> Cluster:
    from lcnas.latency.machine import usable_cores

    remove_stale_folders()
    cores = workers or len(usable_cores())
    for left in reversed(range(_TRIES)):
        try:
            return _start(cores, store_mb)
        # A busy machine may be too slow; Ray then raises errors of any kind, Exception itself too.
        except Exception as error:  # noqa: BLE001
            if not left:
                raise SearchFailedError(f"Ray did not start: {shorten(str(error), 200)}") from None
            import ray

            ray.shutdown()
    raise AssertionError


def _start(cores: int, store_mb: int) -> Cluster:
    """Start Ray in this process's folder."""
    folder = _folder()
    _init(
        home=folder,
        num_cpus=cores,
        include_dashboard=False,
        object_store_memory=max(store_mb, 128) << 20,
        _temp_dir=str(folder),
        # Ray does not notice a read-only /dev/shm: it would wait, and give up.
        _plasma_directory=None if os.access("/dev/shm", os.W_OK) else str(folder),
    )
    return Cluster(True, cores, folder)


@functools.cache
def _folder() -> Path:
    """Return this process's folder for Ray, removed when the process ends.

    It is the same at each start: Ray writes its token into it once per process.
    """
    # Socket paths have at most 107 bytes, and those below Ray's folder are long.
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_short_root()))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "owner").write_text(str(os.getpid()))
    # Keeps Ray's processes from asking a cloud's metadata service for the kind of machine.
    (folder / "ray_bootstrap_config.yaml").write_text("provider:\n  type: local\n")
    return folder


def _clear(folder: Path) -> None:
    """Remove the files of a session of Ray from its folder."""
    for path in folder.glob("session_*"):
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(folder / "tune", ignore_errors=True)


def _short_root() -> str | None:
    """Return the folder for temporary files, or /tmp if the name of that folder is too long."""
    default = tempfile.gettempdir()
    return default if len(default) <= 24 else ("/tmp" if Path("/tmp").is_dir() else None)


def _connect(address: str, workers: int | None) -> Cluster:
    host, _, port = address.rpartition(":")
    if address != "auto":
        _check_answers(address, host, port)
    try:
        _init(home=None, address=address)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise SearchError(
            f"address: no Ray cluster at {shorten(address)}: {shorten(str(error), 200)}"
        ) from None
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cores = int(resources.get("CPU", 1))
    return Cluster(False, min(cores, workers) if workers else cores, None)


def local_cores() -> int:
    """Return the number of this machine's cores that the running Ray has for workers; 0: none."""
    import ray

    node_id = ray.get_runtime_context().get_node_id()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return sum(int(n["Resources"].get("CPU", 0)) for n in nodes if n["NodeID"] == node_id)


def on_this_machine() -> dict[str, Any]:
    """Return options that keep a task or an actor on this machine, if it has cores for workers."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if not local_cores():
        return {}
    node_id = ray.get_runtime_context().get_node_id()
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False)}


def reason(error: BaseException) -> str:
    """Return why a task failed, in one line; Ray's own message has the worker's whole traceback."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, LcnasError):
        return str(cause)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}{f': {lines[-1][:300]}' if lines else ''}"


def check(address: str) -> None:
    """Refuse an address where no Ray cluster answers, within seconds.

    Raises:
        SearchError: no cluster answers; says what was tried.
    """
    named = (os.environ.get(_ADDRESS_VARIABLE) or address) if address == "auto" else address
    if "://" in named:
        raise SearchError(
            f"address: {shorten(named)} is of Ray Client, through which no searcher runs; start the search "
            "on a machine of the cluster, with --address auto or HOST:PORT"
        )
    if named != "auto":  # Ray resolves this one
        host, _, port = named.rpartition(":")
        _check_answers(named, host, port)
    # Ray itself would try for minutes, and cannot be stopped.
    script = f"import ray; ray.init(address={named!r}, logging_level=50, log_to_driver=False)"
    try:
        result = subprocess.run(
            [sys.executable, "-c", script],
            env={**{k: v for k, v in os.environ.items() if k != _ADDRESS_VARIABLE}, **_ENVIRONMENT},
            capture_output=True,
            text=True,
            timeout=_JOIN_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SearchError(
            f"address: what listens at {shorten(named)} did not answer as a Ray cluster within "
            f"{_JOIN_S:.0f} s"
        ) from None
    if result.returncode:
        message = result.stderr.strip().rpartition("\n")[2]
        raise SearchError(f"address: no Ray cluster at {shorten(named)}: {shorten(message, 200)}")


def _check_answers(address: str, host: str, port: str) -> None:
    """Refuse an address where no process listens: Ray itself would try for minutes."""
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise SearchError(
            f"address: {shorten(address)} is not HOST:PORT such as 10.0.0.1:6379, nor auto"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except OSError as error:
        raise SearchError(
            f"address: nothing answers at {shorten(address)}: {error.strerror or error}"
        ) from None


def _init(home: Path | None, **options: Any) -> None:
    """Call ray.init, with another HOME if given, into which Ray writes its token."""
    user_home = os.environ.get("HOME")
    if home is not None:
        os.environ["HOME"] = str(home)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray warns of its own future defaults
            import ray

            with _command_as_text():
                ray.init(
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    namespace="lcnas",
                    **options,
                )
    finally:
        if home is not None:
            if user_home is None:
                os.environ.pop("HOME", None)
            else:
                os.environ["HOME"] = user_home


@contextlib.contextmanager
def _command_as_text() -> Iterator[None]:
    """Let Ray record the command line as valid text: names that are not UTF-8 would end in a traceback."""
    if all(spelt(word) == word for word in sys.argv):
        yield
        return
    from ray._private import utils

    original: Callable[[], str] = utils.get_entrypoint_name
    utils.get_entrypoint_name = lambda: spelt(original())
    try:
        yield
    finally:
        utils.get_entrypoint_name = original


def remove_stale_folders() -> None:
    """Remove Ray's folders of killed searches."""
    root = Path(_short_root() or tempfile.gettempdir())
    for folder in root.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, ValueError):
            owner = int((folder / "owner").read_text())
            if not _is_running(owner):
                shutil.rmtree(folder, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        pass
    return True
