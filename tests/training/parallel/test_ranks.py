"""Two processes train one model like a single process; if either ends, the run can be resumed."""

import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from lmfast.errors import UserError
from lmfast.train import train
from lmfast.training import loss_scale
from lmfast.training.checkpoint import newest_checkpoint
from lmfast.training.parallel.ranks import SINGLE_PROCESS, Ranks, _reported_to_torchrun, joined_ranks
from lmfast.training.run_folder import read_metrics
from tests.complete_runs import weights
from tests.processes import wait_until
from tests.training.forked_runs import close, finish, start_ranks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks processes that share the loopback")


def flags(corpus, folder, *more):
    return [*corpus.flags(), "--tokenizer", str(corpus.tokenizer), "--out-dir", str(folder), *more]


def test_two_ranks_equal_one_and_only_the_first_writes(corpus, tmp_path):
    """Accumulation with a batch ramp, evaluation, samples; then resumed by one rank, and vice versa."""
    more = (
        "--grad-accumulation",
        "2",
        "--batch-ramp-iters",
        "7",
        "--sample-interval",
        "6",
        "--lr-decay-iters",
        "12",
    )
    one, two = tmp_path / "one", tmp_path / "two"
    train(flags(corpus, one, *more))
    both = start_ranks(flags(corpus, two, *more), tmp_path / "log")
    texts = finish(both, tmp_path / "log")
    assert "2 × " in texts[0] and "sample at step 6" in texts[0] and texts[1] == ""
    close(weights(one), weights(two))
    for a, b in zip(read_metrics(one), read_metrics(two), strict=True):
        assert a.keys() >= {"train_loss", "grad_norm"}
        for name in a.keys() - {"seconds", "tokens_per_second", "mfu"}:
            assert a[name] == pytest.approx(b[name], rel=1e-4), name
    train(flags(corpus, two, *more, "--max-iters", "9"))
    finish(start_ranks(flags(corpus, one, *more, "--max-iters", "9"), tmp_path / "log2"), tmp_path / "log2")
    close(weights(one), weights(two))


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_ranks_train_experts_like_one(corpus, tmp_path, kind):
    """Without the load-balancing term, which each rank computes from its own tokens; its metrics are of all ranks."""
    more = ("--num-experts", "4", "--load-balance", "0", "--grad-accumulation", "2", "--log-interval", "1")
    train(flags(corpus, tmp_path / "one", *more))
    both = start_ranks(flags(corpus, tmp_path / "two", *more, "--parallel", kind), tmp_path / "log")
    finish(both, tmp_path / "log")
    close(weights(tmp_path / "one"), weights(tmp_path / "two"))
    for a, b in zip(read_metrics(tmp_path / "one"), read_metrics(tmp_path / "two"), strict=True):
        for name in ("train_loss", "expert_load_max", "expert_load_min"):
            assert a[name] == pytest.approx(b[name], rel=2e-2)


def begin_too_high():
    loss_scale.INITIAL = 2.0**28


