"""What the benchmarks make of measured times; nothing is measured here."""

import pathlib

import pytest
from conftest import one_backend

pytestmark = one_backend

BENCHMARKS = pathlib.Path(__file__).resolve().parents[1] / "benchmarks"
MIB = 2**20


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import report

    return report


def result(*seconds, memory=1):
    return {
        "seconds": list(seconds),
        "memory": memory * MIB,
        "process": 2048 * MIB,
    }


def row(title, contestants, references, machine="A CPU, 2 cores"):
    return {
        "title": title,
        "note": "",
        "references": references,
        "machine": machine,
        "date": "2026-01-02",
        "runs": 3,
        "commit": "abc",
        "settings": {},
        "versions": {"torch": "1.0"},
        "contestants": contestants,
    }


def test_ratios_are_of_the_same_round_and_failures_are_shown(report):
    results = {
        "attention": row(
            "Attention",
            {
                "peer": result(1.0, 2.0, 4.0),
                "slow peer": result(5.0, 5.0, 5.0),
                "keras_danet": result(0.9, 0.4, 4.0, memory=3),
                "lost": {"error": "the process died | OOM", "seconds": [1.0]},
            },
            {"best": ["slow peer", "peer"]},
        )
    }
    text = report.render(results)
    assert "| peer | 2.00 | 1.00 | 1 | 2,048 |" in text
    # The ratio of the medians would be 0.45.
    assert "| **keras_danet** | 0.900 | 0.90 | 3 | 2,048 |" in text
    assert "| lost | failed: the process died \\| OOM |  |  |  |" in text
    assert "Versions: torch 1.0." in text


def test_a_ratio_without_its_reference_is_empty(report):
    contestants = {"ours": result(1.0), "peer": {"error": "not run: large"}}
    text = report.render({"a": row("A", contestants, {"peer": ["peer"]})})
    assert "| ours | 1.00 |  | 1 | 2,048 |" in text
    assert "| peer | not run: large |  |  |  |" in text


def test_growth_is_per_doubling_of_positions(report):
    results = {
        f"growth-forward-{height}x{width}": row(
            f"{height}x{width}",
            {"ours": result((height * width) ** 2.0, memory=height * width)},
            {},
        )
        for height, width in ((4, 8), (8, 16), (16, 32))
    }
    assert "| x 4.0, x 2.0 |" in report.render(results)


def test_machines_have_sections_and_other_text_is_kept(report, tmp_path):
    path = tmp_path / "RESULTS.md"
    path.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    contestants = {"ours": result(1.0)}
    results = {
        "a": row("A", contestants, {}),
        "b": row("B", contestants, {}, machine="Another"),
    }
    report.write(results, tmp_path)
    report.write(results, tmp_path)
    text = path.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n### A CPU, 2 cores\n")
    assert text.endswith(f"{report.END}\nafter\n")
    assert text.count("### Another") == 1
    assert "old" not in text


def test_rows_have_keys_of_their_own_and_references_that_exist(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from rows import all_rows

    for smoke in (False, True):
        rows = all_rows(smoke)
        assert len({row.key for row in rows}) == len(rows)
        for row in rows:
            names = [contestant.name for contestant in row.contestants]
            assert len(set(names)) == len(names)
            for references in row.references.values():
                assert set(references) <= set(names)
