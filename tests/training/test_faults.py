"""A run that was killed, stopped or out of disk space resumes to bitwise the same losses and weights.

`-m exhaustive` kills far more often: at random moments, and at every line of the code that writes a checkpoint.
"""

import contextlib
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from lmfast.errors import UserError
from lmfast.train import train
from lmfast.training import checkpoint as checkpoint_module
from lmfast.training import prefetch, saves
from lmfast.training.checkpoint import newest_checkpoint
from lmfast.training.run_folder import read_metrics
from tests.complete_runs import differ, weights
from tests.processes import wait_until
from tests.training.forked_runs import start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, limits file sizes, mounts tmpfs")


@contextlib.contextmanager
def ram_folder(otherwise: Path):
    """A directory in memory where possible: hundreds of checkpoints are synced, which a SIGKILL does not require."""
    if not os.access("/dev/shm", os.W_OK):
        yield otherwise
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
def tmp_path(tmp_path):
    with ram_folder(tmp_path) as folder:
        yield folder


TIMED = ("seconds", "tokens_per_second", "mfu", "recompiles")


def flags(corpus, folder, *more):
    return [*corpus.flags(), "--tokenizer", str(corpus.tokenizer), "--out-dir", str(folder), *map(str, more)]


def exact(folder):
    return [{k: v for k, v in line.items() if k not in TIMED} for line in read_metrics(folder)]


def assert_same(one, other):
    assert not differ(weights(one), weights(other))
    assert exact(one) == exact(other)


def finish(process):
    process.join(200)
    if process.is_alive():
        process.kill()
    assert process.exitcode is not None, "still running after 200 s"
    return process.exitcode


# ---- killed at random moments


