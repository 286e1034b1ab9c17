"""What people's folders look like: names of splits and of files, what is no image, classes of few images."""

import itertools
import json
import os
import shutil

import numpy as np
import onnx
import pytest
from PIL import Image

from lcnas import onnx_export, train
from lcnas.errors import DataError, spelt
from lcnas.training import data
from lcnas.training.data import _folder, _layout
from tests.training import tiny
from tests.training.data.conftest import marked, number_of, save


def load(root, **options):
    return data.load(f"imagefolder:{root}", **({"size": 8, "workers": 0} | options))


def numbers(split):
    batches = split.in_order(7) if isinstance(split, data.Train) else split.batches(7)
    return sorted(number_of(x) for b in batches for x in b.images[b.mask])


def fill(root, counts, first=0):
    """Write so many marked images into each folder; returns the numbers of each."""
    numbers, number = {}, first
    for folder, n in counts.items():
        numbers[folder] = list(range(number, number + n))
        for i in numbers[folder]:
            save(root / folder / f"{i:03}.png", marked(i))
        number += n
    return numbers


# -- names of splits ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *(
            (n, "train")
            for n in ("train", "Training", "TRN", "train_set", "trainset", "Train Images")
        ),
        *((n, "validation") for n in ("val", "Valid", "VALIDATION", "dev", "eval", "val_data")),
        *((n, "test") for n in ("test", "Testing", "tst", "test_set", "TestSet", "images-test")),
        *(
            (n, None)
            for n in ("trainer", "set", "data", "cat", "", "tested", "train_val", "val2017")
        ),
    ],
)
def test_splits_are_known_by_their_usual_names(name, role):
    assert _layout.role(name) == role


@pytest.mark.parametrize(
    "names",
    [("train", "test"), ("Training", "Testing"), ("trn", "TST"), ("training_set", "test_set")],
)
@pytest.mark.parametrize("options", [{}, {"memory_mb": 0}])
def test_two_splits_are_training_and_test_in_any_case(tmp_path, names, options):
    train, test = names
    files = fill(tmp_path, {f"{train}/a": 10, f"{train}/b": 5, f"{test}/a": 2, f"{test}/b": 3})
    loaded = load(tmp_path, **options)
    assert loaded.class_names == ("a", "b")
    assert numbers(loaded.test) == files[f"{test}/a"] + files[f"{test}/b"]
    assert (len(loaded.train), len(loaded.validation)) == (12, 3)
    own = f"20 % of each class of {train}"
    assert loaded.notes == (f"training: {train}; validation: {own}; test: {test}",)


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"),
        ("train", "valid", "test"),
        ("Training", "Validation", "Testing"),
        ("train", "dev", "eval"),
        ("train", "val", "evaluation"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"memory_mb": 0}])
def test_three_splits_are_used_as_such(tmp_path, names, options):
    train, validation, test = names
    counts = {f"{part}/{c}": n for part, n in zip(names, (4, 2, 3), strict=True) for c in "ab"}
    files = fill(tmp_path, counts)
    loaded = load(tmp_path, **options)
    for split, part in zip((loaded.train, loaded.validation, loaded.test), names, strict=True):
        assert numbers(split) == files[f"{part}/a"] + files[f"{part}/b"]
        assert np.bincount(split.labels).tolist() == [len(files[f"{part}/{c}"]) for c in "ab"]
    assert loaded.notes == (f"training: {train}; validation: {validation}; test: {test}",)
    control = load(tmp_path, permute_labels=True, **options)
    assert control.fingerprint != loaded.fingerprint
    assert np.bincount(control.validation.labels).tolist() == [2, 2]


def test_a_set_is_split_as_it_always_was(tmp_path):
    fill(tmp_path / "x", {"train/a": 10, "train/b": 10, "val/a": 2, "val/b": 2})
    assert numbers(load(tmp_path / "x").validation) == [4, 7, 10, 18]
    (tmp_path / "x" / "val").rename(tmp_path / "x" / "Testing")
    assert numbers(load(tmp_path / "x").validation) == [4, 7, 10, 18]


def test_a_class_may_be_called_test_or_train(tmp_path):
    fill(tmp_path / "x", {"car": 5, "test": 5, "bus": 5})
    loaded = load(tmp_path / "x")
    assert loaded.class_names == ("bus", "car", "test")
    assert loaded.notes == ("the folder test is read as a class",)
    fill(tmp_path / "y", {"car": 5, "train/steam": 3, "train/diesel": 2, "bus": 5})
    with pytest.raises(DataError, match=r"has train with folders inside, .* beside them bus, car"):
        load(tmp_path / "y")
    fill(tmp_path / "z", {"car": 5, "test/deep": 5})
    assert load(tmp_path / "z").class_names == ("car", "test")


