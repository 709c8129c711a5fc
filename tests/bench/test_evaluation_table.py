"""Rows of the table, with a tiny model."""

import sys

import pytest

pytest.importorskip("lm_eval")
pytest.importorskip("accelerate")
from bench import evaluation_table, results
from bench.evaluation_table import PEER, main
from lmfast.model.config import ModelConfig


@pytest.fixture
def tiny(monkeypatch):
    shape = ModelConfig(300, 256, d_model=32, num_layers=1, num_heads=2, d_ff=40)
    monkeypatch.setattr(evaluation_table, "MODELS", {"22.7M": shape})


def run(monkeypatch, output, *arguments: str) -> list:
    monkeypatch.setattr(sys, "argv", ["x", "--quick", "--output", str(output), *arguments])
    main()
    return results.read(output).rows


def test_rows_are_measured_and_saved(tiny, tmp_path, monkeypatch):
    found = run(monkeypatch, tmp_path / "e.json")
    assert [row.name for row in found] == ["choice", "rolling", "generation", "all"]
    assert not any(row.wrong for row in found)
    for who in ("ours", PEER):
        assert found[-1].times[who][0] == pytest.approx(sum(row.times[who][0] for row in found[:3]))
    assert found[0].data["batch"] in (16, 64) and "requests/s" in found[0].shown


def test_different_results_are_never_timed(tiny, tmp_path, monkeypatch):
    call = evaluation_table.call

    def wrong(model, name, requests):
        answers = call(model, name, requests)
        return [(0.0, False) for _ in answers] if isinstance(model, evaluation_table.HFLM) else answers

    monkeypatch.setattr(evaluation_table, "call", wrong)
    (row,) = run(monkeypatch, tmp_path / "e.json", "--only", "choice")
    assert row.wrong.startswith("request 0: ") and not row.times
