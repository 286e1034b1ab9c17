"""Tasks of workers other than trials: one with reports of its progress, or many that yield results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lcnas.training.interrupts import Stopped
from search.distributed import cluster
from search.errors import SearchFailedError

_POLL_S = 30.0  # seconds between looks at a task's report
_RETRIES = 2  # times that the rest of a lost worker's task is given to another


class _Board:
    """The latest report of a task, an actor."""

    def __init__(self) -> None:
        self._text = ""

    def write(self, text: str) -> None:
        self._text = text

    def read(self) -> str:
        return self._text


def _with_report(function: Callable[..., Any], args: tuple[Any, ...], board: Any) -> Any:
    return function(*args, board.write.remote)


def run_reporting(
    what: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    *,
    cores: int,
    on_report: Callable[[str], None],
) -> Any:
    """Run a function in a worker of this machine, and return its result.

    Args:
        what: its name, for messages.
        function: called with ``args`` and with a function that takes a line of text: its progress.
        args: its other arguments.
        cores: number of cores of the worker.
        on_report: called with each new line.

    Raises:
        SearchFailedError: the function or its worker failed.
    """
    import ray

    local: Any = cluster.on_this_machine()
    board: Any = ray.remote(num_cpus=0, **local)(_Board).remote()
    task: Any = ray.remote(num_cpus=cores, max_calls=1, max_retries=2, **local)(_with_report)
    result = task.remote(function, args, board)
    shown, finished = "", False
    try:
        while not finished:
            finished = bool(ray.wait([result], timeout=_POLL_S)[0])
            text = ray.get(board.read.remote())
            if text != shown:
                shown = text
                on_report(text)
        return ray.get(result)
    except ray.exceptions.RayError as error:
        raise SearchFailedError(f"{what}: {cluster.reason(error)}") from None
    finally:
        ray.kill(board)


def run_streams(
    what: str,
    function: Callable[[Any, Any], Iterator[Any]],
    tasks: Sequence[Any],
    shared: Any,
    rest_of: Callable[[Any, int], Any],
) -> Iterator[tuple[int, Any]]:
    """Run a generator function for each task, and yield (index of the task, result) as results arrive.

    The results of one task come in their order. If a worker is lost, the rest of its task goes to another.

    Args:
        what: name of the tasks, for messages.
        function: called with a task and the shared object, in a worker of one core.
        tasks: the tasks.
        shared: an object that all workers share without copying.
        rest_of: returns what remains of a task after so many results.

    Raises:
        SearchFailedError: a task failed, or its workers were lost several times.
    """
    import ray

    reference = ray.put(shared)
    # A process per task: the programs that JAX compiled for one are of no use to the next. Ray's own retries
    # would restart a task from its first result.
    remote: Any = ray.remote(num_cpus=1, max_calls=1, max_retries=0)(function)
    finished, lost = [0] * len(tasks), [0] * len(tasks)
    waiting: dict[Any, int] = {remote.remote(task, reference): i for i, task in enumerate(tasks)}
    while waiting:
        ready: list[Any] = ray.wait(list(waiting))[0]
        for stream in ready:
            i = waiting[stream]
            try:
                result = ray.get(next(stream))
            except StopIteration:
                del waiting[stream]
                continue
            except ray.exceptions.RayError as error:
                del waiting[stream]
                lost[i] += 1
                if _is_fault(error) or lost[i] > _RETRIES:
                    reason = cluster.reason(error)
                    raise SearchFailedError(f"{what}: a worker failed: {reason}") from None
                waiting[remote.remote(rest_of(tasks[i], finished[i]), reference)] = i
                continue
            finished[i] += 1
            yield i, result


def _is_fault(error: BaseException) -> bool:
    """Return whether a task itself failed, and not its worker, such as by a signal."""
    import ray

    return isinstance(error, ray.exceptions.RayTaskError) and not isinstance(error.cause, Stopped)