def test_training_alone_gives_all_three(tmp_path):
    files = fill(tmp_path, {"train/a": 10, "train/b": 10, "notes": 0, "test": 3})
    (tmp_path / "docs").mkdir()
    loaded = load(tmp_path)
    parts = [numbers(s) for s in (loaded.train, loaded.validation, loaded.test)]
    assert sorted(itertools.chain(*parts)) == files["train/a"] + files["train/b"]
    assert [len(p) for p in parts] == [12, 4, 4]
    assert loaded.notes == (
        "all three splits are made from train",
        "folders left out: docs (0 images), test (3 images)",
    )


def test_folders_beside_the_splits_are_said(tmp_path):
    fill(
        tmp_path, {f"{p}/{c}": 4 for p in ("train", "val") for c in "ab"} | {"extra": 2, "test": 5}
    )
    loaded = load(tmp_path)
    assert loaded.notes[0] == "training: train; validation: 20 % of each class of train; test: val"
    assert loaded.notes[1] == "folders left out: extra (2 images), test (5 images)"
    assert len(loaded.test) == 8


def test_splits_inside_the_classes_are_no_splits_and_it_is_said(tmp_path):
    fill(tmp_path, {f"{c}/{part}": 5 for c in "ab" for part in ("test", "train", "good")})
    (note,) = load(tmp_path).notes
    assert note == "the class folders hold test, train; as splits, these must be the outer folders"


def test_validation_may_lack_classes_and_it_is_said(tmp_path):
    fill(tmp_path, {"train/a": 4, "train/b": 4, "train/c": 4, "val/a": 2, "val/b": 2})
    fill(tmp_path, {"test/a": 2, "test/b": 2, "test/c": 2}, 20)
    loaded = load(tmp_path)
    assert loaded.classes == 3
    assert loaded.validation.labels.tolist() == [0, 0, 1, 1]
    assert loaded.notes[1:] == (
        "validation has none of 1 of the 3 classes (c), so accuracy there does not cover them",
    )


def test_the_grocery_store_is_read_as_it_comes(shared_data):
    if not (shared_data / "grocery128").is_dir():
        pytest.skip("needs GroceryStore in the shared data")
    loaded = load(shared_data / "grocery128", memory_mb=0)
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (2640, 296, 2485)
    assert loaded.classes == 81
    assert len(set(loaded.validation.labels.tolist())) == 60
    assert [
        n for n in loaded.notes if n.startswith("validation has none of 21 of the 81 classes (")
    ]


# -- what is no image --------------------------------------------------------------------------------


def test_every_suffix_of_pillows_is_taken_and_contents_decide(tmp_path):
    for c in "ab":
        (tmp_path / c).mkdir()
        for i, (name, kind) in enumerate(
            {
                "x.jfif": "JPEG",
                "x.avif": "AVIF",
                "x.gif": "GIF",
                "x.jp2": "JPEG2000",
                "x.tga": "TGA",
                "x.ico": "ICO",
                "is_a_jpeg.png": "JPEG",
                "x.jpg?w=200": "JPEG",
                "none": "PNG",
                "x.txt": "WEBP",
                "X.JPE": "JPEG",
            }.items()
        ):
            Image.new("RGB", (16, 16), (20 * i, 90, 90)).save(tmp_path / c / name, kind)
    loaded = load(tmp_path)
    assert len(loaded.train) + len(loaded.validation) + len(loaded.test) == 22
    assert (loaded.notes, loaded.skipped) == ((), {})


def test_what_is_left_out_is_counted_by_kind(plain_folder):
    for i in range(10):
        (plain_folder / "ant" / f"{i}.txt").write_text("a box")
    for name in ("bee/a.MP4", "bee/b.mp4", "cow/noise", "cow/x.a_very_long_suffix", "labels.csv"):
        (plain_folder / name).write_bytes(b"\0\1\2\3 no image")
    (plain_folder / "cow" / "gone.png").symlink_to("nowhere")
    (plain_folder / "cow" / "again").symlink_to(plain_folder / "ant")
    os.mkfifo(plain_folder / "cow" / "pipe.png")
    save(plain_folder / "loose.png", marked(80))
    for rubbish in ("__MACOSX/ant/x.png", "ant/@eaDir/x.png", ".git/x.png", "ant/._00.png"):
        save(plain_folder / rubbish, marked(81))
    loaded = load(plain_folder)
    assert sum(len(s) for s in (loaded.train, loaded.validation, loaded.test)) == 60
    (note,) = loaded.notes
    assert note == (
        "19 files left out: 10 .txt, 2 .mp4, 2 broken links, pipes or devices, 2 without suffix, "
        "1 .csv, 2 others"
    )


