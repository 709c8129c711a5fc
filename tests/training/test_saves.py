"""Sharded runs save in the background; their checkpoints resume and load anywhere."""

import os
import shutil
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lmfast import load_run
from lmfast.train import train
from lmfast.training.checkpoint import find_checkpoint
from lmfast.training.parallel import saving
from lmfast.training.run_folder import read_metrics
from lmfast.training.run_plan import Hooks, Progress
from lmfast.training.weights import mapped_weights
from tests.complete_runs import weights
from tests.training.forked_runs import close, finish, start_ranks
from tests.training.test_loop import run as run_loop

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks processes that share the loopback")


def flags(corpus, folder, *more):
    base = [*corpus.flags(), "--tokenizer", str(corpus.tokenizer), "--out-dir", str(folder)]
    return [*base, "--eval-interval", "0", "--lr-decay-iters", "8", *map(str, more)]


def in_ranks(argv, log, number, codes=None, setup=None):
    return finish(start_ranks(argv, log, number, setup), log, codes or (0,) * number)


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory):
    """`whole`: six steps of one process; `sharded`: the first four of them, of two ranks with fsdp."""
    folder = tmp_path_factory.mktemp("sharded")
    train(flags(corpus, folder / "whole", "--max-iters", 6))
    more = ("--max-iters", 4, "--parallel", "fsdp", "--checkpoint-interval", 1, "--keep-checkpoints", 2)
    in_ranks(flags(corpus, folder / "sharded", *more), folder / "log", 2)
    return folder


def test_checkpoints_are_sharded_and_old_ones_removed(runs):
    found = find_checkpoint(runs / "sharded")
    assert found.step == 4 and len(found.weight_files) == len(found.state_files) == 2
    assert sorted(p.name for p in found.path.parent.iterdir()) == ["step_00000003", "step_00000004"]


def test_a_shard_that_the_marker_does_not_list_is_ignored(runs, tmp_path):
    shutil.copytree(runs / "sharded", tmp_path / "run")
    found = find_checkpoint(tmp_path / "run")
    foreign = [
        shutil.copy(path, path.with_name(path.name.replace("shard-00002", "shard-00003")))
        for path in found.weight_files[1:]
    ]
    assert foreign and len(found.weight_files) == 2
    close(weights(tmp_path / "run"), weights(runs / "sharded"))


@pytest.mark.parametrize(
    ("number", "parallel"), [(1, "auto"), (2, "ddp"), (4, "fsdp")], ids=["1 rank", "2 ddp", "4 fsdp"]
)
def test_any_number_of_ranks_resumes(corpus, runs, tmp_path, number, parallel):
    shutil.copytree(runs / "sharded", tmp_path / "run")
    more = flags(corpus, tmp_path / "run", "--max-iters", 6, "--parallel", parallel)
    if number == 1:
        assert train(more)
    else:
        in_ranks(more, tmp_path / "log", number)
    close(weights(tmp_path / "run"), weights(runs / "whole"))
    assert [m["step"] for m in read_metrics(tmp_path / "run")] == list(range(1, 7))
    a, b = (find_checkpoint(folder).optimizer_tensors() for folder in (tmp_path / "run", runs / "whole"))
    close(a, b)
    assert (len(find_checkpoint(tmp_path / "run").weight_files) == 4) == (parallel == "fsdp")


@pytest.mark.ci
def test_split_layers_resume_in_one_process_and_as_shards(corpus, runs, tmp_path):
    more = flags(corpus, tmp_path / "run", "--checkpoint-interval", 1, "--max-iters")
    in_ranks([*more, "4", "--tensor-parallel", "2"], tmp_path / "log", 2)
    assert len(find_checkpoint(tmp_path / "run").weight_files) == 2
    close(weights(tmp_path / "run"), weights(runs / "sharded", 4))
    in_ranks([*more, "5", "--parallel", "fsdp", "--tensor-parallel", "1"], tmp_path / "log2", 4)
    in_ranks([*more, "6", "--parallel", "auto", "--tensor-parallel", "2"], tmp_path / "log3", 2)
    close(weights(tmp_path / "run"), weights(runs / "whole"))
    train([*more, "7", "--tensor-parallel", "1"])
    assert find_checkpoint(tmp_path / "run").weight_files[0].name == "model.safetensors"


