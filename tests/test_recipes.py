"""The single-GPU recipes: the figures in their comments are correct, and they train when scaled down."""

import re

import pytest
import yaml

from lmfast.cli.settings_line import parse
from lmfast.model.accounting import num_parameters, training_flops_per_token
from lmfast.settings import CONFIGS, TrainSettings
from lmfast.train import train
from lmfast.training.resolve import batch_ramp, resolve
from lmfast.training.run_folder import read_metrics

RECIPES = ("speedrun_124m", "owt_124m_leaderboard")
TINY = (
    "--vocab-size 300 --context-length 16 --d-model 64 --num-layers 2 --num-heads 2 --d-ff 32 --batch-size 2 --no-compile "
    "--no-bf16 --eval-batches 1 --max-iters 3 --warmup-iters 0 "
    "--log-interval 1"
).split()


def settings_of(name: str) -> TrainSettings:
    return resolve(parse(TrainSettings, ["--config", name], "lmfast train"), None)


@pytest.mark.parametrize("name", RECIPES)
def test_the_figures_in_the_comments(name):
    text = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
    comments = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    settings = settings_of(name)
    assert f"{num_parameters(settings.model):,} parameters" in comments
    flops = training_flops_per_token(settings.model, settings.model.context_length)
    assert f"{flops / 1e6:.1f} MFLOP" in comments
    found = re.search(r"([\d,]+) tokens/s there.*?, ([\d.]+) % MFU", comments)
    rate, mfu = int(found[1].replace(",", "")), float(found[2]) / 100
    assert mfu == pytest.approx(rate * flops / 989.4e12, abs=0.002)
    assert "the loss not yet" in comments


def test_the_speedrun_follows_the_rules_of_the_track():
    settings = settings_of("speedrun_124m")
    opt, model = settings.optimizer, settings.model
    step = opt.batch_size * opt.grad_accumulation * model.context_length
    assert step == 8 * 64 * 1024 and settings.logging.eval_batches * step == 20 * 524_288
    assert (model.ffn_hidden, model.head_dim, model.vocab_size) == (3072, 128, 50_304)
    assert not opt.batch_ramp_iters and not model.value_embeddings


def test_the_leaderboard_run_is_ended_by_the_clock_at_rate_zero():
    opt = settings_of("owt_124m_leaderboard").optimizer
    assert (opt.max_minutes, opt.max_iters, opt.min_lr) == (90, None, 0.0)
    ramp = batch_ramp(opt)
    steps = 0, ramp.steps - 1, ramp.steps
    assert [ramp.rows * ramp.passes_in(i) * 1024 for i in steps] == [131_072, 458_752, 524_288]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_when_scaled_down(corpus, tmp_path, name):
    flags = ["--train-data", corpus.train, "--val-data", corpus.valid, "--tokenizer", corpus.tokenizer, *TINY]
    assert train([str(flag) for flag in ["--config", name, *flags, "--out-dir", tmp_path / "run"]])
    metrics = read_metrics(tmp_path / "run")
    ramp = batch_ramp(settings_of(name).optimizer)
    assert [line["tokens"] for line in metrics] == [2 * 16 * ramp.passes_before(step) for step in (1, 2, 3)]
    assert metrics[-1]["learning_rate"] == 0.0 and "val_loss" in metrics[-1]
    assert min(line["train_loss"] for line in metrics[1:]) < metrics[0]["train_loss"]
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["optimizer"] == "muon" and saved["qk_norm"] and saved["logit_softcap"] == 15.0
