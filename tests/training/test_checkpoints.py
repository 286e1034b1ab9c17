"""Stored states: the same bits come back, the best and the last stay, and what is damaged is named."""

from __future__ import annotations

import errno

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcnas.errors import TrainingError, TrainingFailedError
from lcnas.training import checkpoints, optimizers
from lcnas.training.checkpoints import Checkpoints
from lcnas.training.recipes import Recipe
from lcnas.training.step import State, Sums


def state(step, optimizer="adamw", ema=True):
    rng = np.random.default_rng(step)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape).astype(np.float32))

    params = {"stem/kernel": draw(3, 3, 3, 4), "stem/scale": draw(4), "head/2/gain": draw()}
    stats = {"stem/mean": draw(4), "stem/var": draw(4)}
    transform = optimizers.build(Recipe(optimizer=optimizer), params)
    memory = jax.tree.map(lambda x: x + step, optimizers.init(transform, params))
    sums = Sums(draw(), jnp.int32(step), jnp.int32(7), jnp.int32(1))
    average = {**params, **stats} if ema else {}
    return State(jnp.int32(step), params, stats, memory, average, sums, sums)


def same(a, b):
    assert str(jax.tree.structure(a)) == str(jax.tree.structure(b))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).dtype == np.asarray(y).dtype
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(("optimizer", "ema"), [("adamw", True), ("sgd", False)])
def test_the_same_bits_come_back(tmp_path, optimizer, ema):
    stored = state(3, optimizer, ema)
    with Checkpoints(tmp_path / "c") as store:
        assert store.newest is None
        store.save(stored, {"step": 3, "best": None, "seconds": 0.1}, None)
    with Checkpoints(tmp_path / "c") as store:
        assert store.newest == 3
        back, run = store.restore(state(0, optimizer, ema), 3)
    same(back, stored)
    assert run == {"step": 3, "best": None, "seconds": 0.1}


def test_the_last_few_and_the_best_stay(tmp_path):
    with Checkpoints(tmp_path / "c", last=2) as store:
        for step in range(1, 7):
            store.save(state(step), {}, best=min(2, step))
            store.save(state(step), {}, best=2)  # once more changes nothing
    kept = sorted(int(p.name) for p in (tmp_path / "c").iterdir() if p.is_dir())
    assert kept == [2, 5, 6]


def test_what_is_stored_is_a_copy(tmp_path):
    """The next step overwrites the memory of the state, which is donated to it."""
    tree = checkpoints.to_tree(state(1))
    live = jax.tree.map(jnp.copy, state(1))
    kept = checkpoints.to_tree(live)
    assert all(x.flags.owndata for x in jax.tree.leaves(kept))
    jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)(live)
    same(kept, tree)


def test_names_become_folders_and_names_again():
    weights = {"a/0/kernel": np.ones(2), "a/1/kernel": np.zeros(3), "b": np.ones(1)}
    nested = checkpoints._nested(weights)
    assert nested["a"]["1"]["kernel"].shape == (3,)
    assert checkpoints._flattened(nested).keys() == weights.keys()


def test_a_write_that_a_kill_cut_off_is_ignored(tmp_path):
    with Checkpoints(tmp_path / "c") as store:
        store.save(state(1), {}, None)
    (tmp_path / "c" / "2.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "c" / "2.orbax-checkpoint-tmp" / "half").write_text("")
    with Checkpoints(tmp_path / "c") as store:
        assert store.newest == 1
        store.save(state(2), {}, None)
    with Checkpoints(tmp_path / "c") as store:
        assert store.newest == 2


def test_a_damaged_one_is_named_and_so_is_what_to_do(tmp_path):
    with Checkpoints(tmp_path / "c") as store:
        store.save(state(1), {}, None)
    for path in (tmp_path / "c" / "1" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with Checkpoints(tmp_path / "c") as store, pytest.raises(TrainingError) as caught:
        store.restore(state(0), 1)
    assert "1 cannot be read" in str(caught.value)
    assert "delete that folder to resume from the checkpoint before" in str(caught.value)


def test_one_of_another_network_is_refused(tmp_path):
    with Checkpoints(tmp_path / "c") as store:
        store.save(state(1), {}, None)
        store.wait()
        other = state(1)._replace(params={"stem/kernel": jnp.zeros((5, 5, 3, 4))})
        with pytest.raises(TrainingError, match="cannot be read"):
            store.restore(other, 1)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full; free some space"),
        (ValueError("RESOURCE_EXHAUSTED: ... No space left on device [x]"), "the disk is full"),
        (
            PermissionError(errno.EACCES, "Permission denied"),
            "cannot be written: Permission denied",
        ),
    ],
)
def test_a_disk_that_takes_nothing(tmp_path, monkeypatch, error, message):
    with Checkpoints(tmp_path / "c") as store:

        def fail(*_, **__):
            raise error

        monkeypatch.setattr(store._manager, "save", fail)
        with pytest.raises(TrainingFailedError, match=message) as caught:
            store.save(state(1), {}, None)
    assert "\n" not in str(caught.value)
