"""What check-data counts and finds, in data sets made to be wrong."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import one_backend
from layouts import lay_out
from pictures import encode
from pictures import photo
from PIL import Image

from keras_danet import waiting
from keras_danet.cli import main
from keras_danet.data import inspection
from keras_danet.data.datasets import CAMVID
from keras_danet.data.datasets import CITYSCAPES
from keras_danet.data.decoding import read_pair
from keras_danet.data.files import find_pairs
from keras_danet.data.files import find_splits
from keras_danet.data.inspection import inspect_split

pytestmark = one_backend


def write(root, labels, split="train", sizes=None):
    """CamVid's layout with these labels; gives paths of the labels."""
    rng = np.random.default_rng(0)
    lines = []
    for number, label in enumerate(labels):
        label = np.asarray(label, "uint8")
        size = label.shape if sizes is None else sizes[number]
        for folder, array in (
            (split, rng.integers(0, 256, (*size, 3), "uint8")),
            (f"{split}annot", label),
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / folder / f"{number}.png")
        lines.append(f"/SegNet/CamVid/{split}/{number}.png ")
        lines[-1] += f"/SegNet/CamVid/{split}annot/{number}.png"
    (root / f"{split}.txt").write_text("\n".join(lines))
    return [root / f"{split}annot" / f"{n}.png" for n in range(len(labels))]


def random_labels(count=7, high=12, seed=0):
    rng = np.random.default_rng(seed)
    return [
        rng.integers(0, high, (rng.integers(3, 9), rng.integers(3, 9)))
        for _ in range(count)
    ]


def kinds(report):
    return [problem.kind for problem in report.problems]


def uncounted(report):
    """The problems but that of the official number."""
    return [p for p in report.problems if "pairs in" not in p.message]


def test_counts_are_numpys(tmp_path):
    labels = random_labels()
    labels[0][:] = 3
    write(tmp_path, labels)
    done = []
    report = inspect_split(
        CAMVID,
        tmp_path,
        "train",
        workers=3,
        progress=lambda *numbers: done.append(numbers),
    )
    everything = np.concatenate([label.ravel() for label in labels])
    assert report.class_pixels.tolist() == [
        (everything == n).sum() for n in range(11)
    ]
    assert report.class_images.tolist() == [
        sum((label == n).any() for label in labels) for n in range(11)
    ]
    assert report.class_image_pixels.tolist() == [
        sum(label.size for label in labels if (label == n).any())
        for n in range(11)
    ]
    assert report.ignored_pixels == (everything == 11).sum()
    assert sum(report.sizes.values()) == report.num_pairs == 7
    assert set(report.sizes) == {label.shape for label in labels}
    assert done == [(n, 7) for n in range(1, 8)]
    assert kinds(report) == ["layout"]
    assert "has 7 pairs" in report.problems[0].message
    assert "Expected 367" in report.problems[0].message


def test_the_real_camvid(camvid_root):
    """Counted apart, from the labels alone."""
    report = inspect_split(CAMVID, camvid_root, "val")
    assert not report.problems and report.num_pairs == 101
    assert report.sizes == {(360, 480): 101}
    counts = np.zeros(256, int)
    for path in sorted((camvid_root / "valannot").glob("*.png")):
        counts += np.array(Image.open(path).histogram()[:256])
    assert report.class_pixels.tolist() == counts[:11].tolist()
    assert report.ignored_pixels == counts[11]
    assert report.table().endswith("nothing wrong")


