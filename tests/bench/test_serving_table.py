"""Rows of the table, with a tiny model and stub_server.py in the place of both servers."""

import os
import sys

import pytest

from bench import results, serving_processes, serving_table
from bench.serving_table import main
from lmfast.model.config import ModelConfig

pytest.importorskip("gguf")
TINY = ModelConfig(400, 64, d_model=32, num_layers=1, num_heads=2, d_ff=40)


@pytest.fixture
def stubs(monkeypatch, tmp_path):
    """llama.cpp's stub gets a folder instead of a file: the run."""
    stub = (sys.executable, "-m", "tests.bench.stub_server")
    monkeypatch.setattr(serving_processes, "OURS", stub)
    monkeypatch.setattr(serving_processes, "LLAMA_CPP", stub)
    monkeypatch.setattr(serving_processes, "WATCHED", 0.05)
    monkeypatch.setattr(serving_table, "MODELS", {"5.3M": TINY})
    monkeypatch.setattr(serving_table, "build", lambda: "stub, AVX9")
    monkeypatch.setattr(serving_table, "write_gguf", lambda path, *_: serving_table.write_run(path, TINY))
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")


def table(monkeypatch, tmp_path, *only: str) -> tuple[int, list[results.Row]]:
    output = tmp_path / "s.json"
    words = ["x", "--quick", "--threads", "1", "--output", str(output), "--only", *only]
    monkeypatch.setattr(sys, "argv", words)
    code = main()
    run = results.read(output)
    assert run.settings == {"threads": 1, "bf16": False, "new_tokens": 16}
    return code, run.rows


def test_rows_are_measured_and_saved(stubs, tmp_path, monkeypatch):
    code, rows = table(monkeypatch, tmp_path, "5.3M-clients", "5.3M-llama.cpp", "5.3M-first", "5.3M-alone")
    assert code == 0
    assert [(row.name, row.must, row.aim) for row in rows] == [
        ("5.3M, 16 clients, whole answers, relative to generate", 0.8, 0.95),
        ("5.3M, 16 clients, streamed answers, relative to generate", 0.5, 0.75),
        ("5.3M, 16 clients, whole answers, against llama.cpp", 1.2, 2.0),
        ("5.3M, 16 clients, streamed answers, against llama.cpp", 1.2, 2.0),
        ("5.3M, one client, time to first token added", 5.0, 2.0),
        ("5.3M, one client, streamed, relative to generate", None, None),
    ]
    whole, streamed, peer, _, first, alone = rows
    assert whole.data["equal"] == streamed.data["equal"] == 32 and alone.data["equal"] == 4
    assert len(whole.times["ours"]) == len(whole.times["generate"]) == len(whole.data["clients_cpu"]) == 2
    assert whole.value == pytest.approx(whole.peers[0].ratio.median)
    assert "32 of 32 texts equal" in peer.shown and "llama.cpp whole (stub, AVX9, " in peer.shown
    assert first.at_most and {len(taken) for taken in first.times.values()} == {4}
    assert first.value == pytest.approx(
        1e3
        * (first.median - sorted(first.times["decoder"])[1:3][0] / 2 - sorted(first.times["decoder"])[2] / 2)
    )


def test_other_texts_are_wrong(stubs, tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, "SHIFT", "1")
    code, rows = table(monkeypatch, tmp_path, "5.3M-clients", "5.3M-first")
    assert code == 1 and [row.verdict for row in rows] == ["WRONG"] * 3
    assert rows[0].wrong == "32 of 32 texts differ from generate's"


def test_a_server_that_does_not_start_is_a_failed_row(stubs, tmp_path, monkeypatch):
    command = (sys.executable, "-c", "raise SystemExit('no port is left')")
    monkeypatch.setattr(serving_processes, "OURS", command)
    code, rows = table(monkeypatch, tmp_path, "5.3M-alone")
    assert code == 1 and rows[0].verdict == "FAILED" and "no port is left" in rows[0].wrong
