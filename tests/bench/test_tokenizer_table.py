"""Rows on a tiny corpus: each is measured, and shown."""

import pytest

from bench import corpora, tokenizer_peers, tokenizer_table
from bench.tokenizer_table import Setting


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
    assert rows and all(row.value > 0 and row.shown and (row.times or row.data) for row in rows)