BROKEN = {
    "random bytes": (b"\x00\x01junk" * 9, "cannot be read"),
    "empty": (b"", "it is empty"),
    "truncated": (encode(photo(6, 6, "L"))[:-20], "cannot be read"),
    "of another size": (encode(photo(3, 5, "L")), "differ in size"),
    "colours": (encode(photo(6, 6, "RGB")), "is a colour PNG of depth 8"),
    "16 bits": (
        encode(Image.fromarray(np.zeros((6, 6), "uint16"))),
        "depth 16",
    ),
    "JPEG": (encode(photo(6, 6, "L"), "JPEG"), "not a PNG"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_bad_files_are_named_and_not_counted(tmp_path, name):
    contents, part = BROKEN[name]
    _, bad = write(tmp_path, [np.full((6, 6), 2), np.zeros((6, 6))])
    bad.write_bytes(contents)
    report = inspect_split(CAMVID, tmp_path, "train", workers=1)
    (problem,) = uncounted(report)
    assert problem.kind == "file" and problem.label == str(bad)
    assert problem.image == str(tmp_path / "train" / "1.png")
    assert part in problem.message
    assert str(bad) in problem.message and "xpected" in problem.message
    assert report.class_pixels.sum() == 36 and report.num_pairs == 2
    # Training says the same.
    pair = find_pairs(CAMVID, tmp_path, "train")[1]
    with pytest.raises(ValueError) as caught:
        read_pair(pair, CAMVID)
    assert problem.message == str(caught.value)


def test_values_outside_the_map_are_named_with_a_guess(tmp_path):
    labels = [np.full((4, 4), n) for n in (1, 5, 60, 200)]
    paths = write(tmp_path, labels)
    report = inspect_split(CAMVID, tmp_path, "train")
    wrong = [p for p in report.problems if p.kind == "values"]
    assert [p.label for p in wrong] == [str(path) for path in paths[2:]]
    assert "Label value 60 in" in wrong[0].message
    # Cityscapes' train ids fit its label files by chance.
    dataset, split, pairs = lay_out(tmp_path / "city", "cityscapes")
    for pair in pairs:
        Image.new("RGB", (19, 1)).save(pair.image)
        Image.fromarray(np.arange(19, dtype="uint8")[None]).save(pair.label)
    report = inspect_split(dataset, tmp_path / "city", split)
    assert kinds(report) == ["layout", "mapping"]
    assert "train ids" in report.problems[1].message
    assert "gtFine" in report.problems[1].message
    assert "person" in report.never_seen and "road" not in report.never_seen


def test_a_layout_that_is_incomplete_is_found(tmp_path):
    paths = write(tmp_path, random_labels())
    paths[3].unlink()
    paths[5].unlink()
    paths[5].symlink_to("nowhere")
    paths[6].write_bytes(b"")
    report = inspect_split(CAMVID, tmp_path, "train")
    # Each is named, and the others are counted none the less.
    assert report.num_pairs == 5 and sum(report.sizes.values()) == 4
    found = [(p.kind, p.message) for p in uncounted(report)]
    for (kind, message), path in zip(
        found, (paths[3], paths[5], paths[6]), strict=True
    ):
        assert str(path) in message
        assert kind == ("file" if path == paths[6] else "layout")


def test_a_folder_that_is_incomplete_is_found(tmp_path):
    dataset, split, pairs = lay_out(tmp_path, "cityscapes")
    alone = tmp_path / "leftImg8bit/val/lindau/lindau_x_leftImg8bit.png"
    alone.touch()
    (tmp_path / "gtFine/val/lindau/lindau_y_gtFine_labelIds.png").mkdir()
    for pair in pairs:
        Image.new("RGB", (8, 4)).save(pair.image)
        Image.fromarray(np.full((4, 8), 7, "uint8")).save(pair.label)
    report = inspect_split(dataset, tmp_path, split)
    assert report.num_pairs == 2 and report.class_pixels[0] == 64
    messages = [problem.message for problem in uncounted(report)]
    assert any(f"{alone} has no label" in message for message in messages)
    assert any("lindau_y" in m and "is a folder" in m for m in messages)
    assert len(messages) == 2


def test_splits_without_labels_are_not_there(tmp_path, capsys):
    """A usual download of Cityscapes has no gtCoarse."""
    dataset, *_ = lay_out(tmp_path, "cityscapes")
    train = tmp_path / "leftImg8bit/train/ulm"
    train.mkdir(parents=True)
    assert find_splits(dataset, tmp_path) == ["val"]
    (tmp_path / "gtFine/train").mkdir()
    assert find_splits(dataset, tmp_path) == ["train", "val"]
    with pytest.raises(ValueError, match="Did you mean 'val'"):
        inspect_split(dataset, tmp_path, "vall")
    with pytest.raises(FileNotFoundError, match="'test'"):
        inspect_split(dataset, tmp_path, "test")
    for verb in ("check-data", "class-weights"):
        assert main([verb, "cityscapes", str(tmp_path), "--split", "x"]) == 2
        assert "has no split '" in capsys.readouterr().err


def test_labels_that_other_tools_leave_are_passed_over(tmp_path):
    dataset, split, pairs = lay_out(tmp_path, "coco_stuff164k")
    for pair in pairs:
        Path(pair.label.replace(".png", "_labelTrainIds.png")).touch()
    assert find_pairs(dataset, tmp_path, split) == pairs


def test_a_stray_pixel_is_no_mapping(tmp_path):
    labels = [np.zeros((40, 40)) for _ in range(3)]
    labels[0][1] = 10
    labels[1][0, 0] = 12
    write(tmp_path, labels)
    report = inspect_split(CAMVID, tmp_path, "train")
    assert [p.kind for p in uncounted(report)] == ["values"]
    assert "reduce_zero" not in report.problems[-1].message


def test_nothing_labelled_is_wrong(tmp_path):
    write(tmp_path, [np.full((4, 4), 11)])
    (problem,) = uncounted(inspect_split(CAMVID, tmp_path, "train"))
    assert "no labelled pixel" in problem.message


def test_large_files_are_counted_in_pieces(monkeypatch):
    monkeypatch.setattr(inspection, "_PIECE", 7)
    array = np.random.default_rng(0).integers(0, 256, (9, 11), "uint8")
    np.testing.assert_array_equal(
        inspection._count_bytes(array),
        np.bincount(array.ravel(), minlength=256),
    )


def test_what_is_kept_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(inspection, "MAX_VALUES", 8)
    totals = inspection._Totals(CAMVID)
    for start in range(0, 1000, 5):
        values = {start + n: n + 1 for n in range(5)} | {7: 50}
        totals.add(None, None, values, inspection.Problem("values", "x"))
    assert len(totals.values) <= 8 and totals.values[7] == 200 * 50


def test_files_are_read_only_a_few_ahead():
    started = []
    for number in inspection._in_threads(
        lambda n: started.append(n) or n, range(1000), 2
    ):
        assert len(started) <= number + 1 + 2 * 2
        if number == 50:
            break
    assert len(started) <= 56
    for count in (0, 1, 9):
        found = inspection._in_threads(lambda n: 2 * n, range(count), 2)
        assert list(found) == [2 * n for n in range(count)]


def test_an_interruption_ends_it(tmp_path, monkeypatch):
    write(tmp_path, random_labels(40))

    def interrupt(self, done, count):
        if done == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(waiting.Countdown, "__call__", interrupt)
    before = threading.active_count()
    assert main(["check-data", "camvid", str(tmp_path)]) == 130
    assert threading.active_count() == before


def test_check_data(tmp_path, capsys):
    write(tmp_path / "CamVid", [np.full((40, 60), n) for n in range(12)])
    write(tmp_path / "CamVid", random_labels(3, 9), split="val")
    sheet = tmp_path / "sheet.png"
    command = ["check-data", "camvid", str(tmp_path / "CamVid")]
    assert main([*command, "--sheet", str(sheet)]) == 1
    printed = capsys.readouterr().out
    assert "CamVid, train: 12 pairs (officially 367)" in printed
    assert "never seen: pedestrian, bicyclist" in printed
    with Image.open(sheet) as picture:
        assert picture.width > 4 * 320 and picture.height > 3 * 213
    assert main([*command, "--sheet", str(sheet)]) == 2
    assert f"{sheet} exists" in capsys.readouterr().err
    assert main([*command, "--json", "--split", "val"]) == 1
    (report,) = json.loads(capsys.readouterr().out)
    assert report["split"] == "val" and report["pairs"] == 3
    assert report["official_pairs"] == 101
    assert report["never_seen"] == ["pedestrian", "bicyclist"]
    assert sum(c["share"] for c in report["classes"]) == pytest.approx(1)
    assert sum(size["pairs"] for size in report["sizes"]) == 3
    assert [p["kind"] for p in report["problems"]] == ["layout"]


def test_check_data_is_content_with_what_is_right(tmp_path, capsys):
    from keras_danet.data.scenes import write_scenes

    write_scenes(tmp_path / "scenes", splits={"train": 4, "val": 2})
    assert main(["check-data", "scenes", str(tmp_path / "scenes")]) == 0
    printed = capsys.readouterr().out
    assert printed.count("nothing wrong") == 2
    assert "test" not in printed


@pytest.mark.parametrize(
    "arguments, part",
    [
        (["camvit", "."], "Did you mean 'camvid'"),
        (["camvid", "nowhere"], "There is no folder nowhere"),
        (["camvid", "."], "None of CamVid's splits is present"),
        (["camvid", ".", "--split", "trian"], "Did you mean 'train'"),
        (["camvid", ".", "--split", "test"], "for split 'test'"),
        (["camvid", ".", "--sheet", "sheet.jpg"], "ends in '.png'"),
        (["camvid", ".", "--sheet", "no/sheet.png"], "no folder no for"),
        (["folder", "."], "`keras-danet init FOLDER` prints one"),
    ],
)
def test_what_cannot_be_checked(tmp_path, monkeypatch, capsys, arguments, part):
    monkeypatch.chdir(tmp_path)
    assert main(["check-data", *arguments]) == 2
    assert part in capsys.readouterr().err


def test_no_workers(tmp_path, capsys):
    write(tmp_path, random_labels())
    assert main(["check-data", "camvid", str(tmp_path), "--workers", "0"]) == 2
    assert "`workers` must be an integer, at least 1" in capsys.readouterr().err


def test_names_that_no_terminal_can_show(tmp_path, capsys):
    """A label whose name is no text, and has a line's end in it."""
    lay_out(tmp_path, "cityscapes")
    name = "lindau_\udcff\n_gtFine_labelIds.png"
    label = tmp_path / "gtFine/val/lindau" / name
    image = tmp_path / "leftImg8bit/val/lindau/lindau_\udcff\n_leftImg8bit.png"
    label.touch()
    image.touch()
    assert main(["check-data", "cityscapes", str(tmp_path)]) == 1
    assert "lindau_\\udcff\\n_" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["check-data", "class-weights"])
def test_no_name_does_anything_to_the_terminal(tmp_path, capsys, verb):
    root = tmp_path / "\x1b[2Jmine"
    for kind in ("images", "masks"):
        (root / kind / "train").mkdir(parents=True)
        Image.new("L", (8, 8)).save(root / kind / "train" / "a.png")
    (root / "classes.json").write_text('{"classes": [{"name": "road"}]}')
    (root / "images" / "train" / "\x1b[31m.png").touch()
    code = main([verb, "folder", str(root), "--split", "train"])
    assert code == (1 if verb == "check-data" else 0)
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert "\x1b" not in said and "\\x1b[31m.png" in said


def test_class_weights_of_the_verb(tmp_path, capsys):
    labels = random_labels(5, 12)
    paths = write(tmp_path, labels)
    # Images are not needed.
    for path in (tmp_path / "train").iterdir():
        path.write_bytes(b"no image")
    command = ["class-weights", "camvid", str(tmp_path), "--method", "inverse"]
    assert main([*command, "--json"]) == 0
    weights = json.loads(capsys.readouterr().out)
    pixels = np.bincount(np.concatenate([n.ravel() for n in labels]))[:11]
    expected = pixels.sum() / (11 * pixels)
    assert list(weights) == list(CAMVID.class_names)
    np.testing.assert_allclose(list(weights.values()), expected, rtol=1e-5)
    assert main(command) == 0
    assert f"{expected[0]:.4f}" in capsys.readouterr().out.splitlines()[0]
    paths[2].write_bytes(b"no label")
    assert main(command) == 2
    printed = capsys.readouterr().err
    assert str(paths[2]) in printed and "check-data" in printed


def test_class_weights_of_nothing(tmp_path, capsys):
    write(tmp_path, [np.full((4, 4), 11)])
    assert main(["class-weights", "camvid", str(tmp_path)]) == 2
    assert "no labelled pixel" in capsys.readouterr().err


def test_cityscapes_without_a_label_is_no_mistake(tmp_path):
    """The labels of its test split are all ignored."""
    image = tmp_path / "leftImg8bit/test/ulm/ulm_1_leftImg8bit.png"
    label = tmp_path / "gtFine/test/ulm/ulm_1_gtFine_labelIds.png"
    for path in (image, label):
        path.parent.mkdir(parents=True)
    Image.new("RGB", (8, 4)).save(image)
    Image.fromarray(np.full((4, 8), 3, "uint8")).save(label)
    report = inspect_split(CITYSCAPES, tmp_path, "test")
    assert kinds(report) == ["layout"]
    assert report.ignored_pixels == 32 and len(report.never_seen) == 19


def test_files_with_an_orientation_are_named_and_counted(tmp_path):
    labels = [np.full((6, 9), number) for number in range(4)]
    paths = write(tmp_path, labels)
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = tmp_path / "train" / "1.png"
    for path in (turned, paths[2]):
        with Image.open(path) as image:
            image.load()
        image.save(path, exif=exif)
    for labels_only, found in ((False, [turned, paths[2]]), (True, paths[2:3])):
        report = inspect_split(
            CAMVID, tmp_path, "train", labels_only=labels_only
        )
        problems = uncounted(report)
        assert [p.kind for p in problems] == ["orientation"] * len(found)
        for problem, path in zip(problems, found, strict=True):
            assert f"{path} (EXIF orientation 3)" in problem.message
            assert "exif_transpose" in problem.message
        assert report.sizes == {(6, 9): 4}
        assert report.class_pixels[:4].tolist() == [54] * 4
