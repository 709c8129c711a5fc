"""A run whose layers are split over tensor ranks trains the model that one process trains."""

import sys

import pytest
import torch

from lmfast.train import train
from lmfast.training.run_folder import read_metrics
from tests.complete_runs import weights
from tests.training.forked_runs import close, finish, start_ranks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks processes that share the loopback")


def flags(corpus, folder, *more):
    return [*corpus.flags(), "--tokenizer", str(corpus.tokenizer), "--out-dir", str(folder), *map(str, more)]


def on_ranks(corpus, folder, number, *more, codes=None, setup=None):
    """The output of `number` ranks."""
    log = folder.with_suffix(".log")
    started = start_ranks(flags(corpus, folder, *more), log, number, setup)
    return finish(started, log, codes or (0,) * number)


def assert_equal_metrics(one, other):
    for a, b in zip(read_metrics(one), read_metrics(other), strict=True):
        for name in a.keys() - {"seconds", "tokens_per_second", "mfu"}:
            assert a[name] == pytest.approx(b[name], rel=1e-4), name


@pytest.mark.parametrize(("number", "optimizer"), [(2, "adamw"), (4, "adamw"), (2, "muon")])
def test_ranks_equal_one(corpus, tmp_path, number, optimizer):
    """With two and with four ranks, the latter as two data ranks. Dropout only with one data rank: masks depend on it."""
    more = ["--grad-accumulation", 2, "--max-iters", 20, "--eval-interval", 10, "--sample-interval", 10]
    more += ["--optimizer", optimizer, *(["--dropout", 0.1] if number == 2 else [])]
    one, split = tmp_path / "one", tmp_path / "split"
    train(flags(corpus, one, *more))
    on_ranks(corpus, split, number, *more, "--tensor-parallel", 2)
    if optimizer == "adamw":
        close(weights(one), weights(split))
    else:  # Muon rounds updates to bf16 before it orthogonalises them: a rounding error there is 2**-8 of an update
        torch.testing.assert_close(weights(one), weights(split), rtol=0, atol=1e-3)
    assert_equal_metrics(one, split)
