"""Sharded ranks train the model that one process trains."""

import sys

import pytest

from lmfast.train import train
from lmfast.training.run_folder import read_metrics
from tests.complete_runs import weights
from tests.training.forked_runs import close, finish, start_ranks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks processes that share the loopback")


def flags(corpus, folder, *more):
    return [*corpus.flags(), "--tokenizer", str(corpus.tokenizer), "--out-dir", str(folder), *map(str, more)]


@pytest.mark.parametrize("number", [2, 4])
def test_ranks_equal_one(corpus, tmp_path, number):
    more = (
        "--grad-accumulation",
        2,
        "--max-iters",
        20,
        "--eval-interval",
        10,
        "--sample-interval",
        10,
        "--parallel",
        "fsdp",
    )
    one, two = tmp_path / "one", tmp_path / "two"
    train(flags(corpus, one, *more))
    finish(start_ranks(flags(corpus, two, *more), tmp_path / "log", number), tmp_path / "log", (0,) * number)
    close(weights(one), weights(two))
    for a, b in zip(read_metrics(one), read_metrics(two), strict=True):
        for name in a.keys() - {"seconds", "tokens_per_second", "mfu"}:
            assert a[name] == pytest.approx(b[name], rel=1e-4), name
