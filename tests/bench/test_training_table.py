"""Rows of the training table, with a tiny uncompiled model."""

import pytest
import torch

from bench import training_table
from lmfast.model.config import ModelConfig

pytest.importorskip("transformers")


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(
        training_table, "MODEL", ModelConfig(64, 16, d_model=32, num_layers=1, num_heads=2, d_ff=40)
    )
    before = training_table.sides
    monkeypatch.setattr(training_table, "sides", lambda *which: before(*which, compiled=False))
    yield
    torch.use_deterministic_algorithms(False)


def test_rows(tiny):
    step, part = training_table.speed(quick=True)
    times, peer = step.times, training_table.PEER
    assert {name: len(taken) for name, taken in times.items()} == {"ours": 3, peer: 3}
    pairs = sorted(theirs / ours for theirs, ours in zip(times[peer], times["ours"], strict=True))
    assert step.value == pytest.approx(pairs[1]) and step.must == 1.3
    assert 0 < part.value < 1


def test_different_losses_are_never_timed(tiny, monkeypatch):
    monkeypatch.setattr("bench.training_step.their_loss", lambda *_: torch.tensor(1.0))
    with pytest.raises(AssertionError, match="not close"):
        training_table.sides()


def test_memory_is_compared(monkeypatch):
    monkeypatch.setattr(training_table, "peak_in_fresh_process", {"ours": 60, training_table.PEER: 100}.get)
    (row,) = training_table.memory(quick=True)
    assert row.value == 0.6 and row.verdict == "must"
