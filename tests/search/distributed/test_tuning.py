import os
import signal
import time
from types import SimpleNamespace

import pytest
from ray import cloudpickle, exceptions

from search.distributed import tuning
from search.distributed.tuning import StopCondition, stopping_at_once


def kill_self(number):
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # the handler runs between two operations


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_step_that_cannot_finish_soon_ends_at_once(number):
    def work():
        with stopping_at_once():
            kill_self(number)
            pytest.fail("it went on")

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        work()
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_search_finishes_what_is_in_flight_and_then_ends(number):
    said: list[str] = []
    finished = []

    def work():
        stop = StopCondition()
        with stop.waiting(said.append):
            finished.append(stop())
            kill_self(number)
            finished.append(stop())

    with pytest.raises(KeyboardInterrupt):
        work()
    assert finished == [False, True]
    assert len(said) == 1
    assert "waiting for the networks in flight" in said[0]


def test_the_second_signal_ends_it_at_once():
    def work():
        with StopCondition().waiting(lambda _: None):
            kill_self(signal.SIGINT)
            kill_self(signal.SIGINT)
            pytest.fail("it went on")

    with pytest.raises(KeyboardInterrupt):
        work()


def test_time_over_is_no_interruption():
    stop = StopCondition(0.0)
    with stop.waiting(lambda _: None):
        assert stop()
    assert not StopCondition()()
    assert not StopCondition(1000.0)()


class UnreadableError(Exception):
    """Can be pickled, but not read back."""

    def __init__(self, one, two):
        super().__init__(one)


def test_which_trials_were_lost_and_why_the_others_failed(tmp_path):
    failures = {}
    searcher = SimpleNamespace(
        note_failure=lambda trial, reason, *, lost: failures.update({trial: (reason, lost)})
    )
    scheduler = tuning._reporting_scheduler(searcher)

    def fail(error, name):
        path = tmp_path / f"{name}.pkl"
        path.write_bytes(cloudpickle.dumps(error))
        text = tmp_path / f"{name}.txt"
        text.write_text(f"Traceback\n{name}\n\n")
        scheduler.on_trial_error(
            None,
            SimpleNamespace(trial_id="t", error_file=str(text), pickled_error_file=str(path)),
        )
        return failures["t"]

    assert fail(exceptions.ActorDiedError(), "gone") == ("gone", True)
    assert fail(ValueError("no"), "ValueError: no") == ("ValueError: no", False)
    assert fail(exceptions.ActorUnavailableError("away", b"0" * 16), "away") == ("away", True)
    assert fail(UnreadableError(1, 2), "odd") == ("odd", False)
    nothing = SimpleNamespace(trial_id="t", error_file=None, pickled_error_file=None)
    scheduler.on_trial_error(None, nothing)
    assert failures["t"] == ("the worker was lost", False)
