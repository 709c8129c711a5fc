"""How ranks share a model, and what is rejected before a run starts."""

from typing import Any

import pytest
import torch

from lmfast.errors import UserError
from lmfast.model.parallel_memory import Layout, rank_memory
from lmfast.settings import TrainSettings, replace_flat
from lmfast.training.parallel.choice import accumulates_whole, check_parallel, check_tasks, choose_kind
from lmfast.training.parallel.ranks import SINGLE_PROCESS, Ranks
from lmfast.training.resolve import resolve
from lmfast.training.task import Rows, Task

CPU = torch.device("cpu")


def settings(**changes: Any) -> TrainSettings:
    return resolve(replace_flat(TrainSettings(), {"max_iters": 1, "batch_size": 4} | changes), 300)


@pytest.mark.parametrize(
    ("changes", "local", "message"),
    [
        ({"batch_size": 3}, 4, "batch_size 3 is not divisible by the 4 processes that share it"),
        ({"parallel": "hsdp"}, 3, "parallel hsdp needs the same number of processes on every machine"),
        ({"parallel": "hsdp"}, 1, "parallel hsdp shards within a machine, but each machine has one process"),
        ({"parallel": "fsdp", "fp8": True, "bf16": True}, 4, "fp8 is not supported with parallel fsdp"),
    ],
)
def test_settings_that_cannot_work_are_one_line(changes, local, message, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
    monkeypatch.setenv("LMFAST_FP8_EMULATE", "1")
    with pytest.raises(UserError, match=message):
        check_parallel(settings(**changes), CPU, Ranks(0, 4))
    with pytest.raises(SystemExit) as stop:  # the others end silently
        check_parallel(settings(**changes), CPU, Ranks(1, 4))
    assert stop.value.code == 2


def test_settings_that_work_pass(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    check_parallel(settings(parallel="hsdp"), CPU, Ranks(0, 4))
    check_parallel(settings(parallel="fsdp", batch_size=1), CPU, SINGLE_PROCESS)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp", "hsdp"])
def test_the_named_kind_is_used_by_several_processes(parallel):
    assert choose_kind(settings(parallel=parallel), Rows(1024), CPU, Ranks(0, 2)) == parallel
    assert choose_kind(settings(parallel=parallel), Rows(1024), CPU, SINGLE_PROCESS) == "single"


@pytest.mark.parametrize(("gigabytes", "kind"), [(80, "ddp"), (2, "fsdp")])
def test_auto_shards_what_does_not_fit(gigabytes, kind, monkeypatch):
    monkeypatch.setattr("lmfast.training.parallel.choice.memory_capacity", lambda _: gigabytes * 10**9)
    monkeypatch.setattr(Ranks, "from_first", lambda self, make: make())
    assert choose_kind(settings(), Rows(1024), torch.device("cuda"), Ranks(0, 2)) == kind


def test_the_whole_gradient_must_fit_with_the_rows_of_the_task(monkeypatch):
    """dpo has two rows per pair, of its own length."""
    monkeypatch.setattr(Ranks, "from_first", lambda self, make: make())
    cuda, several = torch.device("cuda"), settings(grad_accumulation=4, batch_size=8)

    def memory(rows: Rows, whole: bool) -> int:
        batch = 4 * rows.per_sequence
        return rank_memory(
            several.model, batch, "fp32", Layout("fsdp", 2), rows.length, whole_gradient=whole
        ).total

    pairs = Rows(1024, per_sequence=2)
    between = (memory(Rows(1024), True) + memory(pairs, True)) / 2 / 0.9
    monkeypatch.setattr("lmfast.training.parallel.choice.memory_capacity", lambda _: between)
    assert accumulates_whole(several, Rows(1024), cuda, Ranks(0, 2), "fsdp")
    assert not accumulates_whole(several, pairs, cuda, Ranks(0, 2), "fsdp")
    assert accumulates_whole(several, Rows(300, per_sequence=2), cuda, Ranks(0, 2), "fsdp")


def test_tasks_that_generate_text_need_whole_weights(monkeypatch):
    monkeypatch.setattr(Ranks, "from_first", lambda self, make: make())
    task = Task(None, None, generating_tasks=["gsm8k"])  # pyright: ignore[reportArgumentType]
    check_tasks(task, "ddp", Ranks(0, 2))
    with pytest.raises(UserError, match="eval_tasks: gsm8k generate text"):
        check_tasks(task, "fsdp", Ranks(0, 2))
