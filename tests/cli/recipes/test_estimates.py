"""Estimates from given measurements, and the table of the plan."""

import pytest

from lmfast.cli.recipes import estimates
from lmfast.cli.recipes.estimates import Estimate, estimate_steps, estimate_table
from lmfast.cli.recipes.graph import steps_in_order
from lmfast.cli.recipes.records import Decision
from lmfast.cli.recipes.running import plan
from lmfast.cli.recipes.specification import read_recipe

RECIPE = """
folder: out
stages:
  corpus: {command: data stories, vocab_size: 300, output: stories}
  base: {command: train, train_data: $corpus/300/train.npy, val_data: $corpus/300/valid.npy, d_model: 16, num_heads: 2,
         num_layers: 2, d_ff: 24, context_length: 32, max_iters: 1000, eval_interval: 100, checkpoint_interval: 500}
  timed: {command: train, train_data: $corpus/300/train.npy, max_minutes: 3}
  score: {command: evaluate, run: $base}
  gguf: {command: export, run: $base, format: gguf}
  story: {command: generate, checkpoint: $base}
"""
BASE = {
    "startup": 2.0,
    "base": 2e8,
    "first": 0.5,
    "step": 0.1,
    "steps": 1000.0,
    "evaluate": 0.02,
    "batches": 5.0,
}
BASE |= {"peak": 1e8, "rest": 5e7, "items": 0.0}
MEASURED = {"base": BASE}


@pytest.fixture
def steps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def steps(text: str = RECIPE):
        (tmp_path / "r.yaml").write_text(text)
        return steps_in_order(read_recipe("r.yaml"))

    return steps


@pytest.fixture
def estimated(steps, monkeypatch, tmp_path):
    monkeypatch.setattr(estimates, "private_cache", lambda name: tmp_path)

    def estimated(text: str = RECIPE):
        monkeypatch.setattr(estimates, "measurements", lambda folder, jobs, keep: MEASURED)
        found = steps(text)
        return estimate_steps(tmp_path / "out", found, plan(tmp_path / "out", found), False)

    return estimated


def test_of_a_training_run(estimated):
    found = estimated()["base"]
    # Start 2 s, first step 0.5, 1000 steps of 0.1, 10 evaluations of 5 × 0.02, ten checkpoints, a report.
    assert found.seconds == pytest.approx(2 + 0.5 + 100 + 1 + 10 * 0.05 + estimates.REPORT_SECONDS, abs=0.1)
    assert found.memory == 3e8


def test_a_first_compilation_is_assumed_where_nothing_was_compiled(estimated, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    text = RECIPE.replace("eval_interval: 100", "eval_interval: 100, compile: true")
    cold = estimated(text)["base"]
    record = tmp_path / "cache/lmfast-first-steps/a.json"
    record.parent.mkdir(parents=True)
    record.touch()
    warm = estimated(text)["base"]
    assert cold.seconds is not None and warm.seconds is not None and cold.seconds - warm.seconds > 30
    assert "assuming a minute to compile" in cold.note and "never compiled here" in warm.note


def test_of_a_run_that_resumes(estimated, steps, tmp_path):
    found, whole = steps(), estimated()["base"].seconds
    marker = tmp_path / "out/base/checkpoints/step_00000400/COMPLETE"
    marker.parent.mkdir(parents=True)
    marker.touch()
    decisions = plan(tmp_path / "out", found) | {"base": Decision("resume", "was interrupted")}
    rest = estimate_steps(tmp_path / "out", found, decisions, False)["base"].seconds
    assert whole is not None and rest is not None and whole - rest > 40


def test_samples_and_compilation_cost_time_and_memory(estimated):
    plain = estimated()["base"]
    sampled = estimated(RECIPE.replace("eval_interval: 100", "eval_interval: 100, sample_interval: 500"))[
        "base"
    ]
    compiled = estimated(RECIPE.replace("eval_interval: 100", "eval_interval: 100, compile: true"))["base"]
    assert plain.seconds and sampled.seconds and compiled.seconds
    assert plain.memory and sampled.memory and compiled.memory
    assert sampled.seconds > plain.seconds + 1 and sampled.memory > plain.memory + 5e7
    assert compiled.memory > plain.memory and compiled.note


def test_of_the_other_stages(estimated):
    found = estimated()
    assert 2 < (found["corpus"].seconds or 0) < 6
    assert 180 < (found["timed"].seconds or 0) < 190
    assert found["score"].seconds == pytest.approx(2.1)
    assert (found["story"].seconds or 9) < 2 and (found["gguf"].memory or 0) == 1.6e8


def test_of_a_data_stage_from_two_pieces_of_its_text(estimated, monkeypatch):
    """20.2 MB where 1.1 MB took 1 s and 5.5 MB 2 s; memory grows as the constants say."""
    pieces = {"small_bytes": 1.1e6, "small_seconds": 1.0, "small_memory": 1e8}
    pieces |= {"large_bytes": 5.5e6, "large_seconds": 2.0, "large_memory": 1.2e8}
    constants = estimated()["corpus"]
    monkeypatch.setitem(MEASURED, "corpus", pieces)
    found = estimated()["corpus"]
    assert found.seconds == pytest.approx(2 + (20.2e6 - 5.5e6) / 4.4e6)
    assert found.memory == pytest.approx(1.2e8 + 1.15 * (20e6 - 5.5e6))
    assert "without a measurement" in constants.note and not found.note


def test_a_download_has_no_estimate(estimated):
    text = "stages:\n  a: {command: data download, name: tinystories}\n"
    text += "  b: {command: tokenizer train, input: $a/train.txt, vocab_size: 300}\n"
    found = estimated(text)
    assert found["a"] == Estimate(note="depends on the network")
    assert found["b"] == Estimate(note="depends on text that is not there yet")


def test_the_table(steps):
    found = steps()
    decisions = {step.name: Decision("run", "not run yet") for step in found}
    decisions["corpus"] = Decision("skip", "unchanged")
    shown = {"base": Estimate(100.0, 2e9), "timed": Estimate(20.0, None, "max_minutes")}
    lines = estimate_table(found, decisions, shown)
    assert lines[1].split() == ["corpus", "data", "stories", "skip", "unchanged"]
    assert "1 min 40 s" in lines[2] and "2,000.0 MB" in lines[2]
    assert lines[3].endswith("not run yet; max_minutes") and lines[-1] == "about 2 min 0 s in all"
