import os
import zipfile

import numpy as np
import pytest

from lcnas.training.data import _cache

SHAPES = {"a": (3,), "b": (2, 2)}


class Maker:
    """Makes arrays and counts how often."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {"a": np.arange(3), "b": np.ones((2, 2), np.uint8)}


def ask(maker, key="key", shapes=SHAPES):
    arrays = _cache.arrays(key, shapes, maker)
    assert arrays["a"].tolist() == [0, 1, 2]
    return arrays


def test_the_second_time_nothing_is_made(cache):
    maker = Maker()
    first, second = ask(maker), ask(maker)
    assert maker.calls == 1
    assert all((first[name] == second[name]).all() for name in SHAPES)
    assert [path.name for path in cache.iterdir()] == ["key.npz"]  # nothing is left beside it
    ask(maker, key="other")
    assert maker.calls == 2


@pytest.mark.parametrize("damage", range(60))
def test_a_damaged_file_is_made_anew(cache, damage):
    maker = Maker()
    ask(maker)
    path = cache / "key.npz"
    raw = bytearray(path.read_bytes())
    rng = np.random.default_rng(damage)
    if damage % 2:
        raw = raw[: rng.integers(len(raw))]
    else:
        raw[rng.integers(len(raw))] ^= int(rng.integers(1, 256))
    path.write_bytes(raw)
    arrays = ask(maker)  # as it was, whether the damage mattered or not
    assert (arrays["b"] == 1).all()
    assert ask(maker)["b"].shape == (2, 2)


@pytest.mark.parametrize("content", [b"", b"x", b"\x80\x04N."])
def test_a_file_of_another_kind_is_made_anew(cache, content):
    maker = Maker()
    cache.mkdir()
    (cache / "key.npz").write_bytes(content)
    ask(maker)
    ask(maker)
    assert maker.calls == 1


def test_arrays_of_other_shapes_or_missing_ones_are_made_anew(cache):
    maker = Maker()
    cache.mkdir()
    for arrays in ({"a": np.arange(4), "b": np.ones((2, 2))}, {"a": np.arange(3)}):
        np.savez(cache / "key.npz", **arrays)
        ask(maker)
    assert maker.calls == 2


def test_pickled_objects_are_not_read(cache):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(cache / "sprung"),)

    cache.mkdir()
    np.savez(cache / "key.npz", a=np.array([Trap(), 1, 2], object), b=np.ones((2, 2)))
    with zipfile.ZipFile(cache / "key.npz") as file:
        assert b"mkdir" in file.read("a.npy")  # the trap is set
    maker = Maker()
    ask(maker)
    assert maker.calls == 1
    assert not (cache / "sprung").exists()


def test_a_cache_that_cannot_be_written_costs_nothing(cache):
    cache.write_text("a file where the folder should be")
    maker = Maker()
    ask(maker)
    ask(maker)
    assert maker.calls == 2


def test_the_folder_can_be_chosen_or_switched_off(monkeypatch, tmp_path):
    monkeypatch.setenv("LCNAS_CACHE", str(tmp_path / "x"))
    assert _cache.folder() == tmp_path / "x"
    monkeypatch.setenv("LCNAS_CACHE", "")
    assert _cache.folder() is None
    maker = Maker()
    ask(maker)
    ask(maker)
    assert maker.calls == 2
    monkeypatch.delenv("LCNAS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _cache.folder() == tmp_path / "lcnas"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert _cache.folder() == tmp_path / "home" / ".cache" / "lcnas"


def test_what_was_not_used_for_long_goes(cache, monkeypatch):
    maker = Maker()
    for i in range(5):
        ask(maker, key=f"k{i}")
        os.utime(cache / f"k{i}.npz", (i, i))
    ask(maker, key="k0")  # used just now, so it stays
    size = (cache / "k0.npz").stat().st_size
    monkeypatch.setattr(_cache, "MAX_MB", 3.5 * size / 2**20)
    ask(maker, key="new")
    assert {path.stem for path in cache.iterdir()} == {"k0", "k4", "new"}
    monkeypatch.setattr(_cache, "MAX_MB", 0)
    ask(maker, key="newer")
    assert [path.stem for path in cache.iterdir()] == ["newer"]