def kill_until_done(argv, folder, log, kills, seed, threads=1, killer=signal.SIGKILL):
    """Starts a run `kills` times and kills it a random number of steps later, then lets it end. Returns what each hit
    interrupted."""
    random_moments, hits = random.Random(seed), []
    last = int(argv[len(argv) - argv[::-1].index("--max-iters")])

    def done() -> int:
        return max((line["step"] for line in read_metrics(folder)), default=0)

    while len(hits) < kills:
        before = done()
        target = before + random_moments.randint(1, max(1, (last - before) // (kills - len(hits) + 1)))
        process = start(argv, log, threads=threads)
        wait_until(lambda target=target: done() >= target, process.is_alive)
        time.sleep(random_moments.uniform(0, 0.05))
        os.kill(process.pid, killer)
        code = finish(process)
        assert code == (-killer if killer == signal.SIGKILL else 130), log.read_text()
        hits.append(_where(folder))
    assert finish(start(argv, log, threads=threads)) == 0, log.read_text()
    return hits


def _where(folder) -> str:
    checkpoints = folder / "checkpoints"
    if any(checkpoints.glob(".step_*.partial")) or any(
        not (path / "COMPLETE").exists() for path in checkpoints.glob("step_*")
    ):
        return "in a checkpoint"
    return "after one" if any(checkpoints.glob("step_*/COMPLETE")) else "before the first"


SOME = ("--max-iters", 60, "--checkpoint-interval", 6, "--eval-interval", 30, "--dropout", 0.1)
LONG = (*SOME, "--max-iters", 150, "--checkpoint-interval", 2, "--keep-checkpoints", 3)


def run_whole(corpus, folder, *more, threads=1):
    """Runs without interruption, in a forked process."""
    log = folder.parent / "whole.log"
    assert finish(start(flags(corpus, folder, *more), log, threads=threads)) == 0, log.read_text()


@pytest.fixture(scope="module")
def some_run(corpus, tmp_path_factory):
    """The folder of a run of SOME without interruption."""
    with ram_folder(tmp_path_factory.mktemp("some")) as folder:
        run_whole(corpus, folder / "whole", *SOME)
        yield folder / "whole"


@pytest.mark.ci
def test_killed_at_random_moments(corpus, some_run, tmp_path):
    argv = flags(corpus, tmp_path / "run", *SOME)
    kill_until_done(argv, tmp_path / "run", tmp_path / "log", kills=3, seed=1)
    assert_same(some_run, tmp_path / "run")


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("name", "more", "threads", "kills"),
    [
        ("plain", LONG, 1, 12),
        (
            "muon, accumulated",
            (*LONG, "--optimizer", "muon", "--batch-size", 2, "--grad-accumulation", 2),
            1,
            8,
        ),
        ("compiled, two threads", (*LONG, "--compile"), 2, 8),
    ],
)
def test_killed_at_many_random_moments(corpus, tmp_path, name, more, threads, kills):
    run_whole(corpus, tmp_path / "warm", *more, threads=threads)  # compiles everything once
    run_whole(corpus, tmp_path / "whole", *more, threads=threads)
    hits = kill_until_done(
        flags(corpus, tmp_path / "run", *more), tmp_path / "run", tmp_path / "log", kills, 2, threads
    )
    print(
        f"{name}: {len(hits)} kills,",
        *(f"{hits.count(where)} {where}" for where in sorted(set(hits))),
        sep=" ",
    )
    assert_same(tmp_path / "whole", tmp_path / "run")


# ---- killed at a line of the code that writes a checkpoint


def kill_at(event: int, step: int, counted: Path | None = None) -> None:
    """Ends this process by SIGKILL at the `event`-th line run in checkpoint.py while `step` is saved and pruned.

    With `counted`, nothing is killed and the number of lines is written there.
    """
    code = checkpoint_module.__file__
    seen = [0]

    def line(frame, what, argument):
        if what == "line":
            seen[0] += 1
            if counted is None and seen[0] == event:
                os.kill(os.getpid(), signal.SIGKILL)
        return line

    real = saves.save_whole

    def save(*arguments):
        progress = next(a for a in arguments if hasattr(a, "best_step"))
        if progress.step != step:
            return real(*arguments)
        sys.settrace(lambda frame, what, argument: line if frame.f_code.co_filename == code else None)
        try:
            return real(*arguments)
        finally:
            sys.settrace(None)
            if counted is not None:
                counted.write_text(str(seen[0]))

    saves.save_whole = save


SHORT = ("--max-iters", 6, "--checkpoint-interval", 2, "--eval-interval", 0, "--keep-checkpoints", 1)


@pytest.fixture(scope="module")
def short_run(corpus, tmp_path_factory):
    """(uninterrupted run, number of lines of checkpoint.py that a save executes)."""
    with ram_folder(tmp_path_factory.mktemp("short")) as folder:
        argv = flags(corpus, folder / "whole", *SHORT)
        setup = partial(kill_at, 0, 4, folder / "count")
        assert finish(start(argv, folder / "log", setup)) == 0, (folder / "log").read_text()
        yield folder / "whole", int((folder / "count").read_text())


def kill_while_saving(corpus, short_run, tmp_path, event):
    whole, _ = short_run
    folder = tmp_path / f"at_{event}"
    argv = flags(corpus, folder, *SHORT)
    assert finish(start(argv, tmp_path / "log", partial(kill_at, event, 4))) == -signal.SIGKILL
    newest = newest_checkpoint(folder / "checkpoints", report=pytest.fail)
    assert newest is not None and newest.step in (2, 4)
    assert finish(start(argv, tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    assert_same(whole, folder)
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step_00000006"]
    shutil.rmtree(folder)
    return newest.step


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_killed_while_a_checkpoint_is_written(corpus, short_run, tmp_path, share):
    kill_while_saving(corpus, short_run, tmp_path, int(share * short_run[1]))


@pytest.mark.exhaustive
def test_killed_at_every_line_that_writes_a_checkpoint(corpus, short_run, tmp_path):
    lines = short_run[1]
    assert lines > 40
    left = [kill_while_saving(corpus, short_run, tmp_path, event) for event in range(1, lines + 1)]
    print(
        f"killed at each of {lines} lines: {left.count(2)} times the old one was left, {left.count(4)} times the new"
    )
    assert left == sorted(left) and {2, 4} == set(left)


# ---- stopped by a signal


@pytest.mark.parametrize(("name", "step"), [("SIGTERM", 2), ("SIGINT", 20)])
def test_stops_on_request_with_a_checkpoint_and_resumes_exactly(corpus, some_run, tmp_path, name, step):
    folder, log = tmp_path / "run", tmp_path / "log"
    process = start(flags(corpus, folder, *SOME), log, setup=partial(hold_step, step, log))
    wait_until(lambda: log.exists() and "holding" in log.read_text(), process.is_alive)
    os.kill(process.pid, getattr(signal, name))
    assert finish(process) == 130, log.read_text()
    assert f"stopped at step {step} with a checkpoint; rerun the same command to resume" in log.read_text()
    assert newest_checkpoint(folder / "checkpoints").step == step
    train(flags(corpus, folder, *SOME))
    assert_same(some_run, folder)


def hold_step(step: int, log: Path) -> None:
    """Makes `step` wait until the run has noticed a signal."""
    from lmfast.training.objectives import NextToken

    real, calls = NextToken.loss, []

    def loss(self, model, *arguments):
        calls.append(model.training)
        if model.training and calls.count(True) == step:
            print("holding", flush=True)
            wait_until(lambda: "stopping after the current step" in log.read_text())
        return real(self, model, *arguments)

    NextToken.loss = loss


def test_a_second_ctrl_c_stops_at_once_and_keeps_the_older_checkpoints(corpus, tmp_path):
    folder, log = tmp_path / "run", tmp_path / "log"
    process = start(flags(corpus, folder, "--max-iters", 100_000), log, setup=endless_second_evaluation)
    wait_until(lambda: log.exists() and "endless" in log.read_text(), process.is_alive)
    os.kill(process.pid, signal.SIGINT)
    wait_until(lambda: "stopping after" in log.read_text(), process.is_alive)
    os.kill(process.pid, signal.SIGINT)
    assert finish(process) == 130 and "interrupted" in log.read_text()
    assert newest_checkpoint(folder / "checkpoints", report=pytest.fail) is not None


def endless_second_evaluation() -> None:
    from lmfast.training import evaluation

    real, calls = evaluation.evaluate, []

    def evaluate(*arguments):
        calls.append(1)
        if len(calls) == 2:
            print("endless", flush=True)
            time.sleep(600)
        return real(*arguments)

    evaluation.evaluate = evaluate


# ---- resumed with settings that may change


def test_logging_and_workers_may_change(corpus, tmp_path, monkeypatch):
    """Weights and every loss that both runs logged are equal to the bit."""
    more = ("--dropout", 0.1, "--lr-decay-iters", 12)
    assert train(flags(corpus, tmp_path / "whole", *more, "--max-iters", 12))
    changes = [
        ("--log-interval", 2, "--eval-interval", 0),
        ("--log-interval", 5, "--sample-interval", 2, "--tensorboard"),
        ("--log-interval", 1, "--eval-interval", 2, "--checkpoint-interval", 1, "--keep-checkpoints", 0),
    ]
    for stop, ahead, change in zip((3, 7, 12), (2, 1, 5), changes, strict=True):
        monkeypatch.setattr(prefetch, "AHEAD", ahead)
        assert train(flags(corpus, tmp_path / "parts", *more, "--max-iters", stop, *change))
    assert not differ(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    losses = {m["step"]: m["train_loss"] for m in exact(tmp_path / "whole")}
    logged = {m["step"]: m["train_loss"] for m in exact(tmp_path / "parts") if "train_loss" in m}
    assert sorted(logged) == [2, 3, 5, 7, 8, 9, 10, 11, 12]
    assert all(loss == losses[step] for step, loss in logged.items())


@pytest.mark.exhaustive
def test_compiled_with_two_threads_twice(corpus, tmp_path):
    for name in ("one", "two"):
        run_whole(corpus, tmp_path / name, *LONG, "--compile", threads=2)
    assert_same(tmp_path / "one", tmp_path / "two")


def test_the_split_of_a_step_may_change_in_the_middle(corpus, tmp_path):
    more = ("--lr-decay-iters", 9, "--batch-size", 4, "--eval-batches", 1)
    assert train(flags(corpus, tmp_path / "whole", *more, "--max-iters", 9))
    assert train(flags(corpus, tmp_path / "parts", *more, "--max-iters", 3))
    for stop, split in ((6, (2, 2)), (9, (1, 4))):
        change = ("--batch-size", split[0], "--grad-accumulation", split[1], "--max-iters", stop)
        assert train(flags(corpus, tmp_path / "parts", *more[:2], "--eval-batches", 1, *change))
    for a, b in zip(exact(tmp_path / "whole"), exact(tmp_path / "parts"), strict=True):
        for name in a:
            assert a[name] == pytest.approx(b[name], rel=1e-4), (a["step"], name)
    torch.testing.assert_close(weights(tmp_path / "whole"), weights(tmp_path / "parts"), rtol=1e-3, atol=5e-5)


def test_another_split_with_dropout_is_an_error(corpus, tmp_path):
    """Its dropout masks would differ."""
    more = ("--dropout", 0.1, "--lr-decay-iters", 6)
    assert train(flags(corpus, tmp_path / "run", *more, "--max-iters", 3))
    split = ("--batch-size", 2, "--grad-accumulation", 2)
    with pytest.raises(UserError, match=r"batch_size cannot change in a run with dropout"):
        train(flags(corpus, tmp_path / "run", *more, *split))


# ---- a full disk


@contextlib.contextmanager
def small_disk(path: Path, size: str):
    path.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True
    ).returncode:
        pytest.skip("mounting a tmpfs is not permitted")
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


def fill(folder: Path) -> Path:
    ballast = folder / "ballast"
    with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return ballast


def test_a_full_disk_does_not_end_the_run_nor_damage_the_old_checkpoint(
    corpus, tmp_path, monkeypatch, capsys
):
    """The disk is full from the save at step 6 until the save at step 9."""
    disk = tmp_path / "disk"
    assert train(flags(corpus, tmp_path / "whole", "--max-iters", 9))
    with small_disk(disk, "4m"):
        folder, real = disk / "run", saves.save_checkpoint

        def save(checkpoints, *arguments):
            step = arguments[-1]["step"]
            if step == 6:
                fill(disk)
            if step == 9:
                before = newest_checkpoint(folder / "checkpoints", report=pytest.fail)
                assert before.step == 3 and not list((folder / "checkpoints").glob(".step*"))
                (disk / "ballast").unlink()
            return real(checkpoints, *arguments)

        monkeypatch.setattr(saves, "save_checkpoint", save)
        assert train(flags(corpus, folder, "--max-iters", 9))
        out = capsys.readouterr().out
        assert (
            len(re.findall(r"checkpoint at step 6 could not be written \(.*No space left on device", out))
            == 1
        )
        assert_same(tmp_path / "whole", folder)
        assert [m["step"] for m in read_metrics(folder)] == list(range(1, 10))


def limit_files(step: int, until: int, size: int) -> None:
    """From the save at `step` to the one at `until` no file may grow beyond `size` bytes."""
    real, (soft, hard) = saves.save_checkpoint, resource.getrlimit(resource.RLIMIT_FSIZE)

    def save(checkpoints, *arguments):
        if arguments[-1]["step"] == step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        if arguments[-1]["step"] == until:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        return real(checkpoints, *arguments)

    saves.save_checkpoint = save


@pytest.mark.parametrize(
    "size", [20_000, 60_000]
)  # too small for the weights; too small for the optimizer state
def test_a_file_size_limit_does_not_end_the_run(corpus, tmp_path, size):
    folder, log = tmp_path / "run", tmp_path / "log"
    argv = flags(corpus, folder, "--max-iters", 9, "--eval-interval", 0, "--log-interval", 9)
    assert finish(start(argv, log, partial(limit_files, 6, 9, size))) == 0, log.read_text()
    text = log.read_text()
    assert text.count("checkpoint at step 6 could not be written") == 1 and "Traceback" not in text
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step_00000003", "step_00000009"]


def test_a_last_checkpoint_that_does_not_fit_is_an_error_and_the_older_one_resumes(corpus, tmp_path):
    folder, log = tmp_path / "run", tmp_path / "log"
    argv = flags(corpus, folder)
    assert finish(start(argv, log, partial(limit_files, 6, 0, 20_000))) == 2
    assert "error: step 6 could not be saved (see above); free some space" in log.read_text()
    assert newest_checkpoint(folder / "checkpoints", report=pytest.fail).step == 3
    assert train(argv)
    assert train(flags(corpus, tmp_path / "whole"))
    assert_same(tmp_path / "whole", folder)
