"""Resolving settings: derived values, and rejected ones."""

import pytest

from lmfast.errors import UserError
from lmfast.settings import TrainSettings, replace_flat, to_flat
from lmfast.training.resolve import resolve


def resolved(vocab_size=300, **values):
    return to_flat(resolve(replace_flat(TrainSettings(), values), vocab_size))


def test_the_tokenizer_sets_vocab_size_and_a_larger_one_is_accepted():
    assert resolved()["vocab_size"] == 300
    assert to_flat(resolve(replace_flat(TrainSettings(), {"vocab_size": 512}), 300))["vocab_size"] == 512
    with pytest.raises(UserError, match="vocab_size is 256, but the tokenizer has 300"):
        resolve(replace_flat(TrainSettings(), {"vocab_size": 256}), 300)


def test_derived_settings():
    flat = resolved()
    assert (flat["max_iters"], flat["lr_decay_iters"], flat["min_lr"]) == (
        100_000,
        100_000,
        pytest.approx(1e-5),
    )
    flat = resolved(
        total_tokens=1_000_000, batch_size=4, grad_accumulation=2, context_length=100, warmup_iters=10
    )
    assert (flat["max_iters"], flat["total_tokens"]) == (1250, None)
    assert resolved(max_iters=5)["lr_decay_iters"] == 1000  # never before the end of the warmup
    assert resolved(schedule="linear")["min_lr"] == resolved(schedule="wsd")["min_lr"] == 0.0
    timed = resolved(max_minutes=5)
    assert (timed["max_iters"], timed["lr_decay_iters"]) == (None, None)
    assert resolved(max_minutes=5, total_tokens=10**6)["max_iters"] == 31


def test_total_tokens_are_counted_in_the_rows_of_the_task():
    settings = replace_flat(
        TrainSettings(), {"total_tokens": 100_000, "batch_size": 4, "context_length": 512}
    )
    assert to_flat(resolve(settings, 300))["max_iters"] == 49  # 100,000 / 512 / 4
    assert to_flat(resolve(settings, 300, 2 * 31))["max_iters"] == 404  # pairs of rows of 31 tokens


def test_total_tokens_of_a_batch_ramp():
    """Steps of 1, 1, 2, 2, 3, 3, then 4 passes of 4 × 100 tokens; the last step is complete."""
    ramp = {
        "batch_size": 4,
        "grad_accumulation": 4,
        "batch_ramp_iters": 6,
        "context_length": 100,
        "warmup_iters": 1,
    }
    for tokens, steps in ((400, 1), (401, 2), (4800, 6), (4801, 7), (6400, 7), (6401, 8)):
        flat = resolved(total_tokens=tokens, **ramp)
        assert (flat["max_iters"], flat["lr_decay_iters"]) == (steps, steps)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_ramp_iters": 5}, "batch_ramp_start 1 is not below grad_accumulation 1"),
        (
            {"batch_ramp_iters": 5, "grad_accumulation": 4, "batch_ramp_start": 4},
            "batch_ramp_start 4 is not below grad_accumulation 4",
        ),
        (
            {"batch_ramp_start": 2, "grad_accumulation": 4},
            "batch_ramp_start is 2, but there is no batch ramp",
        ),
        ({"batch_ramp_start": 0, "grad_accumulation": 4, "batch_ramp_iters": 5}, "batch_ramp_start is 0"),
        ({"batch_ramp_iters": -1}, "batch_ramp_iters is -1"),
    ],
)
def test_impossible_ramps_are_rejected(changes, message):
    with pytest.raises(UserError, match=message):
        resolved(**changes)


def test_resolving_twice_changes_nothing():
    once = resolve(replace_flat(TrainSettings(), {"total_tokens": 10**9}), 300)
    assert resolve(once, 300) == once


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beta1", 1.0), ("beta2", -0.1), ("weight_decay", -1), ("grad_clip", float("nan")), ("warmup_iters", -1),
        ("eval_interval", -1), ("eval_batches", -1), ("keep_checkpoints", -1), ("checkpoint_interval", -1),
        ("sample_interval", -1), ("max_iters", 0), ("grad_accumulation", 0), ("lr_decay_iters", 5), ("max_minutes", 0),
        ("muon_lr", 0.0), ("z_loss", -1), ("logit_softcap", 0.0), ("muon_momentum", 1.0), ("decay_fraction", 1.5),
    ],
)  # fmt: skip
def test_values_out_of_range_are_rejected_by_name(name, value):
    with pytest.raises(UserError, match=name):
        resolved(**{name: value})


def test_muon_lr_needs_a_schedule():
    with pytest.raises(UserError, match="learning_rate is 0, but muon_lr is scaled by its schedule"):
        resolved(optimizer="muon", learning_rate=0.0, min_lr=0.0, muon_lr=0.02)
    resolved(optimizer="muon", learning_rate=0.0, min_lr=0.0)


def test_fp8_needs_bf16():
    with pytest.raises(UserError, match=r"fp8 requires bf16.*add --bf16"):
        resolved(fp8=True)
    assert resolved(fp8=True, bf16=True)["fp8"]
