"""Reading single images, crops, and the processes that read many."""

import io
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lcnas import images
from lcnas.errors import DataError
from lcnas.training import data
from lcnas.training.data import _decode
from lcnas.training.data._decode import Cut, Decoders, DecodeTask, Faults
from tests.training.data.conftest import save


def sample_pixels(height, width, seed=0):
    """A smooth random image."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def encoded(array, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


# -- crops -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(100, 100), (300, 100), (40, 90)])
def test_random_boxes_are_inside_and_keep_to_their_limits(width, height):
    scale, ratio = (0.1, 0.9), (0.6, 1.5)
    for seed in range(500):
        left, top, right, bottom = _decode.random_box(
            width, height, scale, ratio, np.random.default_rng(seed)
        )
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        shape = (right - left) / (bottom - top)
        assert ratio[0] - 1e-9 <= shape <= ratio[1] + 1e-9
        assert (right - left) * (bottom - top) <= scale[1] * width * height + 1e-6


def test_random_boxes_have_uniform_area_and_log_uniform_shape():
    boxes = np.array(
        [
            _decode.random_box(100, 100, (0.1, 0.5), (0.8, 1.25), np.random.default_rng(i))
            for i in range(4000)
        ]
    )
    wide, high = (boxes[:, 2:] - boxes[:, :2]).T
    area, shape = wide * high / 1e4, np.log(wide / high)
    for values, low, top in ((area, 0.1, 0.5), (shape, np.log(0.8), np.log(1.25))):
        spread = (top - low) / np.sqrt(12)
        assert abs(values.mean() - (low + top) / 2) < 4 * spread / np.sqrt(4000)
        assert abs(values.std() / spread - 1) < 0.05
    # Placed uniformly in the room that is left.
    assert abs((boxes[:, 0] / (100 - wide)).mean() - 0.5) < 0.02
    assert abs((boxes[:, 1] / (100 - high)).mean() - 0.5) < 0.02


def test_a_box_that_never_fits_is_the_largest_in_the_middle():
    rng = np.random.default_rng(0)
    assert _decode.random_box(400, 100, (1.0, 1.0), (1.0, 1.0), rng) == (150, 0, 250, 100)
    assert _decode.random_box(100, 400, (1.0, 1.0), (0.5, 2.0), rng) == (0, 100, 100, 300)


def test_the_whole_image_is_a_random_box_too():
    rng = np.random.default_rng(0)
    assert _decode.random_box(80, 80, (1.0, 1.0), (1.0, 1.0), rng) == (0, 0, 80, 80)


@pytest.mark.parametrize(
    ("shape", "box"),
    [((10, 10), (10, 0, 30, 20)), ((10, 20), (0, 0, 40, 20)), ((30, 10), (16.667, 0, 23.333, 20))],
)
def test_the_centre_has_the_shape_that_is_asked_for(shape, box):
    assert Cut("centre", shape).box(40, 20, ()) == pytest.approx(box, abs=1e-3)


def test_whole_images_at_their_own_size_are_unchanged():
    array = sample_pixels(20, 30)
    cut, aspect = _decode.cut_image(encoded(array), Cut("whole", (20, 30)), ())
    assert (cut == array).all()
    assert aspect == 1.5


def test_squashing_returns_the_true_aspect():
    cut, aspect = _decode.cut_image(encoded(sample_pixels(20, 30)), Cut("whole", (16, 16)), ())
    assert cut.shape == (16, 16, 3)
    assert aspect == 1.5


def test_the_centre_of_an_image_is_its_middle():
    array = sample_pixels(20, 32)
    cut, aspect = _decode.cut_image(encoded(array), Cut("centre", (20, 20)), ())
    assert (cut == array[:, 6:26]).all()
    assert aspect == 1


def test_a_random_crop_is_pillows_of_the_same_box():
    array = sample_pixels(60, 80)
    cut = Cut("random", (24, 24), (0.2, 0.8))
    for entropy in ((0, 0, 1), (0, 1, 1), (5, 0, 0)):
        box = cut.box(80, 60, entropy)
        expected = Image.fromarray(array).resize((24, 24), Image.Resampling.BILINEAR, box=box)
        assert (_decode.cut_image(encoded(array), cut, entropy)[0] == np.asarray(expected)).all()
    assert cut.box(80, 60, (0, 0, 1)) != cut.box(80, 60, (0, 1, 1))


def test_a_large_jpeg_is_decoded_small_and_looks_the_same():
    source = encoded(sample_pixels(800, 1000), "JPEG", quality=95)
    cut = Cut("random", (50, 50), (0.5, 0.9))
    box = cut.box(1000, 800, (1,))
    with images.open_image(source) as image:
        image.draft(None, _decode._enough(1000, 800, box, (50, 50)))
        assert image.size[0] < 300  # else this tests nothing
    full = Image.open(io.BytesIO(source)).convert("RGB")
    expected = np.asarray(full.resize((50, 50), Image.Resampling.BILINEAR, box=box)).astype(int)
    decoded = _decode.cut_image(source, cut, (1,))[0].astype(int)
    assert np.abs(decoded - expected).mean() < 1.5


@pytest.mark.parametrize("zoom", [1, 2, 3, 7, 8, 20])
def test_a_small_decode_never_has_fewer_pixels_than_asked_for(zoom):
    source = encoded(sample_pixels(40 * zoom, 56 * zoom), "JPEG")
    with images.open_image(source) as image:
        box = (0.1 * image.size[0], 0.2 * image.size[1], 0.9 * image.size[0], 0.9 * image.size[1])
        width, height = image.size
        image.draft(None, _decode._enough(width, height, box, (28, 28)))
        across, down = image.size[0] / width, image.size[1] / height
        wide, high = (box[2] - box[0]) * across, (box[3] - box[1]) * down
        full = min(box[2] - box[0], box[3] - box[1])
        assert min(wide, high) >= min(28, full) - 1e-6


# -- kinds of files ----------------------------------------------------------------------------------


def test_orientation_is_applied():
    array = np.zeros((8, 12, 3), np.uint8)
    array[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    source = encoded(array, "PNG", exif=exif)
    upright = np.asarray(data.open_rgb(source))
    assert upright.shape == (12, 8, 3)
    assert upright[0, 7, 0] == 255
    decoded, aspect = _decode.cut_image(source, Cut("whole", (12, 8)), ())
    assert (decoded == upright).all()
    assert aspect == pytest.approx(8 / 12)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK", "I;16"])
def test_other_modes_become_three_channels(mode):
    value = 255 if mode in ("1", "P") else 200  # these two know no such grey
    if mode == "I;16":
        image = Image.fromarray(np.full((6, 6), 200 << 8, np.uint16))
    else:
        image = Image.new("RGB", (6, 6), (value, value, value)).convert(mode)
    if mode == "P":
        image.info["transparency"] = bytes([255] * 256)
    file = io.BytesIO()
    image.save(file, "TIFF" if mode == "CMYK" else "PNG")
    decoded = np.asarray(data.open_rgb(file.getvalue()))
    assert decoded.shape == (6, 6, 3)
    assert (decoded == value).all()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no image",
        encoded(sample_pixels(20, 20))[:60],
        encoded(sample_pixels(90, 90), "JPEG")[:500],
        b"GIF89a",
    ],
)
def test_damaged_images_are_reported_and_black(content):
    good = encoded(sample_pixels(8, 8))
    done = _decode.run(DecodeTask((good, content, good), ((),) * 3, Cut("whole", (8, 8))))
    assert [bool(reason) for reason in done.reasons] == [False, True, False]
    assert "\n" not in done.reasons[1]
    assert (done.images[1] == 0).all()
    assert (done.images[0] == done.images[2]).all()


def test_every_truncated_or_altered_file_is_an_image_or_reported():
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM"):
        whole = encoded(sample_pixels(24, 24), kind)
        for _ in range(30):
            raw = bytearray(whole[: rng.integers(1, len(whole) + 1)])
            raw[rng.integers(len(raw))] ^= int(rng.integers(1, 256))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow warns of what it forgives
                done = _decode.run(DecodeTask((bytes(raw),), ((),), Cut("whole", (8, 8))))
            assert done.images.shape == (1, 8, 8, 3)


def test_the_size_of_an_image_is_read_from_its_head():
    assert _decode.open_size(encoded(sample_pixels(20, 30))) == (30, 20)
    assert _decode.open_size(b"nothing") == (0, 0)


def test_reasons_are_one_line_whose_quotes_are_balanced(tmp_path):
    (tmp_path / "it's.png").write_bytes(b"it's no image")
    (tmp_path / "cut.png").write_bytes(encoded(sample_pixels(90, 90))[:500])
    paths = [str(tmp_path / name) for name in ("it's.png", "cut.png", "none.png")]
    done = _decode.run(DecodeTask(tuple(paths), ((),) * 3, Cut("whole", (8, 8))))
    assert done.reasons == (
        'is not an image that Pillow can read: it begins with b"it\'s no image"',
        "cannot be read as an image: image file is truncated",
        "cannot be read as an image: No such file or directory",
    )
    with pytest.raises(DataError) as error:
        Faults("imagefolder", 3, 0).add(zip(("a", "b", "c"), done.reasons, strict=True))
    assert str(error.value) == (
        "imagefolder: 3 of 3 images cannot be read, more than the 0 % allowed: "
        f"a ({done.reasons[0]}), b ({done.reasons[1]}), c ({done.reasons[2]}); repair or remove them, or "
        "raise max_bad (--max-bad)"
    )


# -- too many damaged --------------------------------------------------------------------------------


def test_faults_are_counted_once_and_named_when_too_many():
    faults = Faults("imagefolder", 100, 0.02)
    faults.add([("a.png", "bad"), ("b.png", ""), ("c.png", "worse")])
    faults.add([("a.png", "bad")])
    assert faults.reasons == {"a.png": "bad", "c.png": "worse"}
    with pytest.raises(
        DataError, match=r"imagefolder: 3 of 100 .* 2 % allowed: a.png \(bad\), c.png \(worse\), d"
    ):
        faults.add([("d.png", "x")])


def test_a_message_names_ten_at_most():
    with pytest.raises(DataError, match=r"n9.* and 90 more; repair or remove"):
        Faults("x", 100, 0.5).add((f"n{i}", "bad") for i in range(100))


# -- processes ---------------------------------------------------------------------------------------


def test_results_come_in_order_whatever_the_processes():
    tasks = [
        DecodeTask((encoded(sample_pixels(8, 8, i)),), ((i,),), Cut("random", (6, 6)))
        for i in range(40)
    ]
    alone = [done.images for done in Decoders(0).map(_decode.run, tasks, 4)]
    many = Decoders(3)
    try:
        shared = [done.images for done in many.map(_decode.run, tasks, 4)]
    finally:
        many.close()
    assert len(alone) == len(shared) == 40
    assert all((a == b).all() for a, b in zip(alone, shared, strict=True))


def test_no_more_is_read_ahead_than_allowed():
    asked = []

    def tasks():
        for i in range(100):
            asked.append(i)
            yield i

    many = Decoders(1)
    try:
        results = many.map(abs, tasks(), 5)
        assert next(results) == 0
        assert len(asked) <= 7
        results.close()
        assert list(many.map(abs, [-3], 5)) == [3]  # closing one leaves the processes to others
    finally:
        many.close()


def test_a_process_that_dies_is_reported():
    many = Decoders(1)
    with pytest.raises(OSError, match="a worker process that reads images has died"):
        list(many.map(os._exit, [1], 2))
    assert list(many.map(abs, [-3], 2)) == [3]  # and a new one starts
    many.close()


SCRIPT = """
import sys, time
from lcnas.training import data
loaded = data.load("imagefolder:" + sys.argv[1], size=8, memory_mb=0, workers=2)
batches = loaded.train.batches(8, seed=0, epoch=0)
next(batches)
print(*loaded.decoders._executor._processes, flush=True)
if len(sys.argv) > 2:
    time.sleep(60)
"""


def test_a_script_needs_no_guard_around_it_and_its_processes_end_with_it(plain_folder, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, script, plain_folder], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
    assert gone(map(int, done.stdout.split()))

    line = [sys.executable, script, plain_folder, "wait"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        workers = [int(word) for word in process.stdout.readline().split()]
        assert len(workers) >= 1
        process.send_signal(signal.SIGKILL)
    assert gone(workers)


def gone(processes, seconds=20):
    """Whether processes end within some seconds; one that is dead but not waited for counts as ended."""
    end = time.monotonic() + seconds
    left = list(processes)
    while left and time.monotonic() < end:
        left = [p for p in left if running(p)]
        time.sleep(0.05)
    return not left


def running(process):
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state.rpartition(")")[2].split()[0] != "Z"


def test_saving_and_reading_is_exact(tmp_path):
    save(tmp_path / "x.png", sample_pixels(5, 7))
    assert (np.asarray(data.open_rgb(str(tmp_path / "x.png"))) == sample_pixels(5, 7)).all()
