"""Rows judge themselves, and what was measured so far is on the disk."""

import json

import pytest

from bench import corpora, tokenizer_peers, tokenizer_table
from bench.tokenizer_table import Row, Setting, save


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


def test_rows_are_saved_with_the_machine(tmp_path):
    path = tmp_path / "t.json"
    save(path, {"cpu": "c"}, [Row("x", 1, None, 2.0, "shown", data={"times": [1.0]})], took=3.0)
    saved = json.loads(path.read_text())
    assert saved["cpu"] == "c" and saved["seconds"] == 3.0
    assert saved["rows"][0]["verdict"] == "must" and saved["rows"][0]["data"] == {"times": [1.0]}
    assert [file.name for file in tmp_path.iterdir()] == ["t.json"]


@pytest.mark.parametrize("row", ["decode", "strings", "pretoken", "count", "train-a", "encode-a"])
def test_rows_on_a_tiny_corpus(row, tmp_path, monkeypatch):
    for package in ("gigatoken", "tiktoken"):
        pytest.importorskip(package)
    monkeypatch.setenv("LMFAST_BENCH_CORPORA", str(tmp_path / "corpora"))
    monkeypatch.setattr(corpora.stories, "__defaults__", (300_000, 1))
    monkeypatch.setattr(corpora.held_out, "__defaults__", (100_000,))
    monkeypatch.setattr(corpora, "sources", lambda held_out=False: corpora.stories())
    monkeypatch.setattr(tokenizer_peers, "TOLERANCE", 0.01)  # with so little text ties weigh more
    monkeypatch.setattr(tokenizer_table, "SMALL", {"A": (400_000, 500), "B": (400_000, 500)})
    rows = list(tokenizer_table.ROWS[row](Setting(False, tmp_path)))
    assert rows and all(row.value > 0 and row.shown and row.data for row in rows)