def test_an_unlabelled_folder_says_what_it_leaves_out_too(plain_folder, tmp_path):
    save(tmp_path / "more" / "deep" / "x.png", marked(90))
    (tmp_path / "more" / "x.txt").write_text("")
    loaded = load(plain_folder, unlabelled=tmp_path / "more")
    assert loaded.notes == ("unlabelled: 1 file left out: 1 .txt",)


def test_a_folder_that_cannot_be_read_is_one_line(plain_folder, monkeypatch):
    def refuse(path, real=os.scandir):
        if str(path).endswith("bee"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"images/bee cannot be read: Permission denied$"):
        load(plain_folder)


# -- names -------------------------------------------------------------------------------------------


def odd_folder(tmp_path):
    """Classes and files named in Latin-1, and a class with the name that the first is spelt by."""
    try:
        (tmp_path / os.fsdecode(b"s\xe9t")).mkdir()
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    root = tmp_path / os.fsdecode(b"s\xe9t")
    number = 0
    for name in (b"caf\xe9", rb"caf\xe9", "thé".encode()):
        for i in range(8):
            path = root / os.fsdecode(name) / os.fsdecode(b"\xe4%d.png" % i)
            path.parent.mkdir(exist_ok=True)
            with path.open("wb") as file:
                Image.fromarray(marked(number)).save(file, "PNG")
            number += 1
    return root


@pytest.mark.parametrize("options", [{}, {"memory_mb": 0}])
def test_names_that_are_no_utf8_are_spelt_in_their_bytes(tmp_path, options):
    root = odd_folder(tmp_path)
    bad = root / os.fsdecode(b"caf\xe9") / os.fsdecode(b"\xe40.png")
    bad.write_bytes(b"damaged")
    loaded = load(root, max_bad=0.5, **options)
    assert loaded.class_names == (r"caf\xe9", r"caf\xe9_2", "thé")
    json.dumps(loaded.class_names, ensure_ascii=False).encode()
    loaded_numbers = list(
        itertools.chain(*map(numbers, (loaded.train, loaded.validation, loaded.test)))
    )
    assert len(loaded_numbers) == 23
    assert (
        [spelt(name) for name in loaded.skipped] == list(loaded.skipped) == [r"caf\xe9/\xe40.png"]
    )
    with pytest.raises(DataError) as error:  # noqa: PT012 - streamed, it shows when it is read
        numbers(load(root, max_bad=0, **options).train)
        numbers(load(root, max_bad=0, **options).test)
    str(error.value).encode()


