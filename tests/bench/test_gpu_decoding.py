"""The rows of the decoding bench, with a tiny model on the CPU."""

import dataclasses
import sys

import pytest
import torch

from bench import gpu_decoding, results
from bench.gpu_decoding import Subject, agreement, decode, main, rows
from lmfast.model.config import ModelConfig

pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("compiled_quickly")
TINY = ModelConfig(64, 64, d_model=32, num_layers=1, num_heads=2, d_ff=40, tie_embeddings=True).resolved()
CPU = torch.device("cpu")


@pytest.fixture
def subject():
    return Subject(TINY, CPU, new=16, rounds=3, reading=1e9)


def test_order_of_rows(subject):
    found = list(rows(subject))
    assert [row.name for row in found] == [
        "decoding: agreement",
        "greedy, batch 1, torch's steps, tok/s",
        "greedy, batch 1, compiled steps, tok/s",
        "set-up, prompt and first id of a second call, ms",
        "greedy, batch 16, torch's steps, tok/s",
        "greedy, batch 16, compiled steps, tok/s",
        "greedy, batch 1: beside Hugging Face's generate",
        "greedy, batch 16: beside Hugging Face's generate",
    ]
    assert found[0].data["ids, float32"] == 2 * gpu_decoding.GATE_STEPS and found[0].value < 1e-4
    assert all(row.value > 0 for row in found[1:])


def test_rates_follow_from_what_was_timed(subject):
    data = decode(subject, 16, False)
    long, short = (sorted(data.data["times"][name])[1] for name in ("long", "short"))
    assert data.value == pytest.approx(16 * 16 / long)
    assert data.data["seconds_per_step"] == pytest.approx((long - short) / 12)
    weights = 4 * sum(p.numel() for p in subject.model.parameters())
    cache = 16 * (16 + 8) * 2 * 32 * 4  # a layer's keys and values of the mean length
    expected = (weights + cache) / 1e9 / data.data["seconds_per_step"]
    assert data.data["roofline"] == pytest.approx(expected)


def test_an_untied_embedding_is_not_read(subject):
    untied = Subject(dataclasses.replace(TINY, tie_embeddings=False), CPU, 16, 3, 1e9)
    assert untied.bytes_per_step(1, 10) == subject.bytes_per_step(1, 10)


def test_different_ids_are_wrong(subject, monkeypatch):
    monkeypatch.setattr(gpu_decoding, "greedy", lambda *_: lambda: [[0] * gpu_decoding.GATE_STEPS] * 2)
    row = agreement(subject)
    assert row.verdict == "WRONG" and row.wrong.startswith("other ids than Hugging Face's in float32")


def test_different_logits_are_wrong(subject, monkeypatch):
    real = type(subject.model).decode
    monkeypatch.setattr(type(subject.model), "decode", lambda *arguments: 1.1 * real(*arguments))
    assert "logits with the cache differ by 0.1" in agreement(subject).wrong


def test_command_line(monkeypatch, tmp_path, capsys):
    output = tmp_path / "d.json"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu_decoding, "read_bandwidth", lambda device: 1e9)
    line = ["x", "--rehearse", "--only", "sixteen", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", line)
    assert main() == 0
    run = results.read(output)
    assert [row.name for row in run.rows] == [
        "decoding: agreement",
        "greedy, batch 16, torch's steps, tok/s",
    ]
    assert run.settings == {"config": "owt_124m"} and "tok/s" in capsys.readouterr().out


def test_nan_logits_are_wrong(subject, monkeypatch):
    real = type(subject.model).decode
    monkeypatch.setattr(type(subject.model), "decode", lambda *arguments: float("nan") * real(*arguments))
    assert "differ by nan" in agreement(subject).wrong
