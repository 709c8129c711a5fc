"""A rank of a sharded run is killed at a random moment: nothing is lost, and any number of ranks resumes the same run."""

import random
import sys

import pytest

from lmfast.train import train
from lmfast.training.checkpoint import newest_checkpoint
from lmfast.training.run_folder import read_metrics
from tests.complete_runs import weights
from tests.training.forked_runs import close, finish, start_ranks
from tests.training.parallel.killing import kill_rank

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks processes that share the loopback")

LAST = 40


def flags(corpus, folder, *more):
    base = [
        *corpus.flags(),
        "--tokenizer",
        str(corpus.tokenizer),
        "--out-dir",
        str(folder),
        "--eval-interval",
        "0",
    ]
    return [
        *base,
        "--lr-decay-iters",
        "10",
        "--min-lr",
        "1e-3",
        "--checkpoint-interval",
        "1",
        *map(str, more),
    ]


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    """A run of one process that kept the checkpoint of every step."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train(flags(corpus, folder, "--max-iters", LAST, "--keep-checkpoints", 0))
    return folder


@pytest.mark.parametrize(
    "moment", [0, *(pytest.param(number, marks=pytest.mark.ci) for number in range(1, 10))]
)
def test_nothing_is_lost(corpus, whole, tmp_path, moment):
    chosen = random.Random(190 + moment)
    number, again = chosen.choice([2, 4]), (1, 2, 4)[moment % 3]
    victim, step, delay = chosen.randrange(number), chosen.randrange(2, 9), chosen.uniform(0, 0.1)
    folder = tmp_path / "run"
    argv = flags(corpus, folder, "--parallel", "fsdp", "--max-iters")
    texts = kill_rank([*argv, "100000"], folder, number, victim, step, delay)
    lowest = min(rank for rank in range(number) if rank != victim)
    assert f"error: process {victim + 1} of {number} (rank {victim}) exited early" in texts[lowest]

    logged = read_metrics(folder)[-1]["step"]
    checkpoint = newest_checkpoint(folder / "checkpoints", report=pytest.fail)
    # A step is logged before its checkpoint begins, which waits for the previous one to be complete.
    assert checkpoint.step >= logged - 2
    end = checkpoint.step + 3
    assert end <= LAST
    if again == 1:
        assert train([*argv, str(end)])
    else:
        finish(start_ranks([*argv, str(end)], tmp_path / "log", again), tmp_path / "log", (0,) * again)
    assert [m["step"] for m in read_metrics(folder)] == list(range(1, end + 1))
    close(weights(folder, end), weights(whole, end))
    partial = [path.name for path in (folder / "checkpoints").iterdir() if path.name.startswith(".")]
    assert not partial
