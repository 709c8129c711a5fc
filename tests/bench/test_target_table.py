"""Rows judge themselves, and what was measured so far is on the disk."""

import json
from datetime import UTC, datetime

import pytest

from bench.target_table import Row, attempt, line, measure, read_rows, save


@pytest.mark.parametrize(
    ("value", "at_most", "verdict"),
    [
        (3.5, False, "aim"),
        (2.5, False, "must"),
        (1.5, False, "missed"),
        (1.5, True, "aim"),
        (4.0, True, "missed"),
    ],
)
def test_verdicts(value, at_most, verdict):
    must, aim = (3, 2) if at_most else (2, 3)
    assert Row("x", must, aim, value, "", at_most).verdict == verdict


def test_a_row_without_an_aim_is_never_better_than_must():
    assert Row("x", 5, None, 4.0, "", at_most=True).verdict == "must"


def test_a_figure_without_a_target_is_not_judged():
    row = Row("x", None, None, 4.0, "4 s")
    assert row.verdict == "-" and line(row) == "     -  x: 4 s"


def test_rows_are_saved_with_the_machine(tmp_path):
    path = tmp_path / "t.json"
    save(path, {"cpu": "c"}, [Row("x", 1, None, 2.0, "shown", data={"times": [1.0]})], took=3.0)
    saved = json.loads(path.read_text())
    assert saved["cpu"] == "c" and saved["seconds"] == 3.0
    age = datetime.now(UTC) - datetime.fromisoformat(saved["datetime"])
    assert 0 <= age.total_seconds() < 60
    assert saved["rows"][0]["verdict"] == "must" and saved["rows"][0]["data"] == {"times": [1.0]}
    assert [file.name for file in tmp_path.iterdir()] == ["t.json"]


def test_what_was_measured_before_an_error_is_on_the_disk(tmp_path, capsys):
    def rows():
        yield Row("first", 2, 3, 2.5, "2.5 x")
        yield Row("second", 5, None, 6.0, "6 s", at_most=True)
        raise RuntimeError("the third")

    with pytest.raises(RuntimeError, match="the third"):
        measure("a machine", {"commit": "abc", "dirty": True}, rows(), tmp_path / "t.json")
    told = capsys.readouterr().out
    assert "a machine, commit abc with changes; load" in told
    assert "  must  first (at least 2, aim 3): 2.5 x" in told
    assert "missed  second (at most 5, aim None): 6 s" in told
    assert [row["name"] for row in json.loads((tmp_path / "t.json").read_text())["rows"]] == [
        "first",
        "second",
    ]


def test_a_row_that_comes_again_takes_the_place_of_the_first(tmp_path, capsys):
    first, again = Row("x", None, None, 5.0, "5 x"), Row("x", 2, 3, 5.0, "5 x", wrong="loss differs by 0.1")
    other = Row("y", None, None, 1.0, "1 x")
    assert (
        measure("a machine", {"commit": "abc", "dirty": False}, [first, again, other], tmp_path / "t.json")
        == 1
    )
    assert read_rows(tmp_path / "t.json") == [again, other]
    capsys.readouterr()


def test_a_wrong_row_meets_no_target_and_keeps_its_figure(tmp_path, capsys):
    row = Row("x", 2, 3, 5.0, "5 x", wrong="loss differs by 0.1", predicted="4-6")
    assert row.verdict == "WRONG"
    assert line(row) == " WRONG  x (at least 2, aim 3): loss differs by 0.1; 5 x [predicted 4-6]"
    assert measure("a machine", {"commit": "abc", "dirty": False}, [row], tmp_path / "t.json") == 1
    assert measure("a machine", {"commit": "abc", "dirty": False}, [], tmp_path / "t.json") == 0
    capsys.readouterr()


def test_a_row_that_raises_is_a_row(capsys):
    def breaks():
        raise RuntimeError("no such kernel\nmore")

    row = attempt("x", breaks)
    assert row.verdict == "FAILED" and line(row) == "FAILED  x: FAILED: RuntimeError: no such kernel; "
    assert "Traceback" in capsys.readouterr().err
    assert attempt("x", lambda: Row("y", 1, None, 2.0, "")).name == "y"


def test_saved_rows_are_read_again(tmp_path):
    rows = [Row("x", 1, None, 2.0, "shown", True, {"times": [1.0]}, "3", "no")]
    save(tmp_path / "t.json", {}, rows, 0.0)
    assert read_rows(tmp_path / "t.json") == rows
    (tmp_path / "half.json").write_text('{"rows": [{"na')
    assert read_rows(tmp_path / "half.json") == read_rows(tmp_path / "none.json") == []
