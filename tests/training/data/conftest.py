"""What the tests of data share: a cache of their own, and small sets of images."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, so that no test sees what another left."""
    monkeypatch.setenv("LCNAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def save(path, array, **options):
    """Write an image, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path, **options)


def marked(number, size=(12, 12)):
    """An image of one colour that says which it is: its number can be read back from any pixel."""
    return np.full((*size, 3), (number // 40 * 10 + 5, number % 40 * 6 + 3, 77), np.uint8)


def number_of(image):
    """The number of a marked image, or of any part of it."""
    red, green, _ = image.reshape(-1, 3).mean(0)
    return round((red - 5) / 10) * 40 + round((green - 3) / 6)


def numbers_of(batch):
    return [number_of(image) for image in batch.images]


@pytest.fixture
def plain_folder(tmp_path):
    """Three classes of 20, 30 and 10 marked images, numbered 0 to 59 in the order of their names."""
    root = tmp_path / "images"
    number = 0
    for name, count in (("ant", 20), ("bee", 30), ("cow", 10)):
        for i in range(count):
            save(root / name / f"{i:02}.png", marked(number))
            number += 1
    return root


@pytest.fixture
def split_folder(tmp_path):
    """ImageNet's layout: two classes, 40 marked images in train (0 to 39), 6 in val (40 to 45)."""
    root = tmp_path / "split"
    for i in range(40):
        save(root / "train" / ("n01" if i < 25 else "n02") / f"a{i:02}.png", marked(i))
    for i in range(40, 46):
        save(root / "val" / ("n01" if i < 43 else "n02") / f"a{i:02}.png", marked(i))
    return root
