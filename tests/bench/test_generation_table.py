"""Rows of the table, with a tiny model."""

import sys

import pytest

from bench import generation_table, results
from bench.generation_table import bytes_read, main, make_model
from lmfast.model.config import ModelConfig

pytest.importorskip("transformers")
TINY = ModelConfig(64, 64, d_model=32, num_layers=1, num_heads=2, d_ff=40)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(generation_table, "MODELS", {"5.3M": TINY})


def test_rows_are_measured_and_saved(tiny, tmp_path, monkeypatch, capsys):
    output = tmp_path / "g.json"
    monkeypatch.setattr(sys, "argv", ["x", "--quick", "--only", "5.3M-1", "5.3M-16", "--output", str(output)])
    main()
    first, memory, resident, other = results.read(output).rows
    assert [row.name for row in (first, memory, resident, other)] == [
        "greedy, 5.3M, batch 1",
        "greedy, 5.3M, part of the read roofline (memory)",
        "greedy, 5.3M, part of the read roofline (resident)",
        "greedy, 5.3M, batch 16",
    ]
    assert {name: len(taken) for name, taken in first.times.items()} == {"ours": 3, generation_table.PEER: 3}
    seconds = [taken / 512e6 * first.data["read"] * 40 for taken in first.data["memory"]]
    expected = sorted(allowed / ours for allowed, ours in zip(seconds, first.ours, strict=True))[1]
    assert memory.data["ratio"]["median"] == pytest.approx(
        expected, rel=0.06
    )  # 512e6: the buffer has 2^26 floats
    assert "tok/s" in capsys.readouterr().out


def test_different_ids_are_never_timed(tiny, monkeypatch):
    monkeypatch.setattr(generation_table, "greedy", lambda *_: lambda: [[0]])
    with pytest.raises(SystemExit, match="other ids than Hugging Face's"):
        list(generation_table.measure_one("5.3M", 1, True))


def test_the_embedding_is_not_read(tiny):
    model = make_model("5.3M")
    read = sum(p.numel() for p in model.parameters()) - model.embedding.weight.numel()
    assert bytes_read(model) == 4 * read
