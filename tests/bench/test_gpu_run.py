"""A short run on the CPU, and the arithmetic of its extrapolation."""

import sys

import pytest

from bench import gpu_run, results
from bench.gpu_run import TINY, main, make_data, row, whole_time
from bench.gpu_training_job import read_config
from lmfast.settings import replace_flat


@pytest.fixture
def tiny(tmp_path):
    """(settings, corpus) of a tiny model."""
    settings = replace_flat(
        read_config(gpu_run.CONFIG), TINY | {"total_tokens": 640, "log_interval": 1, "eval_interval": 5}
    )
    return make_data(settings, tmp_path / "data", 20_000)


def test_a_complete_run_is_not_extrapolated(tiny, tmp_path):
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


def lines_of(*seconds: float) -> list[dict]:
    """Logged lines, 10 tokens each, trained at 5 tokens/s except in the first line, which contains compilation."""
    return [
        {"tokens": 10 * i, "tokens_per_second": 1.0 if i == 1 else 5.0, "seconds": passed}
        for i, passed in enumerate(seconds, 1)
    ]


def test_evaluations_and_checkpoints_are_extrapolated_too():
    """Training alone is 5 tokens/s, but with evaluation 4 s pass between two lines."""
    lines = lines_of(7.0, 11.0, 15.0, 19.0)
    # The run took 25 s for 40 tokens; each of the 60 left takes 0.4 s.
    assert whole_time(lines, 25.0, 100) == (25.0 + 60 * 0.4, 5.0, False)
    assert whole_time(lines, 25.0, 40) == (25.0, 5.0, True)
    with pytest.raises(ValueError, match="fewer than two rates of compiled steps"):
        whole_time(lines[:3], 25.0, 100)


def test_what_a_run_does_once_is_counted_once():
    """The last line comes with a forced evaluation, a sample and a tokenizer that is compiled: 13.5 s more for 1 step."""
    lines = [*lines_of(7.0, 11.0, 15.0), {"tokens": 31, "tokens_per_second": 4.0, "seconds": 28.9}]
    assert whole_time(lines, 33.0, 131) == (pytest.approx(33.0 + 100 * 0.4), 5.0, False)


def test_the_first_run_on_an_h100():
    """Figures of commit 3efd938: 327.68M tokens were predicted to take 5.29 minutes."""
    logged = [(50, 8.365), (100, 9.015), (950, 19.357), (1000, 23.172), (1001, 36.712)]
    lines = [
        {"tokens": 32_768 * step, "tokens_per_second": 2.7e6, "seconds": passed} for step, passed in logged
    ]
    assert whole_time(lines, 40.83, 327_680_000)[0] / 60 == pytest.approx(3.04, abs=0.005)


def test_the_config_matches_cs336(tmp_path, monkeypatch):
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
    monkeypatch.setattr(sys, "argv", ["gpu_run", "--rehearse", "--minutes", "5", "--output", str(output)])
    assert main() == 0
    (found,) = results.read(output).rows
    assert found.name == "tinystories_17m: minutes for its tokens" and found.value > 0
    capsys.readouterr()
