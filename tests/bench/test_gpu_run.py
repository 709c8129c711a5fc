"""A run of seconds on the CPU, and the arithmetic of its extrapolation."""

import sys

import pytest

from bench import gpu_run
from bench.gpu_run import TINY, main, make_data, row, whole_time
from bench.gpu_training import read_config
from bench.target_table import read_rows
from lmfast.settings import replace_flat


@pytest.fixture
def tiny(tmp_path):
    """(settings, corpus) of a model of nothing."""
    settings = replace_flat(
        read_config(gpu_run.CONFIG), TINY | {"total_tokens": 640, "log_interval": 1, "eval_interval": 5}
    )
    return make_data(settings, tmp_path / "data", 20_000)


def test_a_whole_run_is_not_extrapolated(tiny, tmp_path):
    found = row(gpu_run.CONFIG, 1.0, tmp_path, *tiny)
    assert found.data["extrapolated"] is False and found.value == found.data["seconds"] / 60
    assert found.data["metrics"][-1]["tokens"] == 640 and "val_loss" in found.shown
    assert (tmp_path / "run" / "report.html").exists() and found.must is None


def test_a_short_run_is_extrapolated(tiny, tmp_path, monkeypatch):
    settings, corpus = tiny
    real = gpu_run.run

    def stops_early(settings, *arguments):
        return real(replace_flat(settings, {"max_iters": 5, "total_tokens": None}), *arguments)

    monkeypatch.setattr(gpu_run, "run", stops_early)
    found = row(gpu_run.CONFIG, 1.0, tmp_path, settings, corpus)
    assert found.data["extrapolated"] is True and "extrapolated from 0.00M" in found.shown
    assert found.data["metrics"][-1]["tokens"] == 320 and found.value > found.data["seconds"] / 60


def test_evaluations_and_checkpoints_are_extrapolated_too():
    """10 tokens a line; training alone is 5 tokens/s, but between two lines 4 s pass, evaluation and all."""
    lines = [
        {"tokens": 10 * i, "tokens_per_second": rate, "seconds": 3.0 + 4.0 * i}
        for i, rate in ((1, 1.0), (2, 5.0), (3, 5.0), (4, 5.0))
    ]
    # The run took 25 s for 40 tokens; each of the 60 left takes 0.4 s.
    assert whole_time(lines, 25.0, 100) == (25.0 + 60 * 0.4, 5.0, False)
    assert whole_time(lines, 25.0, 40) == (25.0, 5.0, True)
    with pytest.raises(ValueError, match="fewer than two rates of compiled steps"):
        whole_time(lines[:2], 25.0, 100)


def test_the_config_is_the_one_of_cs336(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_run, "prepare", lambda folder, train, valid, vocab_size: vocab_size)
    settings, vocab_size = make_data(read_config(gpu_run.CONFIG), tmp_path)
    assert settings.optimizer.total_tokens == 327_680_000 and vocab_size == 10_000
    assert settings.data.train_data_path is None


def test_prepared_data_is_made_once_and_reused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_run, "DATA", tmp_path / "data")
    monkeypatch.setattr(gpu_run, "TEXT_BYTES", 20_000)
    monkeypatch.setattr(
        gpu_run, "read_config", lambda name: replace_flat(read_config(name), {"vocab_size": 300})
    )
    monkeypatch.setattr(sys, "argv", ["gpu_run", "--prepare"])
    assert main() == main() == 0
    assert "reused" in capsys.readouterr().out


def test_command_line(tmp_path, monkeypatch, capsys):
    output = tmp_path / "r.json"
    monkeypatch.setattr(sys, "argv", ["gpu_run", "--rehearse", "--minutes", "0.02", "--output", str(output)])
    assert main() == 0
    (found,) = read_rows(output)
    assert found.name == "tinystories_17m: minutes for its tokens" and found.value > 0
    capsys.readouterr()
