"""Columns by what terminals show, and nothing that they would obey."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from conftest import one_backend
from rich.cells import cell_len

from keras_danet.cli import main
from keras_danet.inference.evaluation import Report
from keras_danet.text_tables import harmless
from keras_danet.text_tables import table_lines

pytestmark = one_backend

NAMES = (
    "road",
    "\u9053\u8def",
    "\u0926\u0947\u0936",
    "\u0637\u0631\u064a\u0642",
    "\U0001f600",
    "e\u0301",
)


# As the package wcwidth (0.2.13) has them.
@pytest.mark.parametrize(
    "text, width",
    [
        ("", 0),
        ("road", 4),
        ("Straße", 6),
        ("\u9053\u8def", 4),
        ("\uff76\uff9e", 2),
        ("\uff21", 2),
        ("\ud55c\uad6d", 4),
        ("\u1112\u1161\u11ab", 2),
        ("e\u0301", 1),
        ("o\u0308\u0323", 1),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", 3),
        ("\u0637\u0631\u064a\u0642", 4),
        ("\u0645\u06cc\u200c\u0634", 3),
        ("\U0001f600", 2),
        ("\u2764\ufe0f", 2),
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467", 2),
        ("\U0001f3c3\u200d\u2642\ufe0f", 2),
        ("\U0001f44d\U0001f3fd", 2),
        ("\U0001f1e9\U0001f1ea", 2),
    ],
)
def test_widths_on_a_terminal(text, width):
    assert cell_len(text) == width


@pytest.mark.parametrize(
    "text, shown",
    [
        ("road 1", "road 1"),
        ("a\nb\rc\td", r"a\nb\rc\td"),
        ("\x1b[31mred\x07\x9b", r"\x1b[31mred\x07\x9b"),
        ("\u202eroad\u2066\u200f", r"\u202eroad\u2066\u200f"),
        ("a\u2028b\u0085", r"a\u2028b\x85"),
        ("\ud800", r"\ud800"),
        ("\ufeffa\u00ad", r"\ufeffa\xad"),
        *((name, name) for name in NAMES),
        ("\u0645\u06cc\u200c\u0634", "\u0645\u06cc\u200c\u0634"),
        ("\u9053\u3000\u8def", "\u9053\u3000\u8def"),
    ],
)
def test_harmless(text, shown):
    assert harmless(text) == shown


def columns(lines):
    """Where the last column of each line ends."""
    return {cell_len(line) for line in lines}


def test_table_lines():
    rows = [("class", "kind", "IoU"), *((name, "x", "1 %") for name in NAMES)]
    lines = table_lines(rows, num_texts=2)
    assert columns(lines) == {5 + 2 + 4 + 2 + 3}
    for line, (name, *_) in zip(lines, rows, strict=True):
        assert line.startswith(name)
    assert table_lines([("a\nb", "1")]) == [r"a\nb  1"]


def test_report_is_aligned_and_harmless():
    names = (*NAMES, "a\x1b[2J\u202e")
    matrix = np.diag(np.arange(1, 8))
    report = Report("d\x1b", "val", "whole", 3, names, matrix)
    heading, *lines = report.table().split("\n")
    assert "\x1b" not in report.table() and "\u202e" not in report.table()
    assert r"d\x1b val, 3 images" in heading
    # The heading and a row for each class.
    assert len(columns(lines[: 1 + len(names)])) == 1
    assert max(columns(lines)) <= 80
    assert r"a\x1b[2J\u202e" in lines[7]


def test_errors_are_harmless(capsys):
    """Names of files are anybody's."""
    name = "no\x1b[2J\u202e"
    assert main(["check-data", "folder", name]) == 2
    error = capsys.readouterr().err
    assert r"There is no folder no\x1b[2J\u202e" in error
    assert "\x1b" not in error and "\u202e" not in error
    assert error.count("\n") == 1


@pytest.fixture
def folder(tmp_path):
    from PIL import Image

    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    label = np.zeros((20, 30), "uint8")
    label[:, 10:] = 1
    Image.fromarray(label).save(tmp_path / "masks/a.png")
    Image.new("RGB", (30, 20)).save(tmp_path / "images/a.png")
    classes = [{"name": name} for name in NAMES]
    (tmp_path / "classes.json").write_text(
        json.dumps({"classes": classes}), "utf-8"
    )
    return tmp_path


def test_tables_of_the_command_line(folder, capsys):
    assert main(["check-data", "folder", str(folder)]) == 0
    lines = capsys.readouterr().out.split("\n")
    first = next(k for k, line in enumerate(lines) if line.startswith("class"))
    assert len(columns(lines[first : first + 7])) == 1
    assert NAMES[1] in lines[first + 2]
    arguments = ["--split", "all", "--method", "enet"]
    assert main(["class-weights", "folder", str(folder), *arguments]) == 0
    lines = capsys.readouterr().out.strip("\n").split("\n")
    assert len(lines) == 6 and len(columns(lines)) == 1


@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
    ],
)
def test_terminals_that_know_no_more_than_ascii(folder, variables):
    sheet = folder / "sheet.png"
    done = subprocess.run(
        [sys.executable, "-m", "keras_danet", "check-data", "folder"]
        + [str(folder), "--sheet", str(sheet)],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr and sheet.is_file()
    shown = "\u9053\u8def".encode("unicode_escape")
    assert shown in done.stdout or "\u9053\u8def".encode() in done.stdout
