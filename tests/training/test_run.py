"""Edge cases of a run: failed saves, signals. (Complete runs: tests/test_train.py.)"""

import dataclasses
import shutil
import signal

import pytest
import torch

from lmfast.model.accounting import training_flops_per_token
from lmfast.settings import TrainSettings, replace_flat
from lmfast.training.checkpoint import save_checkpoint
from lmfast.training.parallel.ranks import SINGLE_PROCESS, Ranks
from lmfast.training.resolve import resolve
from lmfast.training.run import make_plan
from lmfast.training.run_messages import introduction
from lmfast.training.run_plan import Peak, Progress
from lmfast.training.saves import save_whole
from lmfast.training.stop_signals import StopSignals
from lmfast.training.task import Rows
from lmfast_kernels import cpu_build


def test_a_full_disk_keeps_the_run_alive_and_the_old_checkpoint_intact(tmp_path, monkeypatch):
    messages = []
    sinks = type("Sinks", (), {"message": staticmethod(messages.append), "sync": lambda self: None})()
    save_checkpoint(tmp_path / "checkpoints", {"w": torch.ones(3)}, {}, Progress(step=1).as_dict())

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lmfast.training.saves.save_checkpoint", full)
    save_whole(tmp_path, {"w": torch.ones(3)}, {}, Progress(step=2), 1, sinks)
    assert (
        len(messages) == 1 and "step 2 could not be written" in messages[0] and "No space left" in messages[0]
    )
    assert messages[0].endswith("the one at step 1 is intact")
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_00000001"]
    shutil.rmtree(tmp_path / "checkpoints")
    save_whole(tmp_path, {"w": torch.ones(3)}, {}, Progress(step=2), 1, sinks)
    assert messages[1].endswith("there is no earlier one")


def test_flops_are_those_of_the_rows_and_not_of_the_longest_context():
    settings = replace_flat(TrainSettings(), {"max_iters": 1, "context_length": 512})
    settings = resolve(settings, 300)
    for rows, length in ((Rows(512), 512), (Rows(248, per_sequence=2), 248), (Rows(512, 1, 31.5), 31.5)):
        plan = make_plan(settings, rows, 1.0)
        assert plan.flops_per_token == training_flops_per_token(settings.model, length)


def test_of_several_ranks_one_that_fails_outlives_torchruns_signal():
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(RuntimeError), StopSignals(second_interrupts=False):
            raise RuntimeError("a collective failed")
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_second_ctrl_c_interrupts_at_once(capfd):
    with pytest.raises(KeyboardInterrupt), StopSignals() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.seen
        assert (
            capfd.readouterr().err.strip()
            == "stopping after the current step; press Ctrl-C again to stop at once"
        )
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_settings_survive_the_round_trip_through_progress():
    progress = Progress(step=3, tokens=9, seconds=1.5, best_val_loss=2.0, best_step=2)
    assert Progress(**progress.as_dict()) == progress
    assert {f.name for f in dataclasses.fields(Progress)} == progress.as_dict().keys()


@pytest.mark.parametrize(
    ("dtype", "reason", "printed"), [("fp32", "", False), ("fp32", "no g++", True), ("bf16", "no g++", False)]
)
def test_training_without_our_kernels_reports_why_once(tmp_path, monkeypatch, dtype, reason, printed):
    monkeypatch.setattr(cpu_build, "why_not", lambda name: reason)
    settings = replace_flat(TrainSettings(), {"device": "cpu", "bf16": dtype == "bf16", "max_iters": 1})
    settings = resolve(settings, 300)
    lines = introduction(
        tmp_path, settings, Rows(8), torch.device("cpu"), Peak(1e12, "a guess"), SINGLE_PROCESS
    )
    slower = "training uses PyTorch's operators, 1.3 to 2.6 times slower than lmfast's own: no g++"
    assert lines.count(slower) == printed


def test_one_process_says_that_it_divides_nothing(tmp_path):
    settings = resolve(replace_flat(TrainSettings(), {"device": "cpu", "parallel": "fsdp"}), 300)
    words = tmp_path, settings, Rows(8), torch.device("cpu"), Peak(1e12, "a guess")
    line = "parallel fsdp: one process divides nothing; start several with torchrun"
    assert line in introduction(*words, SINGLE_PROCESS) and line not in introduction(*words, Ranks(0, 2))
