"""The Ray Tune searcher: proposals for anybody's trainable. The one module of searchers that imports Ray."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from ray import tune

from lcnas.budgets import Budget
from lcnas.errors import shorten
from lcnas.latency.table import TICKS_PER_MS
from search.errors import SearchError
from search.searchers.base import Codes, Strategy, checked_integer, key_of
from search.searchers.creation import create
from search.searchers.proposals import Proposals
from search.trials import Trial

LOST = "the worker was lost"
AGAIN = 3  # times that networks are given to another worker after Tune gave them up for lost
WORKERS = 4  # at work at once, for which the default lag is enough
_DETAILS = "details/"  # Tune hands nested results over flat


class Searcher(tune.search.Searcher):
    """Proposes the networks of a budget to Ray Tune.

    With ``batch`` 1 a trial's config is ``{"number": 3, "codes": [0, 2, …], "arch": "JSON text"}``, and its
    trainable reports ``accuracy`` (larger is better, on validation images), if it likes also ``reason``,
    ``seconds`` and ``details``. With more the config is ``{"networks": [such a one, …]}``, and it reports
    ``evaluations``, a list of mappings with these keys in the order of the networks.
    Latencies are the budget's.

    Pass ``num_samples=-1`` to :class:`ray.tune.TuneConfig`: the searcher itself says when it has finished,
    which is after ``trials`` networks or when none is left. A trial that Tune gave up becomes a failed one,
    unless :meth:`note_failure` called it lost: then its networks are given out again, up to
    :data:`AGAIN` times (Tune gives a trial up at once where the worker it was to reuse went away with its
    machine). One that was stopped before it reported anything stays unfinished, and a resumed search makes
    it again.

    A searcher is never pickled with what it knows, and never restored: give a fresh one the ``known`` trials.

    Args:
        strategy: a name, see :func:`search.searchers.create`, or a fresh strategy.
        budget: the networks, and what they cost: whole microseconds.
        trials: networks in all, known ones included.
        seed: of all draws.
        batch: networks a trial.
        lag: see :class:`Proposals`; None: ``4 * batch``, enough for four workers.
        known: trials to begin with, from ``trials.jsonl``.
        record: called with each finished trial before the strategy learns of it; may append it to a file.
        latency_ms: of codes (n, genes); None: the budget's costs in thousands.
        stop: asked before each proposal; once it says yes, the searcher has finished.
        more: additional keys of a network's config, from its latency (ms) and the results on which its
            proposal rests, so that it does not depend on the order in which trials finish.
        **options: options of the strategy.

    Raises:
        SearchError: a wrong name or value, or known trials that are not of this search.
    """

    def __init__(
        self,
        strategy: str | Strategy,
        budget: Budget,
        *,
        trials: int,
        seed: int = 0,
        batch: int = 1,
        lag: int | None = None,
        known: Iterable[Trial] = (),
        record: Callable[[Trial], None] | None = None,
        latency_ms: Callable[[Codes], Any] | None = None,
        stop: Callable[[], bool] | None = None,
        more: Callable[[float, Sequence[Trial]], Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        self._batch = checked_integer("batch", batch, 1)
        super().__init__(*(("accuracy", "max") if self._batch == 1 else (None, None)))
        self._budget = budget
        self._trials = checked_integer("trials", trials, 1)
        lag = WORKERS * self._batch if lag is None else checked_integer("lag", lag, 0)
        if lag < self._batch - 1:
            raise SearchError(
                f"lag: {lag} is less than batch - 1 = {self._batch - 1}, so that no trial is ever full"
            )
        if isinstance(strategy, str):
            strategy = create(strategy, budget, seed, trials=trials, **options)
        elif options:
            raise SearchError(
                f"options: {', '.join(options)} are of no use to a strategy that is made already"
            )
        self.strategy = strategy
        self._proposals = Proposals(strategy, budget, seed, lag, known)
        self._record = record
        self._latency_ms = latency_ms or (lambda codes: budget.costs(codes) / TICKS_PER_MS)
        self._stop = stop or (lambda: False)
        self._more = more
        self._lag = lag
        self._ready: list[tuple[int, Codes]] = []
        self._running: dict[str, list[tuple[int, Codes]]] = {}
        self._again: Counter[int] = Counter()  # by number: times that it was given out again
        self._reasons: dict[str, str] = {}  # by Tune's trial id: why its last attempt failed
        self._lost: set[str] = set()  # Tune's ids of trials whose worker went away
        self.fault: Exception | None = None  # such as a full disk; the next proposal raises it

    def note_failure(self, trial_id: str, reason: str, *, lost: bool = False) -> None:
        """Record why an attempt at a trial failed, before Tune reports that the trial has ended.

        Args:
            trial_id: Tune's.
            reason: one line.
            lost: the worker went away, so the networks are given to another one.
        """
        self._reasons[trial_id] = reason
        if lost:
            self._lost.add(trial_id)
        else:
            self._lost.discard(trial_id)

    @property
    def results(self) -> list[Trial]:
        """All finished trials so far, known ones included, by number."""
        return self._proposals.results

    # -- what Tune calls -----------------------------------------------------------------------------

    def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:  # noqa: ARG002
        """Take no search space and no other metric: the budget is the search space."""
        return False

    def suggest(self, trial_id: str) -> Any:
        """Return a config, None while results are waited for, or ``Searcher.FINISHED``.

        Raises:
            Exception: what went wrong as a result came in; Tune lets none through from there.
        """
        if self.fault is not None:
            raise self.fault
        if self._stop():
            return self._rest_of_what_was_lost(trial_id)
        self._fill()
        if not self._ready and self._over():
            # Tune asks no more after that, and what is running may be lost yet.
            return None if self._running else Searcher.FINISHED
        # A part of a batch goes out where nothing more can come: at the end, or where all wait for it.
        if not self._ready or (
            len(self._ready) < self._batch and self._running and not self._over()
        ):
            return None
        networks, self._ready = self._ready[: self._batch], self._ready[self._batch :]
        return self._given(trial_id, networks)

    def _rest_of_what_was_lost(self, trial_id: str) -> Any:
        """Return a config of networks that a lost worker had: also where nothing new is proposed any more."""
        networks = [one for one in self._ready if self._again[one[0]]][: self._batch]
        if not networks:
            return None if self._running else Searcher.FINISHED
        numbers = {number for number, _ in networks}
        self._ready = [one for one in self._ready if one[0] not in numbers]
        return self._given(trial_id, networks)

    def _given(self, trial_id: str, networks: list[tuple[int, Codes]]) -> Any:
        self._running[trial_id] = networks
        configs = [self._config(number, codes) for number, codes in networks]
        return configs[0] if self._batch == 1 else {"networks": configs}

    def _fill(self) -> None:
        while len(self._ready) < self._batch and not self._at_end():
            proposal = self._proposals.next()
            if proposal is None:
                return
            self._ready.append(proposal)

    def _at_end(self) -> bool:
        return self._proposals.asked >= self._trials and not self._proposals.pending

    def _over(self) -> bool:
        return self._at_end() or (self._proposals.exhausted and not self._proposals.pending)

    def _config(self, number: int, codes: Codes) -> dict[str, Any]:
        arch = self._budget.space.decode(codes)[0]
        config = {"number": number, "codes": codes.tolist(), "arch": arch.to_json()}
        if self._more is None:
            return config
        finished = [t for t in self.results if t.number < number - self._lag]
        return {**config, **self._more(self._ms(codes), finished)}

    def _ms(self, codes: Codes) -> float:
        return float(np.reshape(self._latency_ms(codes[None]), -1)[0])

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Record the networks of a trial that has ended; the strategy learns their results."""
        try:
            self._completed(trial_id, result or {}, error)
        except Exception as fault:  # noqa: BLE001 - Tune would log it, and begin the trial again
            self.fault = self.fault or fault

    def _completed(self, trial_id: str, result: Mapping[str, Any], error: bool) -> None:
        networks = self._running.pop(trial_id, None)
        if networks is None:
            return
        if error:
            reason = self._reasons.pop(trial_id, LOST)
            if self._given_again(trial_id, networks):
                return
            failed = {"accuracy": None, "reason": reason}
            results: list[Mapping[str, Any]] = [failed] * len(networks)
        else:
            self._lost.discard(trial_id)  # an earlier attempt
            results = _evaluations(result)
        if not results:  # stopped before it reported anything: unfinished, not failed
            return
        if len(results) != len(networks):
            raise SearchError(
                f"trial {trial_id}: {len(results)} evaluations for {len(networks)} networks"
            )
        for (number, codes), evaluation in zip(networks, results, strict=True):
            self._finish(number, codes, evaluation)

    def _given_again(self, trial_id: str, networks: list[tuple[int, Codes]]) -> bool:
        """Put networks that were lost in front of those that wait; False where that was done often enough."""
        if trial_id not in self._lost:
            return False
        self._lost.remove(trial_id)
        numbers = [number for number, _ in networks]
        if any(self._again[number] >= AGAIN for number in numbers):
            return False
        self._again.update(numbers)
        self._ready = networks + self._ready
        return True

    def _finish(self, number: int, codes: Codes, result: Mapping[str, Any]) -> None:
        accuracy, reason = _accuracy(result)
        trial = Trial(
            number=number,
            codes=key_of(codes),
            arch=self._budget.space.decode(codes)[0].id,
            latency_ms=self._ms(codes),
            accuracy=accuracy,
            reason=reason,
            seconds=float(result.get("seconds") or 0.0),
            details=dict(result.get("details") or {}),
        )
        if self._record is not None:
            self._record(trial)
        self._proposals.record(trial)

    # -- state: trials.jsonl alone -----------------------------------------------------------------

    def save(self, checkpoint_path: str) -> NoReturn:  # noqa: ARG002
        """Refuse: the trials are the state."""
        raise SearchError(
            "a searcher is not saved: keep its trials, and give them to a fresh one as known="
        )

    def restore(self, checkpoint_path: str) -> NoReturn:  # noqa: ARG002
        """Refuse: no pickle is ever read."""
        raise SearchError("a searcher is not restored: give the trials to a fresh one as known=")

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Do nothing, where Tune would save it now and then."""

    def restore_from_dir(self, checkpoint_dir: str) -> NoReturn:
        """Refuse, as :meth:`restore` does."""
        self.restore(checkpoint_dir)

    def __reduce__(self) -> Any:
        """Pickle as a refusal: Tune pickles all its settings once, and nobody reads it."""
        return (_refuse, ())


def _refuse() -> NoReturn:
    raise SearchError("a searcher is not restored: give the trials to a fresh one as known=")


def _evaluations(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what a trial reported about each network; nothing where it reported nothing."""
    if "evaluations" in result:
        return list(result["evaluations"])
    if "accuracy" not in result:
        return []
    nested = {k.removeprefix(_DETAILS): v for k, v in result.items() if k.startswith(_DETAILS)}
    return [{"details": nested, **result}]


def _accuracy(result: Mapping[str, Any]) -> tuple[float | None, str]:
    """Return accuracy and reason; what is no finite number is a failure."""
    accuracy, reason = result.get("accuracy"), str(result.get("reason") or "")
    if accuracy is None:
        return None, reason or "no accuracy was reported"
    try:
        number = float(accuracy)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        return None, reason or f"the accuracy is {shorten(accuracy)}"
    return number, ""
