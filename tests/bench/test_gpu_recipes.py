"""A rehearsal of the recipes' rates on the CPU."""

import sys

import pytest

from bench import gpu_recipes, results
from bench.gpu_recipes import CONFIGS, main, row


def test_command_line(tmp_path, monkeypatch, capsys):
    output = tmp_path / "r.json"
    monkeypatch.setattr(sys, "argv", ["gpu_recipes", "--rehearse", "--output", str(output)])
    assert main() == 0
    found = results.read(output).rows
    assert [one.name for one in found] == [f"{config}: tokens per second" for config in CONFIGS]
    assert all(one.value > 0 and "12 steps" in one.shown and "MFU" in one.shown for one in found)
    capsys.readouterr()


def test_a_run_too_short_to_time_is_an_error(tmp_path, monkeypatch):
    def one_line(settings, start, corpus):
        start.folder.mkdir()
        (start.folder / "metrics.jsonl").write_text('{"step": 2, "tokens_per_second": 5.0}\n')

    monkeypatch.setattr(gpu_recipes, "run", one_line)
    with pytest.raises(ValueError, match="fewer than two rates"):
        row("speedrun_124m", None, None, tmp_path / "run")