@pytest.mark.parametrize(("setup", "overflows"), [(begin_too_high, 4), (None, 0)])
def test_fp16_ranks_keep_one_loss_scale(corpus, tmp_path, setup, overflows):
    """An overflow on either rank is skipped by both: scales and weights equal those of one process."""
    more = ("--fp16", "--eval-interval", "0", "--grad-accumulation", "2", "--max-iters", "4", "--lr", "1e-3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_scale, "INITIAL", 2.0**28 if setup else loss_scale.INITIAL)
        train(flags(corpus, tmp_path / "one", *more))
    finish(
        start_ranks(flags(corpus, tmp_path / "two", *more), tmp_path / "log", setup=setup), tmp_path / "log"
    )
    one, two = (read_metrics(tmp_path / name) for name in ("one", "two"))
    for m, n in zip(one, two, strict=True):
        assert (m["loss_scale"], m["overflows"]) == (n["loss_scale"], n["overflows"])
    assert one[-1]["overflows"] == overflows
    torch.testing.assert_close(weights(tmp_path / "one"), weights(tmp_path / "two"), rtol=1e-2, atol=1e-3)


@pytest.mark.exhaustive  # minutes of Inductor for each rank
def test_compiled_ranks_equal_one_uncompiled_rank(corpus, tmp_path):
    from lmfast.model.device import compile_blocker

    if reason := compile_blocker(torch.device("cpu")):
        pytest.skip(reason)
    more = ("--grad-accumulation", "2", "--num-layers", "1", "--max-iters", "3", "--eval-interval", "0")
    train(flags(corpus, tmp_path / "one", *more))
    both = start_ranks(flags(corpus, tmp_path / "two", *more, "--compile"), tmp_path / "log")
    assert "without torch.compile" not in finish(both, tmp_path / "log")[0]
    close(weights(tmp_path / "one"), weights(tmp_path / "two"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_rank_stops_both_with_a_checkpoint(corpus, tmp_path, number):
    both = start_ranks(flags(corpus, tmp_path / "run", "--max-iters", "100000"), tmp_path / "log")
    wait_until(
        lambda: any(m["step"] >= 5 for m in read_metrics(tmp_path / "run")),
        lambda: all(process.is_alive() for process in both),
    )
    os.kill(both[1].pid, number)
    texts = finish(both, tmp_path / "log", (130, 130))
    step = int(re.search(r"stopped at step (\d+) with a checkpoint", texts[0])[1])
    assert weights(tmp_path / "run", step) and read_metrics(tmp_path / "run")[-1]["step"] == step


@pytest.mark.ci
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_run_of_torchrun_and_one_process_resumes(corpus, tmp_path, victim):
    folder, more = tmp_path / "run", ("--lr-decay-iters", "6", "--eval-interval", "0", "--max-iters")
    endless = flags(corpus, folder, *more, "100000")
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "-m",
        "lmfast.train",
        *endless,
    ]
    run = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_until(
            lambda: list(folder.glob("checkpoints/step_*/COMPLETE")), lambda: run.poll() is None, seconds=240
        )
        children = subprocess.run(
            ["pgrep", "-P", str(run.pid)], capture_output=True, text=True
        ).stdout.split()
        os.kill(int(children[victim]), signal.SIGKILL)
        output = run.communicate(timeout=60)[0]
    finally:
        run.kill()
    assert run.returncode != 0
    assert f"error: process {victim + 1} of 2 (rank {victim}) exited early; rerun the same command" in output
    end = str(newest_checkpoint(folder / "checkpoints").step + 3)
    train(flags(corpus, folder, *more, end))
    train(flags(corpus, tmp_path / "whole", *more, end))
    close(weights(folder), weights(tmp_path / "whole"))


def say_before_joining():
    from lmfast.training.parallel import ranks

    real = ranks._join

    def join():
        print("waiting", flush=True)
        return real()

    ranks._join = join


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_rank_that_waits_for_the_others_can_be_stopped(corpus, tmp_path, number):
    (waiting,) = start_ranks(
        flags(corpus, tmp_path / "run"), tmp_path / "log", setup=say_before_joining, only=[1]
    )
    log = tmp_path / "log.1"
    wait_until(lambda: log.exists() and "waiting" in log.read_text(), waiting.is_alive)
    os.kill(waiting.pid, number)
    waiting.join(20)
    assert waiting.exitcode == -number


def kill_the_first_attempt(step_to_kill):
    from lmfast.training.step import Stepper

    real = Stepper.take

    def take(self, step, rows, learning_rate):
        first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if first and step == step_to_kill and self.ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, step, rows, learning_rate)

    Stepper.take = take


@pytest.mark.ci
def test_torchrun_restarts_a_run_that_lost_a_rank(corpus, tmp_path):
    (tmp_path / "dying.py").write_text(
        "from tests.training.parallel.test_ranks import kill_the_first_attempt\n"
        "from lmfast.train import main\n"
        "kill_the_first_attempt(8)\nmain()\n"
    )
    more = ("--parallel", "fsdp", "--checkpoint-interval", "3", "--max-iters", "9", "--eval-interval", "0")
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1"]
    words += [str(tmp_path / "dying.py"), *flags(corpus, tmp_path / "run", *more)]
    root = str(Path(__file__).resolve().parents[3])
    env = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=env, check=False)
    assert done.returncode == 0, done.stderr
    # The checkpoint of step 3 is complete before that of step 6 begins.
    assert re.search(r"resuming after step [36]\n", done.stdout)
    train(flags(corpus, tmp_path / "whole", *more[2:]))
    close(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_a_run_with_dropout_keeps_its_number_of_ranks(corpus, tmp_path):
    argv = flags(corpus, tmp_path / "run", "--dropout", "0.1")
    finish(start_ranks(argv, tmp_path / "log"), tmp_path / "log")
    with pytest.raises(UserError, match=r"dropout masks depend on the number of processes .* was 2"):
        train([*argv, "--max-iters", "9"])


def fail_to_sample():
    from lmfast.training import pretraining

    def sampler(*_):
        def sample(model, step):
            raise UserError("samples: no luck")

        return sample

    pretraining._sampler = sampler


@pytest.mark.parametrize(
    "how",
    [["--parallel", "ddp"], ["--parallel", "fsdp"], ["--tensor-parallel", "2"]],
    ids=lambda how: how[-1],
)
def test_an_error_while_sampling_is_printed_once(corpus, tmp_path, how):
    argv = flags(corpus, tmp_path / "run", *how, "--sample-interval", "3", "--vocab-size", "300")
    texts = finish(start_ranks(argv, tmp_path / "log", setup=fail_to_sample), tmp_path / "log", (2, 2))
    assert "error: samples: no luck" in texts[0] and texts[1] == ""


def spoil(rank, steps):
    """Makes the loss of `rank` alone NaN in the given steps."""
    from lmfast.training.objectives import NextToken

    real, calls = NextToken.loss, []

    def loss(self, model, inputs, targets):
        if model.training:
            calls.append(1)
        bad = model.training and len(calls) in steps and os.environ["RANK"] == str(rank)
        return real(self, model, inputs, targets) * (float("nan") if bad else 1.0)

    NextToken.loss = loss


def test_a_loss_that_is_not_finite_on_one_rank_is_skipped_on_all(corpus, tmp_path):
    both = start_ranks(flags(corpus, tmp_path / "run"), tmp_path / "log", setup=partial(spoil, 1, {2, 4}))
    text = finish(both, tmp_path / "log")[0]
    assert text.count("1 step(s) skipped: step 2 (epoch 0, rows from tokens") == 1
    assert text.count("1 step(s) skipped: step 4 (") == 1
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())
    skipped = [m["step"] for m in read_metrics(tmp_path / "run") if "skipped_steps" in m]
    assert skipped == [2, 4]


