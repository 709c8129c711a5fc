"""Blocks with and without a checkpoint are distinguished; the median decides."""

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch.distributed as dist

from bench import checkpoint_overhead
from bench.checkpoint_overhead import INTERVAL, Overhead, report, saves_in
from lmfast.training.checkpoint import newest_checkpoint
from lmfast.training.run_plan import Progress
from tests.training.forked_runs import on_ranks


def test_blocks_alternate_in_both_orders():
    assert [saves_in(block) for block in range(8)] == [True, False, False, True, True, False, False, True]


def test_only_complete_blocks_after_the_warm_up_count():
    overhead = Overhead(SimpleNamespace(), Progress())
    overhead.begins = {1: 0.0, 2: 10.0, 3: 30.0, 4: 60.0}
    assert overhead.seconds() == {True: [30 / INTERVAL], False: [20 / INTERVAL]}


def test_the_ratio_is_of_neighbouring_blocks():
    line, found = report({True: [1.2, 2.4, 1.1], False: [1.0, 2.0, 1.1]})
    assert found.median == pytest.approx(1.2) and "relative 1.20" in line and "limit 1.1" in line


def measured(ranks, folder):
    checkpoint_overhead.SHAPE = {"vocab_size": 64, "d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 32}
    arguments = argparse.Namespace(rounds=1, rows=1, context_length=8, device="cpu", folder=folder)
    ranks = dataclasses.replace(ranks, store=dist.FileStore(f"{folder}/store", ranks.world_size))
    return checkpoint_overhead.measure(arguments, Path(folder), ranks)


@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="forks processes that share the loopback")
def test_two_ranks_are_measured(tmp_path):
    with tempfile.TemporaryDirectory() as folder:
        first, second = on_ranks(measured, tmp_path / "log", 2, folder)
        assert newest_checkpoint(Path(folder) / "checkpoints").step == 4 * INTERVAL + 1
    for seconds in (first, second):
        assert len(seconds[True]) == len(seconds[False]) == 1 and min(*seconds[True], *seconds[False]) > 0
