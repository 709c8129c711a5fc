"""Rows of the table, with a tiny model and, in the place of llama.cpp, our own decoder."""

import sys
from types import SimpleNamespace

import pytest
import torch

from bench import ceilings, llama_cpp_speed, results
from bench.llama_cpp_speed import CASES, MUST, Ours, Setup, main, make_model, measure_case
from lmfast.model.config import ModelConfig

pytest.importorskip("gguf")
LIBRARY = SimpleNamespace(name="libllama.so", backend="libggml-cpu-x.so", system="AVX9")


class Peer:
    """Answers what llama.cpp should answer, in one second, and in half of it with one cache for all sequences."""

    shift, open = 0, 0

    def __init__(self, library, path, threads, context_length, sequences, unified, flash):
        assert library is LIBRARY and path.exists()
        self.ours, self.seconds = Ours(make_model("5.3M"), "fp32"), 0.5 if unified else 1.0
        Peer.open += 1

    def generate(self, prompts, new):
        ids = self.ours.generate(prompts, new).ids
        return llama_cpp_speed.Timed(
            [[i + self.shift for i in row] for row in ids], self.seconds, self.seconds
        )

    def close(self):
        Peer.open -= 1


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    tiny = ModelConfig(300, 64, d_model=32, num_layers=1, num_heads=2, d_ff=40, tie_embeddings=True)
    monkeypatch.setattr(llama_cpp_speed, "MODELS", {"5.3M": tiny})
    sizes = {"CONTEXT": 64, "LONG": 24, "NEW": 8, "TRIED": 2, "READ_BYTES": 1, "MEMORY_BYTES": 1 << 20}
    for name, value in (sizes | {"Context": Peer, "Library": lambda folder: LIBRARY}).items():
        monkeypatch.setattr(llama_cpp_speed, name, value)
    monkeypatch.setattr(ceilings, "LEAST_SECONDS", 0)
    make_model.cache_clear()
    yield
    make_model.cache_clear()
    assert Peer.open == 0


@pytest.fixture
def setup(tmp_path):
    return Setup(LIBRARY, tmp_path, threads=1, rounds=2, seconds=0.0)


def test_rows_are_measured_and_saved(tmp_path, monkeypatch, capsys):
    output = tmp_path / "l.json"
    monkeypatch.setattr(sys, "path", list(sys.path))
    threads = str(torch.get_num_threads())
    words = ["--rounds", "2", "--seconds", "0", "--threads", threads, "--output", str(output)]
    only = ["5.3M-fp32-1", "5.3M-fp32-16", "5.3M-fp32-prompt", "5.3M-int8-16"]
    monkeypatch.setattr(sys, "argv", ["x", *words, "--only", *only])
    assert main() == 0
    run = results.read(output)
    assert run.settings == {
        "threads": int(threads),
        "library": "libllama.so",
        "backend": "libggml-cpu-x.so",
        "cpu": "AVX9",
    }
    reading, one, many, prompt, quantized = run.rows
    assert reading.value > 1e6
    assert [row.name for row in run.rows[1:]] == [
        "5.3M, batch 1, fp32 against F32",
        "5.3M, batch 16, fp32 against F32",
        "5.3M, prompt of 24, fp32 against F32",
        "5.3M, batch 16, int8 against Q8_0",
    ]
    assert "; 8 of 8 ids equal; " in one.shown and "; 128 of 128 ids equal; " in many.shown
    assert (one.data["steps"], many.data["steps"], prompt.data["steps"]) == (2, 2, 0)
    assert [row.data["way"]["unified"] for row in (one, many, prompt, quantized)] == [
        False,
        True,
        False,
        True,
    ]
    assert one.times["llama.cpp"] == [1.0, 1.0] and many.times["llama.cpp"] == [0.5, 0.5]
    assert one.value == pytest.approx(1 / one.median, rel=0.5) and one.must == MUST
    assert "ms against 1,000.0" in prompt.shown and "part" not in prompt.data
    assert quantized.must == MUST and not quantized.wrong
    assert "AVX9" in capsys.readouterr().out


def test_other_ids_are_wrong_in_fp32_only(setup, monkeypatch):
    monkeypatch.setattr(Peer, "shift", 1)
    row = measure_case(setup, CASES["5.3M-fp32-1"])
    assert row.verdict == "WRONG" and row.wrong.startswith("id 0 of sequence 0 is ")
    monkeypatch.setattr(llama_cpp_speed, "ROUNDINGS", 1e9)
    assert not measure_case(setup, CASES["5.3M-fp32-1"]).wrong


def test_reading_at_the_memorys_rate_meets_the_target(setup, monkeypatch):
    """8-bit weights, with a decoder that takes the option."""
    options = []

    def generate(*arguments, quantize, **rest):
        options.append(quantize)
        return decode(*arguments, **rest)

    decode = llama_cpp_speed.generate
    monkeypatch.setattr(Peer, "__init__", lambda self, *_, **__: setattr(self, "seconds", 1e-9))
    monkeypatch.setattr(
        Peer, "generate", lambda self, prompts, new: llama_cpp_speed.Timed([[0] * new], 1e-9, 1e-9)
    )
    monkeypatch.setattr(Peer, "close", lambda self: None)
    monkeypatch.setattr(llama_cpp_speed, "generate", generate)
    rows = []
    for bandwidth in (1e15, 1.0):
        monkeypatch.setattr(llama_cpp_speed, "sum_of", lambda size, bandwidth=bandwidth: lambda: bandwidth)
        rows.append(measure_case(setup, CASES["5.3M-int8-1"]))
    assert [row.verdict for row in rows] == ["missed", "must"]
    assert set(options) == {"int8"} and not rows[0].wrong
    assert rows[0].data["read"] == sum(p.numel() for p in make_model("5.3M").parameters())


def test_an_incomplete_folder_is_one_line(tmp_path, monkeypatch, capsys):
    from bench.llama_cpp_library import Library

    monkeypatch.setattr(llama_cpp_speed, "Library", Library)
    monkeypatch.setattr(sys, "path", list(sys.path))
    threads = str(torch.get_num_threads())
    monkeypatch.setattr(sys, "argv", ["x", "--llama-cpp", str(tmp_path), "--threads", threads])
    with pytest.raises(SystemExit) as found:
        main()
    assert found.value.code == 2
    assert f"error: {tmp_path}: has no libllama.*; make it with" in capsys.readouterr().err