def test_an_error_on_every_rank_is_reported_once(corpus, tmp_path):
    argv = flags(corpus, tmp_path / "run", "--batch-size", "3")
    texts = finish(start_ranks(argv, tmp_path / "log"), tmp_path / "log", (2, 2))
    assert "batch_size 3 is not divisible by the 2 processes" in texts[0] and texts[1] == ""
    texts = finish(start_ranks([*argv, "--lr", "-1"], tmp_path / "log2"), tmp_path / "log2", (2, 2))
    assert "learning_rate is -1" in texts[0] and texts[1] == ""
    assert not (tmp_path / "run").exists()


def test_shares_are_whole_and_in_order():
    rows = np.arange(8)
    shares = [Ranks(rank, 4).share(rows) for rank in range(4)]
    assert np.array_equal(np.concatenate(shares), rows) and {len(share) for share in shares} == {2}
    assert SINGLE_PROCESS.share(rows) is not None and len(SINGLE_PROCESS.share(rows)) == 8


def test_a_single_process_needs_no_communication():
    assert SINGLE_PROCESS.any(True) and not SINGLE_PROCESS.any(False)
    assert (
        SINGLE_PROCESS.sum(torch.tensor(3.0)) == 3
        and SINGLE_PROCESS.from_first(lambda: 7) == SINGLE_PROCESS.first_then_rest(lambda: 7) == 7
    )
    with pytest.raises(UserError, match="no luck"):
        SINGLE_PROCESS.fail("no luck")


def test_unsupported_devices(monkeypatch):
    with pytest.raises(UserError, match="MPS supports only one process"):
        Ranks(0, 2).use_device(torch.device("mps"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        UserError, match="process 2 has no device, because this machine has 1; use --nproc-per-node=1"
    ):
        Ranks(1, 2, local_rank=1).use_device(torch.device("cuda"))
    monkeypatch.setattr(dist, "is_nccl_available", lambda: False)
    with pytest.raises(UserError, match="has no NCCL, which several processes with CUDA need; start without"):
        Ranks(0, 2).use_device(torch.device("cuda"))


def test_a_process_group_that_cannot_be_joined_is_one_line(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match=r"cannot join the other processes \(.*RANK"), joined_ranks():
        pass
    monkeypatch.setattr(dist, "is_gloo_available", lambda: False)
    with pytest.raises(UserError, match="this build of PyTorch has no gloo"), joined_ranks():
        pass


def test_several_flags_are_agreed_on_at_once(monkeypatch):
    def other_rank(tensor, op):
        tensor.copy_(torch.maximum(tensor, torch.tensor([0, 1, 0])))

    monkeypatch.setattr(dist, "all_reduce", other_rank)
    assert Ranks(0, 2).any_of(True, False, False) == (True, True, False)
    assert SINGLE_PROCESS.any_of(True, False) == (True, False)


def test_torchruns_report_has_our_line(tmp_path, monkeypatch):
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    with pytest.raises(UserError), _reported_to_torchrun():
        raise UserError("x.npy: no such token file")
    failures = {
        rank: ProcessFailure(rank, 1, 2, str(tmp_path / f"{name}.json"))
        for rank, name in enumerate(("error", "none"))
    }
    report = str(ChildFailedError("lmfast.train", failures))
    assert "traceback : error: x.npy: no such token file" in report.splitlines()[-2]