def test_one_process_loads_a_sharded_checkpoint(runs):
    model, tokenizer, config = load_run(runs / "sharded")
    expected = weights(runs / "sharded", 4)
    arrays = mapped_weights(find_checkpoint(runs / "sharded"), config)
    for name, weight in model.named_weights().items():
        assert torch.equal(weight, expected[name]) and np.array_equal(arrays[name], weight.detach().numpy())
    assert len(model.generate(tokenizer.encode("Once"), max_tokens=3, temperature=0)) == 3


def fail_at(step):
    """The files of `step` cannot be written by rank 1."""
    real = saving.checksums

    def checksums(folder, pattern="*"):
        if folder.name == f".step_{step:08d}.partial" and os.environ["RANK"] == "1":
            raise OSError(28, "No space left on device")
        return real(folder, pattern)

    saving.checksums = checksums


def test_training_goes_on_when_a_disk_is_full(corpus, runs, tmp_path):
    folder, more = tmp_path / "run", ("--parallel", "fsdp", "--checkpoint-interval", 2, "--max-iters", 6)
    texts = in_ranks(flags(corpus, folder, *more), tmp_path / "log", 2, setup=partial(fail_at, 4))
    line = "checkpoint at step 4 could not be written (rank 1: [Errno 28] No space left on device); the one at step 2"
    assert texts[0].count(line) == 1 and texts[1] == ""
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step_00000002", "step_00000006"]
    close(weights(folder), weights(runs / "whole"))


def test_a_last_checkpoint_that_does_not_fit_is_an_error(corpus, tmp_path):
    folder, more = tmp_path / "run", ("--parallel", "fsdp", "--checkpoint-interval", 2, "--max-iters", 4)
    texts = in_ranks(flags(corpus, folder, *more), tmp_path / "log", 2, (2, 2), partial(fail_at, 4))
    assert "error: step 4 could not be saved (see above); free some space" in texts[0] and texts[1] == ""
    assert find_checkpoint(folder).step == 2


class SlowSaves(SimpleNamespace):
    """A Background of one process, in which each checkpoint takes `looks` looks; those of `fails` fail."""

    def __init__(self, looks, fails=()):
        super().__init__(looks=looks, fails=fails, left=0, step=0, begun=[], ended=[])

    def begin(self, progress):
        assert not self.left, "the previous one is unfinished"
        self.left, self.step = self.looks, progress.step
        self.begun.append(progress.step)
        return True

    @property
    def writing(self):
        self.left -= self.left > 0
        return self.left > 0

    @property
    def failed(self):
        return self.step in self.fails

    def finish(self):
        self.ended.append(self.step)


def run_with(saves, steps, losses=(), **plan):
    left = iter(losses)
    progress = Progress()
    hooks = Hooks(checkpoint=saves.begin, background=saves)
    if losses:
        hooks.evaluate = lambda: {"val_loss": next(left)}
    run_loop(steps, hooks=hooks, progress=progress, **plan)
    return progress


def test_a_checkpoint_is_ended_at_a_later_step_and_the_last_one_is_waited_for():
    saves = SlowSaves(looks=3)
    run_with(saves, 9, checkpoint_interval=2)
    assert saves.begun == saves.ended == [2, 4, 6, 8, 9] and saves.left == 0


def test_a_best_checkpoint_that_fails_later_does_not_count():
    saves = SlowSaves(looks=3, fails={2})
    progress = run_with(saves, 4, [5.0, 4.0, 4.5, 4.7], eval_interval=1)
    # The one at step 2 failed: 4.5 at step 3 is better than 5.0 at step 1.
    assert saves.begun == [1, 2, 3, 4] and (progress.best_step, progress.best_val_loss) == (3, 4.5)
