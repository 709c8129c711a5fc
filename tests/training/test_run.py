"""From settings to a plan: what is derived, and what is refused. (Whole runs are in tests/test_train.py.)"""

import dataclasses
import signal

import pytest
import torch

from lmfast.errors import UserError
from lmfast.settings import TrainSettings, replace_flat, to_flat
from lmfast.training.checkpoint import save_checkpoint
from lmfast.training.loop import Progress
from lmfast.training.run import _save, _StopSignals, resolve


def resolved(vocab_size=300, **values):
    return to_flat(resolve(replace_flat(TrainSettings(), values), vocab_size))


def test_the_tokenizer_gives_the_vocabulary_and_a_larger_one_may_be_asked_for():
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
def test_values_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(UserError, match=name):
        resolved(**{name: value})


def test_a_full_disk_leaves_the_run_alive_and_the_old_checkpoint_whole(tmp_path, monkeypatch):
    class Model:
        def own_tensors(self):
            return {"w": torch.ones(3)}

        def named_parameters(self):
            return []

    class Optimizer:
        state: dict = {}  # noqa: RUF012 - never written

    messages = []
    sinks = type("Sinks", (), {"message": staticmethod(messages.append), "sync": lambda self: None})()
    save_checkpoint(tmp_path / "checkpoints", {"w": torch.ones(3)}, {}, Progress(step=1).as_dict())

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lmfast.training.run.save_checkpoint", full)
    _save(tmp_path, Model(), Optimizer(), Progress(step=2), 1, sinks)
    assert (
        len(messages) == 1 and "step 2 could not be written" in messages[0] and "No space left" in messages[0]
    )
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_00000001"]


def test_a_second_ctrl_c_interrupts_at_once():
    # A process started in the background finds SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), _StopSignals() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.seen
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_settings_survive_the_round_trip_through_progress():
    progress = Progress(step=3, tokens=9, seconds=1.5, best_val_loss=2.0, best_step=2)
    assert Progress(**progress.as_dict()) == progress
    assert {f.name for f in dataclasses.fields(Progress)} == progress.as_dict().keys()
