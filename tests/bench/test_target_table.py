"""Rows are saved as they are measured, and a row that raises does not stop the next."""

from datetime import UTC, datetime

import pytest

from bench import machine, results
from bench.results import Row
from bench.target_table import attempt, compared, measure
from tests.bench.results import MACHINE


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.setattr(machine, "describe", lambda gpu=None: MACHINE | {"gpu": gpu})


def test_rows_measured_before_an_error_are_saved(tmp_path, capsys):
    def rows():
        yield Row("first", 2.5, "2.5 x", 2, 3)
        yield Row("second", 6.0, "6 s", 5, at_most=True)
        raise RuntimeError("the third")

    with pytest.raises(RuntimeError, match="the third"):
        measure("x", rows(), tmp_path / "t.json", gpu="a card", config="c")
    out = capsys.readouterr().out
    assert "a card, 2 cores, commit abc with changes; load" in out
    assert "  must  first (at least 2, aim 3): 2.5 x" in out
    assert "missed  second (at most 5, aim None): 6 s" in out
    run = results.read(tmp_path / "t.json")
    assert [row.name for row in run.rows] == ["first", "second"]
    assert (run.table, run.settings, run.machine["gpu"]) == ("x", {"config": "c"}, "a card")
    assert 0 <= (datetime.now(UTC) - datetime.fromisoformat(run.datetime)).total_seconds() < 60


def test_a_repeated_row_replaces_the_first(tmp_path, capsys):
    first, again = Row("x", 5.0, "5 x"), Row("x", 5.0, "5 x", 2, 3, wrong="loss differs by 0.1")
    other = Row("y", 1.0, "1 x")
    assert measure("x", [first, again, other], tmp_path / "t.json") == 1
    assert results.read(tmp_path / "t.json").rows == [again, other]
    assert measure("x", [other], tmp_path / "t.json") == 0
    assert "1 x" in capsys.readouterr().out


def test_the_default_file_names_table_and_device(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("bench.target_table.RESULTS", tmp_path)
    measure("x", [Row("y", 1.0)], suffix="_quick")
    assert capsys.readouterr().out.endswith(f"; {tmp_path}/x_a-cpu_quick.json\n")


def test_a_row_that_raises_is_recorded(capsys):
    def breaks():
        raise RuntimeError("no such kernel\nmore")

    row = attempt("x", breaks)
    assert row.verdict == "FAILED" and row.line == "FAILED  x: FAILED: RuntimeError: no such kernel; "
    assert "Traceback" in capsys.readouterr().err
    assert attempt("x", lambda: Row("y", 2.0, must=1)).name == "y"


def test_the_value_of_a_comparison_is_its_ratio():
    row = compared("x", {"ours": [1.0, 1.0], "peer": [2.0, 2.0]}, "peer", 1.5, note=3)
    assert (row.value, row.shown, row.verdict, row.data) == (
        2.0,
        "2.00 (2.00-2.00) x peer",
        "must",
        {"note": 3},
    )
