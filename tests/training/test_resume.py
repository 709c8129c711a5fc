"""A stopped run resumes as if it had not been stopped, and only with the settings of that run."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lmfast.errors import UserError
from lmfast.train import train
from lmfast.training.run_folder import read_metrics
from tests.complete_runs import differ, weights
from tests.processes import wait_until
from tests.training.forked_runs import start


def exact(folder):
    timed = ("seconds", "tokens_per_second", "mfu")
    return [{k: v for k, v in line.items() if k not in timed} for line in read_metrics(folder)]


def flags(corpus, folder, *more):
    return [*corpus.flags(), "--tokenizer", str(corpus.tokenizer), "--out-dir", str(folder), *more]


def test_resuming_gives_the_same_weights_and_losses(corpus, tmp_path):
    more = ("--dropout", "0.1", "--lr-decay-iters", "12")
    train(flags(corpus, tmp_path / "whole", *more, "--max-iters", "12"))
    for stop in (3, 7, 12):
        train(flags(corpus, tmp_path / "parts", *more, "--max-iters", str(stop)))
    assert not differ(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert [m["train_loss"] for m in exact(tmp_path / "whole")] == [
        m["train_loss"] for m in exact(tmp_path / "parts")
    ]
    assert all(
        b["seconds"] >= a["seconds"] for a, b in zip(*[read_metrics(tmp_path / "parts")[i:] for i in (0, 1)])
    )


def test_resuming_within_a_batch_ramp_is_exact(corpus, tmp_path):
    """Stopped at every step of the ramp and after it: 1, 1, 2, 2, 3, 3, 4, 4 passes of 2 rows."""
    more = ("--batch-size", "2", "--grad-accumulation", "4", "--batch-ramp-iters", "6")
    more += ("--dropout", "0.1", "--lr-decay-iters", "8", "--log-interval", "1")
    train(flags(corpus, tmp_path / "whole", *more, "--max-iters", "8"))
    for stop in range(1, 9):
        train(flags(corpus, tmp_path / "parts", *more, "--max-iters", str(stop)))
    assert not differ(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    known = [(m["tokens"], m["train_loss"]) for m in exact(tmp_path / "whole")]
    assert known == [(m["tokens"], m["train_loss"]) for m in exact(tmp_path / "parts")]
    assert [tokens for tokens, _ in known] == [2 * 16 * n for n in (1, 2, 4, 6, 9, 12, 16, 20)]
    with pytest.raises(
        UserError, match="batch_size cannot change in a run with a batch ramp; keep batch_size 2"
    ):
        train(flags(corpus, tmp_path / "parts", *more, "--batch-size", "4", "--grad-accumulation", "2"))
    with pytest.raises(UserError, match="batch_ramp_iters 6, which cannot change to 7"):
        train(flags(corpus, tmp_path / "parts", *more, "--batch-ramp-iters", "7"))


SLOW = ("--max-iters", "120", "--checkpoint-interval", "20", "--eval-interval", "60")


def test_a_stopped_command_resumes_exactly(corpus, tmp_path):
    """Killed, then stopped by Ctrl-C as a command in a shell; test_faults.py stops runs in every way."""
    train(flags(corpus, tmp_path / "whole", *SLOW))
    folder = tmp_path / "run"
    argv = flags(corpus, folder, *SLOW)

    def wait_for_step(step: int, alive: Callable[[], bool]) -> None:
        wait_until(lambda: any(line["step"] >= step for line in read_metrics(folder)), alive)

    killed = start(argv, tmp_path / "log")
    wait_for_step(22, killed.is_alive)
    killed.kill()
    killed.join()
    command = [sys.executable, "-m", "lmfast.train", *argv]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as stopped:
        wait_for_step(62, lambda: stopped.poll() is None)
        stopped.send_signal(signal.SIGINT)
        output = stopped.communicate()[0]
    assert stopped.returncode == 130, output
    assert "rerun the same command to resume" in output
    train(argv)
    assert not differ(weights(tmp_path / "whole"), weights(folder))
    assert exact(tmp_path / "whole") == exact(folder)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
def test_muon_resumes_exactly(corpus, tmp_path, schedule):
    more = ("--optimizer", "muon", "--schedule", schedule, "--lr-decay-iters", "6")
    train(flags(corpus, tmp_path / "whole", *more, "--max-iters", "6"))
    for stop in (2, 6):
        train(flags(corpus, tmp_path / "parts", *more, "--max-iters", str(stop)))
    assert not differ(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert (read_metrics(tmp_path / "parts")[-1]["learning_rate"] == 0.0) == (schedule != "cosine")


@pytest.mark.parametrize("position", ["learned", "sinusoidal"])
def test_absolute_positions_resume_exactly(corpus, tmp_path, position):
    more = ("--position", position, "--optimizer", "muon", "--document-mask", "--lr-decay-iters", "6")
    train(flags(corpus, tmp_path / "whole", *more, "--max-iters", "6"))
    for stop in (2, 6):
        train(flags(corpus, tmp_path / "parts", *more, "--max-iters", str(stop)))
    found = weights(tmp_path / "parts")
    assert not differ(weights(tmp_path / "whole"), found)
    assert [m["train_loss"] for m in exact(tmp_path / "whole")] == [
        m["train_loss"] for m in exact(tmp_path / "parts")
    ]
    assert ("position_embedding.weight" in found) == (position == "learned")


EVERYTHING = (
    "--sliding-window 5 --window-pattern SL --num-layers 3 --document-mask --qk-norm --value-embeddings --zero-init "
    "--logit-softcap 15 --z-loss 1e-4 --optimizer muon --muon-lr 2e-3 --schedule linear --grad-accumulation 2 "
    "--dropout 0.1 --context-length 32 --lr-decay-iters 5"
).split()


@pytest.mark.parametrize("precision", ["--bf16", "--fp16"])
def test_all_options_together_resume_exactly(corpus, tmp_path, monkeypatch, precision):
    monkeypatch.setattr("lmfast.training.run.device_peak", lambda *_: (1e9, "a guess"))
    more = (*EVERYTHING, precision)
    train(flags(corpus, tmp_path / "whole", *more, "--max-iters", "5"))
    for stop in (2, 5):
        train(flags(corpus, tmp_path / "parts", *more, "--max-iters", str(stop)))
    assert not differ(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    whole, parts = exact(tmp_path / "whole"), exact(tmp_path / "parts")
    assert [m["train_loss"] for m in whole] == [m["train_loss"] for m in parts] and len(whole) == 5
    assert whole[-1]["val_loss"] == parts[-1]["val_loss"] < whole[0]["train_loss"]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_fp16_resumes_exactly_with_its_loss_scale(corpus, tmp_path, monkeypatch, optimizer):
    monkeypatch.setattr("lmfast.training.loss_scale.GROWTH_INTERVAL", 2)
    monkeypatch.setattr(
        "lmfast.training.run.device_peak", lambda *_: (1e9, "a guess")
    )  # seconds of fp16 products
    more = ("--optimizer", optimizer, "--fp16", "--lr-decay-iters", "9", "--eval-interval", "0")
    train(flags(corpus, tmp_path / "whole", *more, "--max-iters", "9"))
    for stop in (4, 9):
        train(flags(corpus, tmp_path / "parts", *more, "--max-iters", str(stop)))
    assert not differ(weights(tmp_path / "whole", 9), weights(tmp_path / "parts", 9))
    scales = [m["loss_scale"] for m in exact(tmp_path / "whole")]
    assert len(set(scales)) > 2 and exact(tmp_path / "parts")[-1] == exact(tmp_path / "whole")[-1]
    assert [m["loss_scale"] for m in exact(tmp_path / "parts")] == scales


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (["--lr", "0.5"], "learning_rate"),
        (["--d-model", "32"], "d_model"),
        (["--seed", "3"], "seed"),
        (["--batch-size", "8"], "batch_size"),
        (["--bf16"], "bf16"),
        (["--fp16"], "fp16"),
        (["--context-length", "8"], "context_length"),
    ],
)
def test_a_changed_setting_is_rejected_by_name(corpus, trained_run, change, name):
    with pytest.raises(UserError, match=name):
        train(flags(corpus, trained_run, *change, "--max-iters", "9"))


def test_a_finished_run_is_reported(corpus, trained_run, capsys):
    assert train(flags(corpus, trained_run))
    assert "already finished at step 6 of 6" in capsys.readouterr().out


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
def test_an_extended_run_trains_at_the_rates_of_the_new_schedule(corpus, tmp_path, capsys, schedule):
    common = ("--schedule", schedule, "--decay-fraction", "0.5")
    train(flags(corpus, tmp_path / "run", *common, "--max-iters", "4"))
    train(["--resume", "--out-dir", str(tmp_path / "run"), "--max-iters", "8"])
    train(flags(corpus, tmp_path / "whole", *common, "--max-iters", "8"))
    rates = [[m["learning_rate"] for m in read_metrics(tmp_path / name)] for name in ("run", "whole")]
    assert rates[0][4:] == rates[1][4:] and rates[0][4] > rates[0][3] and len(rates[0]) == 8
    assert (
        f"max_iters 4 → 8, lr_decay_iters 4 → 8: the {schedule} schedule ends at step 8; "
        f"learning rate {rates[0][4]:.3g} at step 5 (it was {rates[0][3]:.3g} at step 4); --lr-decay-iters 4 keeps"
    ) in capsys.readouterr().out


def test_the_end_of_a_schedule_can_be_kept_and_moved(corpus, tmp_path, capsys):
    folder = tmp_path / "run"
    train(flags(corpus, folder, "--schedule", "linear", "--max-iters", "4"))
    resume = ["--resume", "--out-dir", str(folder), "--max-iters"]
    train([*resume, "5", "--lr-decay-iters", "4"])
    assert (
        "max_iters 4 → 5: the linear schedule ends at step 4; learning rate 0 at" in capsys.readouterr().out
    )
    train([*resume, "6"])  # no longer the run's last step, so it is kept
    train([*resume, "7", "--lr-decay-iters", "8"])
    assert "lr_decay_iters 4 → 8" in capsys.readouterr().out
    rates = [m["learning_rate"] for m in read_metrics(folder)]
    assert rates[3:6] == [0, 0, 0] and rates[6] == pytest.approx(1e-2 / 6)


def test_a_run_that_the_clock_ended_can_be_extended(corpus, tmp_path, capsys, ticking_clock):
    at = flags(corpus, tmp_path).index("--max-iters")
    timed = flags(corpus, tmp_path / "run", "--schedule", "linear", "--eval-interval", "0")
    del timed[at : at + 2]
    train([*timed, "--max-minutes", "1e-6"])
    last = read_metrics(tmp_path / "run")[-1]
    capsys.readouterr()
    train(["--resume", "--out-dir", str(tmp_path / "run"), "--max-minutes", "60", "--max-iters", "4"])
    assert "max_minutes 1e-06 → 60" in capsys.readouterr().out
    after = read_metrics(tmp_path / "run")[-1]
    assert last["learning_rate"] == 0 and after["step"] == 4 > last["step"]


def test_resume_takes_the_newest_run(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = [*corpus.flags(), "--tokenizer", str(corpus.tokenizer), "--lr-decay-iters", "6"]
    train([*common, "--out-dir", "runs/a", "--max-iters", "3"])
    train([*common, "--out-dir", "runs/b", "--max-iters", "3"])
    os.utime("runs/a/config.yaml", (time.time() + 5, time.time() + 5))
    shutil.copytree("runs/b", "runs/talk")  # a newer run of another command
    Path("runs/talk/run.json").write_text('{"stage": "sft"}')
    os.utime("runs/talk/config.yaml", (time.time() + 9, time.time() + 9))
    train(["--resume", "--max-iters", "6"])
    assert read_metrics(tmp_path / "runs/a")[-1]["step"] == 6
    assert read_metrics(tmp_path / "runs/b")[-1]["step"] == 3


def test_metrics_after_the_checkpoint_are_rewritten(corpus, tmp_path):
    folder = tmp_path / "run"
    train(flags(corpus, folder, "--max-iters", "3", "--lr-decay-iters", "6"))
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "train_loss": 99.0}\n{"step": 5, "tra')
    train(flags(corpus, folder, "--max-iters", "6", "--lr-decay-iters", "6"))
    assert [m["step"] for m in read_metrics(folder)] == [1, 2, 3, 4, 5, 6]
    assert all(m["train_loss"] < 90 for m in read_metrics(folder))


def test_a_damaged_newest_checkpoint_is_skipped(corpus, tmp_path, capsys):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    for out in (whole, folder):
        train(flags(corpus, out))
    (folder / "checkpoints/step_00000006/model.safetensors").write_bytes(b"x")
    train(flags(corpus, folder))
    assert "using the previous checkpoint" in capsys.readouterr().err
    assert not differ(weights(whole), weights(folder))


def test_mfu_keeps_its_denominator_on_the_same_device(corpus, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"

    def shares_of(iters: int, flops: float, source: str) -> list[str]:
        """The lines that name a rate, for a run to step `iters`."""
        monkeypatch.setattr("lmfast.training.run.device_peak", lambda *_: (flops, source))
        train(flags(corpus, folder, "--max-iters", str(iters)))
        return [line for line in capsys.readouterr().out.splitlines() if "TFLOP/s" in line]

    assert "against 5 TFLOP/s (a measurement)" in shares_of(2, 5e12, "a measurement")[0]
    (line,) = shares_of(4, 7e12, "a measurement")
    assert "against 5 TFLOP/s (a measurement)" in line
    assert shares_of(6, 7e12, "another kind")[-1] == (
        "MFU is now relative to 7 TFLOP/s (another kind), previously to 5 TFLOP/s (a measurement)"
    )
