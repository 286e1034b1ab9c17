"""The log: appended only, each line once, whole after a kill; and what people see."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest

from lcnas.errors import TrainingFailedError
from lcnas.training import metrics


def test_a_run_that_goes_on_neither_doubles_nor_loses_lines(tmp_path):
    with metrics.Log(tmp_path) as log:
        for step in (1, 2, 3):
            log.write("step", step, {"loss": 1 / step})
        log.write("epoch", 3, {"epoch": 1, "train_loss": 0.5})
    before = (tmp_path / metrics.FILE).read_bytes()
    with metrics.Log(tmp_path, start=2) as log:  # as from a checkpoint after step 2
        for step in (3, 4):
            log.write("step", step, {"loss": 1 / step})
        log.write("epoch", 3, {"epoch": 1, "train_loss": 0.5})
    after = (tmp_path / metrics.FILE).read_bytes()
    assert after.startswith(before)
    keys = [(line["kind"], line["step"]) for line in metrics.read(tmp_path)]
    assert keys == [("step", 1), ("step", 2), ("step", 3), ("epoch", 3), ("step", 4)]


def test_a_line_that_a_kill_cut_off_is_cut_away_and_written_again(tmp_path):
    path = tmp_path / metrics.FILE
    path.write_text('{"kind": "step", "step": 1, "loss": 2.0}\n{"kind": "step", "st')
    assert [line["step"] for line in metrics.read(tmp_path)] == [1]
    with metrics.Log(tmp_path, start=1) as log:
        log.write("step", 2, {"loss": 1.0})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_tensorboard_reads_the_same_numbers_and_forgets_what_came_after_a_restart(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with metrics.Log(tmp_path) as log:
        for step in (10, 20, 30):
            log.write("step", step, {"epoch": 1, "loss": step / 10})
    with metrics.Log(tmp_path, start=20) as log:
        log.write("step", 30, {"epoch": 1, "loss": 7.0})
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert board.Tags()["scalars"] == ["step/loss"]
    scalars = [(e.step, e.value) for e in board.Scalars("step/loss")]
    assert scalars == [(10, 1.0), (20, 2.0), (30, 7.0)]


def test_a_process_that_does_not_lead_writes_nothing(tmp_path):
    with metrics.Log(tmp_path, active=False) as log:
        log.write("step", 1, {"loss": 1.0})
        log.sync()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line(tmp_path):
    class Full:
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self): ...

    with metrics.Log(tmp_path) as log:
        assert log._file is not None
        log._file.close()
        full: Any = Full()
        log._file = full
        with pytest.raises(TrainingFailedError, match="the disk is full; free some space"):
            log.write("step", 1, {"loss": 1.0})


def test_off_a_terminal_progress_is_lines_with_the_time_left(capsys):
    with metrics.ProgressBar(total=100, done=0) as progress:
        progress.begin()
        progress.step(1)
        progress.step(50, "loss 1.0, 300 images/s")
        progress.write_line("epoch 1")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("step 50/100  loss 1.0, 300 images/s, ")
    assert lines[0].endswith(" left")
    assert lines[1] == "epoch 1"
    with metrics.ProgressBar(100, 0, active=False) as silent:
        silent.step(50, "loss")
        silent.write_line("epoch")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (89, "1 min"), (3600, "1 h 0 min"), (100_000, "27 h 47 min")],
)
def test_durations(seconds, text):
    assert metrics.duration(seconds) == text