def test_a_network_is_trained_on_such_names_and_its_file_records_them(tmp_path, capsys):
    root = odd_folder(tmp_path)
    (tmp_path / "net.json").write_text(tiny.arch().to_json())
    words = ["--data", f"imagefolder:{root}", "--arch", str(tmp_path / "net.json")]
    words += ["--recipe", "proxy", "--resolution", "8", "--epochs", "1", "--batch", "8"]
    words += ["--workers", "0", "--cache", "none"]
    with tiny.quick_compiling():
        assert train.main([*words, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    printed.encode()
    assert r"s\xe9t, 3 classes" in printed
    interface = onnx_export.interface(onnx.load(tmp_path / "out" / "best.onnx"))
    assert interface.class_names == (r"caf\xe9", r"caf\xe9_2", "thé")


def test_class_names_are_always_different():
    odd = os.fsdecode(b"\xe9")
    assert _folder._class_names(["a", r"\xe9", r"\xe9_2", odd]) == (
        "a",
        r"\xe9",
        r"\xe9_2",
        r"\xe9_3",
    )


# -- classes of few images ---------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "who"), [(1, ("validation", "test")), (2, ("validation",))])
@pytest.mark.parametrize("options", [{}, {"memory_mb": 0}])
def test_a_class_of_one_or_two_images_is_said_with_the_right_number(tmp_path, n, who, options):
    fill(tmp_path / "x", {"a": 6, "b": 6, "c": 6, "rare": n})
    (note,) = load(tmp_path / "x", **options).notes
    assert note == (
        " and ".join(f"{split} has none of 1" for split in who)
        + " of the 4 classes (rare), so accuracy there does not cover them; each class needs at "
        "least 3 images, one each for training, validation and test"
    )
    fill(tmp_path / "x", {"rare": 3}, 60)
    assert load(tmp_path / "x", **options).notes == ()


def test_a_set_one_folder_further_down_is_pointed_to(tmp_path):
    fill(tmp_path / "outer" / "images", {"train/a": 3, "train/b": 3})
    inner = tmp_path / "outer" / "images"
    with pytest.raises(
        DataError, match=rf"only the folder images; .* did you mean imagefolder:{inner}"
    ):
        load(tmp_path / "outer")
    fill(tmp_path / "classes" / "inner", {"a": 3, "b": 3})
    with pytest.raises(DataError, match=r"did you mean imagefolder:.*inner\?"):
        load(tmp_path / "classes")


def test_one_class_alone_in_a_split_is_refused(tmp_path):
    fill(tmp_path / "one", {"a": 6, "rare": 1})
    with pytest.raises(
        DataError, match=r"the validation split has no readable images of rare; .* 3 im"
    ):
        load(tmp_path / "one")
    fill(tmp_path / "two", {"train/a": 6, "train/rare": 1, "test/a": 2, "test/rare": 2})
    words = (
        r"the validation split has no readable images of rare; each class needs at least 2 images"
    )
    with pytest.raises(DataError, match=words):
        load(tmp_path / "two")
    fill(tmp_path / "two", {"train/rare": 2}, 50)
    assert load(tmp_path / "two").notes[1:] == ()
    three = {f"{part}/{c}": 1 for part in ("train", "val", "test") for c in "ab"}
    fill(tmp_path / "three", three)
    assert load(tmp_path / "three").notes[1:] == ()  # one of each is enough where all are given
    shutil.rmtree(tmp_path / "three" / "val" / "b")
    with pytest.raises(
        DataError, match=r"no readable images of b, so that no .*: at least 2 classes"
    ):
        load(tmp_path / "three")


def test_arrays_say_it_too(tmp_path):
    x = np.stack([marked(i, (6, 6)) for i in range(20)])
    y = np.array([0] * 8 + [1] * 11 + [2])
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    (note,) = data.load(f"npz:{tmp_path / 'x.npz'}").notes
    assert note == (
        "validation has none of 1 of the 3 classes (2), so accuracy there does not cover them; each class "
        "needs at least 2 images to train, one of which goes to validation"
    )


def test_training_without_a_readable_image_of_a_class_is_refused(tmp_path):
    fill(tmp_path, {f"{p}/{c}": 1 for p in ("train", "val", "test") for c in "abc"})
    (tmp_path / "train" / "c" / "002.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match="the train split has no readable images of c"):
        load(tmp_path, max_bad=0.5)


# -- any layout --------------------------------------------------------------------------------------


def test_any_layout_is_used_or_refused_in_one_line(tmp_path):
    """Folders of random names and depths, with random things in them."""
    rng = np.random.default_rng(0)
    names = [
        "train",
        "Training",
        "val",
        "valid",
        "test",
        "dev",
        "eval",
        "cat",
        "dog",
        "images",
        "train_set",
    ]
    content = [b"", b"text", b"\xff\xd8\xff", b"GIF89a"]
    image = tmp_path / "x.png"
    save(image, marked(3))
    used = 0
    for i in range(150):
        root = tmp_path / f"{i}"
        root.mkdir()
        classes = rng.permutation(["cat", "dog", "test"])[: rng.integers(2, 4)]
        for top in rng.choice(names, rng.integers(0, 4), replace=False):
            for inner in ("", *(classes if rng.random() < 0.8 else ())):
                folder = root / top / inner
                folder.mkdir(parents=True, exist_ok=True)
                for k in range(rng.integers(0, 7) if inner else rng.integers(0, 7) // 5):
                    (folder / f"{k}.png").write_bytes(image.read_bytes())
                if rng.random() < 0.1:
                    (folder / "odd.jpg").write_bytes(content[rng.integers(len(content))])
        try:
            loaded = load(root, memory_mb=0, cache=False, max_bad=0.5)
            used += 1
            assert len(loaded.notes) <= 6
            assert all("\n" not in note for note in loaded.notes)
            assert set(numbers(loaded.train)) == {3}
        except DataError as error:
            assert "\n" not in str(error)
            assert len(str(error)) < 700
    assert 15 < used < 130
