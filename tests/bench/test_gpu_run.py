"""A run of seconds on the CPU, and the arithmetic of its extrapolation."""

import pytest

from bench import gpu_run
from bench.gpu_run import make_data, rows, whole_time
from bench.gpu_training import read_config

TINY = {
    "vocab_size": 300, "context_length": 16, "d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 24,
    "batch_size": 4, "total_tokens": 640, "compile": False, "bf16": False, "log_interval": 1, "eval_interval": 5,
    "eval_batches": 1, "warmup_iters": 2, "device": "cpu",
}  # fmt: skip


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(gpu_run, "TEXT_BYTES", 20_000)
    real = gpu_run.read_config
    monkeypatch.setattr(
        gpu_run, "read_config", lambda name: gpu_run.replace_flat(real(name), TINY | {"total_tokens": 640})
    )


def test_a_whole_run_is_no_extrapolation(small, tmp_path):
    (row,) = rows(gpu_run.CONFIG, 1.0, tmp_path, {})
    assert row.data["extrapolated"] is False and row.value == row.data["seconds"] / 60
    assert (
        row.data["metrics"][-1]["tokens"] == 640
        and "val_loss" in row.shown
        and "built-in stories" in row.shown
    )
    assert (tmp_path / "run" / "report.html").exists() and row.must is None


def test_a_short_run_is_extrapolated(small, tmp_path):
    (row,) = rows(gpu_run.CONFIG, 1.0, tmp_path, {"max_iters": 5, "total_tokens": None})
    assert row.data["extrapolated"] is True and "extrapolated from 0.00M" in row.shown
    assert row.data["metrics"][-1]["tokens"] == 320 and row.value > row.data["seconds"] / 60


def test_time_besides_steps_is_counted_once():
    lines = [{"tokens": 10 * i, "tokens_per_second": rate} for i, rate in ((1, 1.0), (2, 5.0), (3, 5.0))]
    # 30 tokens at 5 a second are 6 of the 16 seconds; the other 10 come on top of 100 tokens' 20.
    assert whole_time(lines, 16.0, 100) == (30.0, 5.0, False)
    assert whole_time(lines, 16.0, 30) == (16.0, 5.0, True)
    with pytest.raises(SystemExit, match="no rate of compiled steps"):
        whole_time(lines[:1], 16.0, 100)


def test_random_ids_take_the_place_of_stories_that_fail(small, tmp_path, monkeypatch):
    def fails(*arguments):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(gpu_run, "prepare", fails)
    (row,) = rows(gpu_run.CONFIG, 1.0, tmp_path, {})
    assert "random ids, since the stories failed (RuntimeError: no compiler)" in row.shown
    assert row.data["metrics"][-1]["tokens"] == 640


def test_the_config_is_the_issues(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_run, "prepare", lambda folder, train, valid, vocab_size: vocab_size)
    settings, vocab_size, _ = make_data(read_config(gpu_run.CONFIG), tmp_path)
    assert settings.optimizer.total_tokens == 327_680_000 and vocab_size == 10_000
    assert settings.data.train_data_path is None
