import builtins
import io
import re
import sys

import pytest

from lmfast.errors import UserError
from lmfast.flops import main
from lmfast.flops_output import plot_shares
from lmfast.model.config import ModelConfig

XL = ["--config", "gpt2_xl"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def printed(monkeypatch, words, columns: int) -> str:
    """The command's output on a terminal of that width."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    main(words)
    return terminal.getvalue()


def test_the_table(capsys):
    main([*XL, "--device", "H100", "--tokens-per-parameter", "20"])
    out = capsys.readouterr().out
    lines = out.splitlines()
    rows = {line.split("  ")[0].strip(): line.split() for line in lines}
    assert lines[0].startswith(
        "48 layers, d_model 1,600, 25 heads, d_ff 6,400, vocabulary 50,257, context 1,024"
    )
    assert rows["total"][1:] == "2,127,057,600 100.00 4,513,336,524,800 13,540,009,574,400 100.00".split()
    assert rows["feed-forward"][1:3] == ["1,474,560,000", "69.32"] and rows["feed-forward"][-1] == "66.91"
    assert rows["upper bound"][-1] == "150.864"
    assert "KV cache: 307,200 bytes per token, 0.315 GB for a full context" in lines
    assert "largest batch in 90% of 80 GB: 9 sequences" in lines
    assert "H100 SXM: 989 TFLOP/s (dense bf16, NVIDIA H100 data sheet); at 40% MFU 29,918 tokens/s" in lines
    assert "42.54 B tokens take 16.5 days" in lines


def test_conventions_are_printed_below_every_table(capsys):
    for words in (XL, [*XL, "--device", "L4", "--hours", "1"], ["--device", "L4", "--hours", "1"]):
        main(words)
        out = capsys.readouterr().out
        assert "forward = 2 × matmul parameters × tokens + 4 × num_layers × d_model × T per token" in out or (
            "FLOPs = 6 × parameters × tokens" in out
        )
    main(XL)
    assert "Memory: fp32 weights, gradients and AdamW moments, bf16 products" in capsys.readouterr().out


def test_plain_when_not_a_terminal_and_coloured_in_one(capsys, monkeypatch):
    main(XL)
    plain = capsys.readouterr().out
    assert "\x1b" not in plain and "─" not in plain
    shown = printed(monkeypatch, XL, 120)
    assert "\x1b[1m" in shown and "─" in shown and "4,513,336,524,800" in shown


def test_a_narrow_terminal_gets_short_numbers_and_complete_lines(monkeypatch):
    shown = printed(monkeypatch, XL, 80)
    assert "4.513 T" in shown and "2.127 B" in shown and "4,513,336,524,800" not in shown
    assert "attention projections" in shown and "parameters" in shown and "…" not in shown
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in shown.splitlines()) <= 80


def test_sixty_columns_cut_no_number(monkeypatch):
    shown = re.sub(r"\x1b\[[0-9;]*m", "", printed(monkeypatch, XL, 60))
    rows = [line.split() for line in shown.splitlines()]
    assert "total 2.127 B 100.00 4.513 T 13.54 T 100.00".split() in rows and "…" not in shown
    assert max(map(len, shown.splitlines())) <= 60


def test_a_batch_that_does_not_fit_is_reported(capsys):
    main([*XL, "--memory", "16"])
    assert "largest batch in 90% of 16 GB: not even one sequence fits" in capsys.readouterr().out


def test_grouped_heads_are_printed(capsys):
    main([*XL, "--num-kv-heads", "5"])
    assert "25 heads (5 key/value)" in capsys.readouterr().out


def test_the_inverse_as_text(capsys):
    main("--device L4 --hours 24 --tokens-per-parameter 100 --dtype fp16 --mfu 1".split())
    out = capsys.readouterr().out
    assert out.startswith(
        "24 hours on L4 at 100% of 121 TFLOP/s (dense fp16, NVIDIA L4 data sheet): 1.045e+19 FLOPs"
    )
    assert "at 100 tokens per parameter: 132 M parameters, 13.2 B tokens" in out and "add --vocab-size" in out
    main("--config tinystories_17m --device L4 --hours 24".split())
    assert "a shape within the budget: " in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
@pytest.mark.parametrize("length", [1, 64, 1024, 2**20])
def test_pictures(tmp_path, suffix, length):
    path = tmp_path / f"shares.{suffix}"
    plot_shares(ModelConfig(vocab_size=100, context_length=length).resolved(), str(path))
    assert path.stat().st_size > 1000 and list(tmp_path.iterdir()) == [path]


def test_without_matplotlib_one_line(tmp_path, monkeypatch):
    real = builtins.__import__

    def fail(name, *rest):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(UserError, match="--plot needs matplotlib, which is not installed"):
        plot_shares(ModelConfig(vocab_size=100).resolved(), str(tmp_path / "x.png"))


def test_windows_are_named_and_counted(capsys):
    shape = "--vocab-size 100 --d-model 64 --num-heads 4 --num-layers 5 --context-length 32".split()
    main(shape)
    full = capsys.readouterr().out
    main([*shape, "--sliding-window", "8", "--window-pattern", "SSL"])
    windowed = capsys.readouterr().out
    assert "5 layers, d_model" in full and "5 layers, windows of 8 in 3 layers, d_model" in windowed
    assert f"{4 * 64 * 32 * 5 * 32:,}" in full and f"{4 * 64 * 32 * (3 * 8 + 2 * 32):,}" in windowed
