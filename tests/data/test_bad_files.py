"""A corpus of bad and odd files: both loaders read alike, or both refuse."""

import dataclasses
import io
import os
import platform
import struct
import subprocess
import sys
import threading
import time
import zlib
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import whole_pairs
from conftest import ROOT
from conftest import one_backend
from pictures import encode
from pictures import photo
from PIL import Image
from PIL import ImageOps
from PIL.PngImagePlugin import PngInfo

from keras_danet.data.bad_files import BadFiles
from keras_danet.data.datasets import CAMVID
from keras_danet.data.files import Pair
from keras_danet.data.numpy_batches import TrainingBatches
from keras_danet.data.orientation import orientation_of
from keras_danet.data.plan import Augmentation

tf = pytest.importorskip("tensorflow")

from keras_danet.data.tensorflow_batches import readable_errors  # noqa: E402
from keras_danet.data.tensorflow_batches import training_dataset  # noqa: E402

pytestmark = one_backend

# Every value but one is a class of its own, so that each must arrive.
VALUES = dataclasses.replace(CAMVID, label_map=(*range(254), 254, 255))
SECONDS = 60  # two hundred times what it takes, for machines that are busy
HEIGHT, WIDTH = 37, 53


def png(width, height, depth, kind, rows, *chunks, interlace=0):
    """A PNG with any header, of rows with their filters, and more chunks."""
    header = struct.pack(
        ">IIBBBBB", width, height, depth, kind, 0, 0, interlace
    )
    chunks = [
        (b"IHDR", header),
        *chunks,
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def resized_jpeg(width, height):
    """A JPEG whose header alone speaks of another size."""
    contents = encode(photo(), "JPEG")
    start = contents.index(b"\xff\xc0") + 5
    return (
        contents[:start]
        + struct.pack(">HH", height, width)
        + contents[start + 4 :]
    )


def turned(kind):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    return encode(photo(), kind, exif=exif)


def interlaced():
    """The numbers 0-80 in a square of 9 x 9, in the seven passes of PNG."""
    values = np.arange(81, dtype=np.uint8).reshape(9, 9)
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)]
    passes += [(2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b"".join(
        b"\0" + bytes(row)
        for top, left, down, right in passes
        for row in values[top::down, left::right]
    )
    return png(9, 9, 8, 0, rows, interlace=1)


def comment(size):
    info = PngInfo()
    info.add_text("comment", "x" * size, zip=True)
    return info


NUMBERS = np.resize(np.arange(254, dtype=np.uint8), (HEIGHT, WIDTH))
PALETTE = Image.fromarray(NUMBERS, "P")
PALETTE.putpalette(np.random.default_rng(3).permutation(768).astype("uint8"))
RANDOM = np.random.default_rng(0).bytes(999)
PNG, JPEG = encode(photo()), encode(photo(), "JPEG")
FLAT = b"\0\1\2\3\4\5" * 3

READ_AS_IMAGES = {
    "RGB": PNG,
    "alpha": encode(photo(mode="RGBA")),
    "grey": encode(photo(mode="L")),
    "grey and alpha": encode(photo(mode="LA")),
    "one bit": encode(photo(mode="1")),
    "palette": encode(PALETTE),
    "palette and alpha": encode(PALETTE, transparency=bytes(range(254))),
    "a transparent grey": encode(photo(mode="L"), transparency=100),
    "a transparent colour": encode(photo(), transparency=(1, 2, 3)),
    "interlaced": interlaced(),
    "animated": encode(
        photo(), save_all=True, append_images=[photo().rotate(180)]
    ),
    "gamma": png(5, 3, 8, 0, FLAT, (b"gAMA", struct.pack(">I", 100_000))),
    "a broken profile": encode(photo(), icc_profile=RANDOM),
    "more behind its end": PNG + RANDOM,
    "JPEG": JPEG,
    "grey JPEG": encode(photo(mode="L"), "JPEG"),
    "progressive": encode(photo(), "JPEG", progressive=True),
    "4:4:4": encode(photo(), "JPEG", subsampling=0),
    "4:2:2": encode(photo(), "JPEG", subsampling=1),
    "RGB JPEG": encode(photo(), "JPEG", keep_rgb=True),
    "restarts": encode(photo(), "JPEG", restart_marker_blocks=2),
    "two in one": encode(
        photo(), "MPO", save_all=True, append_images=[photo().rotate(180)]
    ),
    "more behind its end, JPEG": JPEG + RANDOM,
    "turned by EXIF": turned("JPEG"),
    "PNG turned by EXIF": turned("PNG"),
    "broken EXIF": encode(photo(), "JPEG", exif=b"Exif\0\0" + RANDOM),
    "broken EXIF in a PNG": encode(photo(), exif=RANDOM),
    "1 pixel": encode(photo(1, 1)),
    "1 pixel, JPEG": encode(photo(1, 1), "JPEG"),
    "40,000 x 2": encode(photo(40_000, 2)),
    "2 x 40,000, JPEG": encode(photo(2, 40_000), "JPEG"),
}

READ_AS_LABELS = {
    "grey": (encode(Image.fromarray(NUMBERS)), NUMBERS),
    "palette": (encode(PALETTE), NUMBERS),
    "palette and alpha": (
        encode(PALETTE, transparency=bytes(range(254))),
        NUMBERS,
    ),
    "a transparent grey": (
        encode(Image.fromarray(NUMBERS), transparency=100),
        NUMBERS,
    ),
    "an index without a colour": (
        png(5, 3, 8, 3, FLAT, (b"PLTE", bytes(6))),
        np.tile(np.uint8([1, 2, 3, 4, 5]), (3, 1)),
    ),
    "one bit": (
        png(5, 3, 1, 0, b"\0\xa8" * 3),
        np.tile(np.uint8([1, 0, 1, 0, 1]), (3, 1)),
    ),
    "interlaced": (interlaced(), np.arange(81).reshape(9, 9)),
    "gamma": (
        png(5, 3, 8, 0, FLAT, (b"gAMA", struct.pack(">I", 100_000))),
        np.tile(np.uint8([1, 2, 3, 4, 5]), (3, 1)),
    ),
    "1 pixel": (encode(Image.fromarray(NUMBERS[:1, 9:10])), [[9]]),
    "40,000 x 2": (
        encode(Image.fromarray(np.resize(NUMBERS, (40_000, 2)))),
        np.resize(NUMBERS, (40_000, 2)),
    ),
}

# What no loader takes, whether for an image or for a label.
REFUSED = {
    "random bytes": (RANDOM, "cannot identify"),
    "nothing": (b"", "it is empty"),
    "a web page": (b"<html>Not found</html>", "cannot identify"),
    "GIF": (encode(photo(), "GIF"), "cannot identify"),
    "WebP": (encode(photo(), "WEBP"), "cannot identify"),
    "TIFF": (encode(photo(), "TIFF"), "cannot identify"),
    "no pixels": (png(0, 5, 8, 0, b""), "cannot identify"),
    "no pixels, JPEG": (resized_jpeg(0, 0), "cannot identify"),
    "a depth of 3 bits": (png(5, 3, 3, 0, FLAT), "cannot identify"),
    "a wrong filter": (png(5, 3, 8, 0, b"\x09" * 18), "unrecognized"),
    "a bomb": (png(2**14, 2**14 + 1, 8, 0, FLAT), "is too large: 16385 x"),
    "the largest bomb": (
        png(2**31 - 1, 2**31 - 1, 8, 0, FLAT),
        "is too large: 2147483647 x 2147483647",
    ),
    "a bomb in a JPEG": (resized_jpeg(65_500, 65_500), "too large: 65500 x"),
    "a bomb in a profile": (
        png(
            *(5, 3, 8, 0, FLAT),
            (b"iCCP", b"x\0\0" + zlib.compress(bytes(10**8))),
        ),
        "Decompressed data too large",
    ),
    "a bomb in a comment": (
        png(
            *(5, 3, 8, 0, FLAT),
            (b"zTXt", b"x\0\0" + zlib.compress(bytes(10**8))),
        ),
        "Decompressed data too large",
    ),
}
REFUSED_AS_IMAGES = {
    **REFUSED,
    "half a PNG": (PNG[: len(PNG) // 2], "Truncated"),
    "a PNG without its end": (PNG[:-12], "truncated"),
    "half a JPEG": (JPEG[: len(JPEG) // 2], "truncated"),
    "a JPEG without its end": (JPEG[:-2], "truncated JPEG"),
    "16-bit": (
        encode(photo(mode="L").convert("I;16")),
        "more than 8 bits per channel (Pillow mode I;16",
    ),
    "16-bit colours": (png(1, 1, 16, 2, bytes(7)), "more than 8 bits"),
    "CMYK": (encode(photo(mode="CMYK"), "JPEG"), "CMYK"),
    # Which Pillow would make black.
    "rows that nobody wrote": (
        png(5, 9, 8, 2, (b"\0" + bytes(15)) * 8),
        "its pixels end 16 bytes too early",
    ),
}
REFUSED_AS_LABELS = {
    **REFUSED,
    "half a label": (
        READ_AS_LABELS["palette"][0][:900],
        "cannot be read: ",
    ),
    "colours": (PNG, "is a colour PNG of depth 8"),
    "alpha": (encode(photo(mode="RGBA")), "is a colour and transparency PNG"),
    "grey and alpha": (encode(photo(mode="LA")), "is a grey and transparency"),
    "16-bit": (
        encode(photo(mode="L").convert("I;16")),
        "is a grey PNG of depth 16",
    ),
    "JPEG": (encode(photo(mode="L"), "JPEG"), "is not a PNG"),
    "rows that nobody wrote": (
        png(5, 99, 8, 0, FLAT),
        "its pixels end 576 bytes too early",
    ),
    "half a row too few": (png(5, 3, 8, 0, FLAT[:-2]), "cannot be read: "),
    # 81 numbers in 15 rows of six passes, and four of nine in the seventh.
    "a last pass that nobody wrote": (
        png(9, 9, 8, 0, bytes(81 + 19 - 40), interlace=1),
        "cannot be read: ",
    ),
    "a value too many": (
        encode(Image.fromarray(np.full((2, 2), 254, np.uint8))),
        "Label value 254 in ",
    ),
}


def within_seconds(function):
    """What `function` returns or raises, unless it hangs."""
    result = {}

    def run():
        try:
            result["value"] = function()
        except Exception as error:
            result["error"] = error

    start = time.monotonic()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert not thread.is_alive(), f"it hangs after {SECONDS} s"
    assert time.monotonic() - start < SECONDS
    if "error" in result:
        raise result["error"]
    return result["value"]


def with_pillow(pairs):
    return within_seconds(lambda: whole_pairs.with_pillow(pairs, VALUES))


def with_tensorflow(pairs):
    return within_seconds(lambda: whole_pairs.with_tensorflow(pairs, VALUES))


def partner(path, mode):
    """A flat picture as large as another, where that has a size."""
    try:
        with Image.open(path) as image:
            size = image.size
            if orientation_of(image) == 6:
                size = size[::-1]
    except (OSError, ValueError, Image.DecompressionBombError):
        size = WIDTH, HEIGHT
    if size[0] * size[1] > 10**6:
        size = WIDTH, HEIGHT
    flat = path.with_name(f"{path.name} partner")
    Image.new(mode, size).save(flat, "PNG")
    return str(flat)


def test_odd_images_are_read_alike(tmp_path):
    pairs = []
    for number, contents in enumerate(READ_AS_IMAGES.values()):
        path = tmp_path / str(number)
        path.write_bytes(contents)
        pairs.append(Pair(str(path), partner(path, "L")))
    for read in (with_pillow, with_tensorflow):
        batches = read(pairs)
        assert len(batches) == len(READ_AS_IMAGES)
        for (name, contents), (image, label) in zip(
            READ_AS_IMAGES.items(), batches, strict=True
        ):
            expected = Image.open(io.BytesIO(contents))
            if "turned" in name:
                expected = ImageOps.exif_transpose(expected)
            if name == "palette and alpha":  # of which Pillow would warn
                expected = expected.convert("RGBA")
            expected = np.array(expected.convert("RGB"))
            np.testing.assert_array_equal(image, expected, name)
            assert not label.any()


def test_odd_labels_are_read_alike(tmp_path):
    pairs = []
    for number, (contents, _) in enumerate(READ_AS_LABELS.values()):
        path = tmp_path / str(number)
        path.write_bytes(contents)
        pairs.append(Pair(partner(path, "RGB"), str(path)))
    for read in (with_pillow, with_tensorflow):
        batches = read(pairs)
        assert len(batches) == len(READ_AS_LABELS)
        for (name, (_, numbers)), (_, label) in zip(
            READ_AS_LABELS.items(), batches, strict=True
        ):
            np.testing.assert_array_equal(label, numbers, name)


def assert_both_refuse(pair, path, found):
    messages = set()
    for read in (with_pillow, with_tensorflow):
        with pytest.raises((ValueError, OSError)) as caught:
            read([pair])
        messages.add(str(caught.value))
    # One sentence, whichever loader it is.
    (message,) = messages
    assert str(path) in message and found in message
    assert "Expected" in message or "has 0..253" in message
    remedies = "replace leave save convert Correct cut put scale".split()
    assert any(remedy in message for remedy in remedies)


@pytest.mark.parametrize("name", REFUSED_AS_IMAGES)
def test_images_that_are_refused(tmp_path, name):
    contents, found = REFUSED_AS_IMAGES[name]
    path = tmp_path / "bad.png"
    path.write_bytes(contents)
    assert_both_refuse(Pair(str(path), partner(path, "L")), path, found)


@pytest.mark.parametrize("name", REFUSED_AS_LABELS)
def test_labels_that_are_refused(tmp_path, name):
    contents, found = REFUSED_AS_LABELS[name]
    path = tmp_path / "bad.png"
    path.write_bytes(contents)
    assert_both_refuse(Pair(partner(path, "RGB"), str(path)), path, found)


@pytest.mark.parametrize(
    ("contents", "stricter"),
    [
        # A comment of more than 1 MiB, which Pillow takes for a bomb.
        (encode(photo(), pnginfo=comment(2_000_000)), with_pillow),
        # A chunk that must be understood, and is not.
        (png(5, 3, 8, 0, FLAT, (b"ABCD", b"x")), with_tensorflow),
        (png(5, 3, 8, 3, FLAT), with_tensorflow),
    ],
    ids=["comment", "chunk", "no palette"],
)
def test_where_one_decoder_is_the_stricter_it_names_the_file(
    tmp_path, contents, stricter
):
    path = tmp_path / "odd.png"
    path.write_bytes(contents)
    pairs = [Pair(str(path), partner(path, "L"))]
    other = {with_pillow, with_tensorflow} - {stricter}
    assert len(other.pop()(pairs)) == 1
    with pytest.raises(ValueError, match=r"odd\.png .*(replace|save both)"):
        stricter(pairs)


def _folder(path):
    path.mkdir()


def _loop(path):
    path.symlink_to(path.name)


def _dangling(path):
    path.symlink_to("nowhere")


def _device(path):
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("role", [0, 1], ids=["image", "label"])
@pytest.mark.parametrize(
    ("make", "found"),
    [
        (_folder, "it is a folder"),
        (_loop, "Too many levels of symbolic links"),
        (_dangling, "there is no such file"),
        (_device, "it is not a file"),
        (os.mkfifo, "it is not a file"),
    ],
)
def test_what_is_no_file(tmp_path, make, found, role):
    path = tmp_path / "bad.png"
    make(path)
    pair = [str(tmp_path / "good.png")] * 2
    Image.new(("RGB", "L")[1 - role], (9, 9)).save(pair[0])
    pair[role] = str(path)
    assert_both_refuse(Pair(*pair), path, found)


def test_a_mask_of_another_size_whatever_its_image_says(tmp_path):
    label, image = tmp_path / "label.png", tmp_path / "image.png"
    Image.new("L", (5, 4)).save(label)
    for contents in (
        PNG,
        JPEG,
        READ_AS_IMAGES["broken EXIF"],
        READ_AS_IMAGES["broken EXIF in a PNG"],
        # The tag is a word.
        encode(
            photo(),
            "JPEG",
            exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc"
            + bytes(5),
        ),
        PNG[: len(PNG) // 2],
    ):
        image.write_bytes(contents)
        pair = Pair(str(image), str(label))
        assert_both_refuse(pair, image, "image.png has (height, width) (37, 53")


@pytest.mark.parametrize(
    "name",
    [
        b"with two  spaces.png",
        "Köln 東京 🚋.png".encode(),
        b"new\nline.png",
        b"a{b}%s.png",
        b"-",
        b"no text \xff\xfe.png",
    ],
    ids=repr,
)
def test_any_name_is_read(tmp_path, name):
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))
    Path(path).write_bytes(PNG)
    label = f"{path} label"
    Path(label).write_bytes(encode(Image.fromarray(NUMBERS)))
    for read in (with_pillow, with_tensorflow):
        ((image, numbers),) = read([Pair(path, label)])
        np.testing.assert_array_equal(image, photo())
        np.testing.assert_array_equal(numbers, NUMBERS)
    Path(path).write_bytes(b"")
    assert_both_refuse(Pair(path, label), path, "it is empty")


def test_a_name_that_no_file_can_have(tmp_path):
    path = f"{tmp_path}/nul\0.png"
    assert_both_refuse(Pair(path, path), path, "null")


def test_all_bad_files_are_skipped_by_both_alike(tmp_path):
    """Good ones between them, fewer than as many in a row as end it."""
    pairs = []
    spoilt = [*REFUSED_AS_IMAGES.values(), *REFUSED_AS_LABELS.values()]
    for number, (contents, _) in enumerate(spoilt):
        for is_good in (True, False):
            path = tmp_path / f"{number}_{is_good}"
            image, label = f"{path}.png", f"{path}_label.png"
            Path(image).write_bytes(PNG)
            Image.fromarray(np.roll(NUMBERS, number)).save(label)
            pairs.append(Pair(image, label))
            if not is_good:
                role = number >= len(REFUSED_AS_IMAGES)
                Path(pairs[-1][role]).write_bytes(contents)
    seen, skipped = [], []
    for kind in (TrainingBatches, training_dataset):
        bad_files = BadFiles(pairs, VALUES, "skip")
        batches = kind(
            pairs,
            VALUES,
            Augmentation((16, 16), (1, 1)),
            batch_size=len(pairs) // 2,
            bad_files=bad_files,
        )
        if kind is training_dataset:
            batches = batches.as_numpy_iterator()
        with readable_errors(bad_files):
            seen.append(list(islice(batches, 2)))
        skipped.append(bad_files.count)
    # The stream reads ahead; an epoch has met each of them.
    assert skipped == [len(spoilt)] * 2
    for ours, theirs in zip(*seen, strict=True):
        np.testing.assert_array_equal(ours[1], theirs[1])
        np.testing.assert_allclose(ours[0], theirs[0], atol=2e-2)


class FailingFile(io.FileIO):
    """A file on a disk that has a bad place behind its first 300 bytes."""

    def readinto(self, buffer):
        left = 300 - self.tell()
        if left <= 0:
            raise OSError(5, "Input/output error")
        return super().readinto(memoryview(buffer)[:left])


@pytest.fixture
def disk(tmp_path):
    """Twelve good pairs, and which of them will fail."""
    pairs = []
    for number in range(12):
        image, label = tmp_path / f"{number}.png", tmp_path / f"{number}l.png"
        image.write_bytes(PNG)
        Image.fromarray(np.full((HEIGHT, WIDTH), number, np.uint8)).save(label)
        pairs.append(Pair(str(image), str(label)))
    # Behind its end, so that a size tells it from all others.
    Path(pairs[7].image).write_bytes(PNG.ljust(54_321))
    return pairs


def test_a_bad_place_on_the_disk(disk, monkeypatch):
    bad, real_open = disk[7].image, open

    def failing_open(path, *args, **kwargs):
        if path == bad:
            return io.BufferedReader(FailingFile(path))
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr("builtins.open", failing_open)
    options = {"augmentation": Augmentation((8, 8)), "batch_size": 12}
    message = r"7\.png cannot be read: .*Input/output error.*Expected.*replace"
    with pytest.raises(ValueError, match=message):
        TrainingBatches(disk, VALUES, **options)[0]
    bad_files = BadFiles(disk, VALUES, "skip")
    batches = TrainingBatches(disk, VALUES, bad_files=bad_files, **options)
    labels = batches[0][1]
    assert bad_files.count == 1
    left = [number for number in range(12) if number != 7]
    assert np.unique(labels).tolist() == left


# The kernel itself fails TensorFlow's second read of a file, from where the
# first one stopped: a filter of system calls, for a process that ends with it.
FAILING_KERNEL = """
import ctypes, io, platform, struct, sys
from test_bad_files import *

def fail_reads(offset):
    call, filter_call = {"x86_64": (17, 317), "aarch64": (67, 277)}[
        platform.machine()
    ]
    steps = [
        (0x20, 0, 0, 0),  # the number of the call
        (0x15, 0, 3, call),  # pread64, or allow
        (0x20, 0, 0, 40),  # from where
        (0x15, 0, 1, offset),
        (0x06, 0, 0, 0x00050000 | 5),  # EIO
        (0x06, 0, 0, 0x7FFF0000),  # allow
    ]
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)
    if libc.syscall(filter_call, 1, 1, program):
        print("no filter", ctypes.get_errno())
        sys.exit()

pairs = [Pair(*line.split("|")) for line in sys.argv[1:]]
options = {"augmentation": Augmentation((8, 8)), "batch_size": 12}
good = next(iter(training_dataset(pairs, VALUES, **options)))
fail_reads(54321)
bad_files = BadFiles(pairs, VALUES)
try:
    with readable_errors(bad_files):
        next(iter(training_dataset(
            pairs, VALUES, bad_files=bad_files, **options
        )))
except ValueError as error:
    print("error:", error)
bad_files = BadFiles(pairs, VALUES, "skip")
batches = training_dataset(pairs, VALUES, bad_files=bad_files, **options)
labels = next(iter(batches))[1].numpy()
print("skipped:", bad_files.count, np.unique(labels).tolist())
"""


@pytest.mark.skipif(
    sys.platform != "linux"
    or platform.machine() not in ("x86_64", "aarch64")
    or struct.calcsize("P") != 8,
    reason="a kernel that can be told to fail is Linux on these processors",
)
def test_the_kernel_fails_in_the_middle_of_tensorflows_read(disk):
    result = subprocess.run(
        [sys.executable, "-c", FAILING_KERNEL, *map("|".join, disk)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "data")]
            ),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    if "no filter" in result.stdout:
        pytest.skip(f"this kernel takes no filter: {result.stdout}")
    assert result.returncode == 0, result.stderr
    error, skipped = result.stdout.splitlines()
    # Pillow, which reads by another call, reads it.
    assert f"error: {disk[7].image} and {disk[7].label} could not" in error
    assert "the disk or network they are on may fail" in error
    assert "use on_bad_file='skip'" in error
    left = [number for number in range(12) if number != 7]
    assert skipped == f"skipped: 1 {left}"
