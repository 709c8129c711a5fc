"""How the ranks of a run share its model, and what cannot work together.

In: settings, the rows of a forward pass, the device and the ranks. Out: a Kind. Rejects, on all ranks and before anything is
written: sizes that do not divide, and options that need what another option takes away.
"""

from typing import Literal

import torch

from lmfast.model.fp8 import fp8_blocker
from lmfast.model.memory import USABLE
from lmfast.model.parallel_memory import Layout, keeps_whole_gradient, rank_memory
from lmfast.settings import TrainSettings, selected_precision
from lmfast.training.forecast import memory_capacity
from lmfast.training.parallel.environment import machine_size
from lmfast.training.parallel.ranks import Ranks
from lmfast.training.parallel.tensor_check import tensor_parallel_blocker
from lmfast.training.task import Rows, Task

Kind = Literal["single", "ddp", "fsdp", "hsdp", "tensor"]
"""single: one process; ddp: each rank has the whole model; fsdp: each has 1/N; hsdp: each has 1/N of a machine's N ranks;
tensor: ddp among ranks of which each has a part of every layer; fsdp with tensor ranks divides that part"""


def check_parallel(settings: TrainSettings, device: torch.device, ranks: Ranks) -> None:
    """Ends the run if its parallel settings cannot work, on this device or with each other."""
    batch_size, kind = settings.optimizer.batch_size, settings.run.parallel
    if reason := tensor_parallel_blocker(settings):
        ranks.fail(reason)
    if batch_size % ranks.data_size:
        shared = "processes" if ranks.tensor_size == 1 else f"groups of {ranks.tensor_size} processes"
        ranks.fail(
            f"batch_size {batch_size} is not divisible by the {ranks.data_size} {shared} that share it; "
            f"choose a multiple of {ranks.data_size}"
        )
    if settings.run.fp8:
        if reason := fp8_blocker(device):
            ranks.fail(reason)
        if kind in ("fsdp", "hsdp") and ranks.world_size > 1:
            ranks.fail(
                f"fp8 is not supported with parallel {kind}, which gathers weights in bf16; remove --fp8"
            )
    if kind == "hsdp" and ranks.world_size > 1:
        local = machine_size()
        if ranks.world_size % local:
            ranks.fail(
                f"parallel hsdp needs the same number of processes on every machine, but {ranks.world_size} is not a "
                f"multiple of {local}; use --parallel fsdp"
            )
        if local == 1:
            ranks.fail(
                "parallel hsdp shards within a machine, but each machine has one process; use --parallel fsdp or ddp"
            )


def check_tasks(task: Task, kind: Kind, ranks: Ranks) -> None:
    """Ends the run if it evaluates on tasks that generate text, while its weights are sharded."""
    if kind in ("single", "ddp"):
        return
    if names := ranks.from_first(lambda: task.generating_tasks):
        ranks.fail(
            f"eval_tasks: {', '.join(names)} generate text, which is not supported while the weights are divided among "
            "processes (parallel fsdp or hsdp, tensor_parallel); leave them out, or use --parallel ddp"
        )


def model_layout(kind: Kind, ranks: Ranks) -> Layout:
    """The layout of a model over the ranks, for its memory."""
    tensor_parallel = ranks.world_size // ranks.data_size
    return Layout(
        kind if kind in ("fsdp", "hsdp") else "ddp", ranks.world_size, tensor_parallel, machine_size()
    )


def choose_kind(settings: TrainSettings, rows: Rows, device: torch.device, ranks: Ranks) -> Kind:
    """The kind that the settings name; for auto, ddp if the estimated memory of a step fits the device, otherwise fsdp."""
    kind = settings.run.parallel
    if ranks.world_size == 1:
        return "single"
    if ranks.tensor_size > 1:
        return "fsdp" if kind == "fsdp" and ranks.data_size > 1 else "tensor"
    if kind != "auto":
        return kind
    if settings.run.fp8:
        return "ddp"
    fits = ranks.from_first(lambda: _fits(settings, rows, device, ranks, "ddp"))
    return "ddp" if fits else "fsdp"


def accumulates_whole(
    settings: TrainSettings, rows: Rows, device: torch.device, ranks: Ranks, kind: Kind
) -> bool:
    """Whether a rank of a sharded model keeps the whole gradient until the last forward pass of a step, which saves
    reductions; the first rank decides."""
    passes, layout = settings.optimizer.grad_accumulation, model_layout(kind, ranks)
    return ranks.from_first(
        lambda: keeps_whole_gradient(
            settings.model, _rows_per_rank(settings, rows, ranks), selected_precision(settings.run), layout, passes,
            rank_capacity(device), rows.length, device.type == "cpu", settings.run.activation_checkpointing,
        )
    )  # fmt: skip


def rank_capacity(device: torch.device) -> int | None:
    """Bytes of memory of one rank, if known; the ranks of a CPU share those of the machine."""
    capacity = memory_capacity(device)
    return capacity if capacity is None or device.type != "cpu" else capacity // machine_size()


def _rows_per_rank(settings: TrainSettings, rows: Rows, ranks: Ranks) -> int:
    return settings.optimizer.batch_size // ranks.data_size * rows.per_sequence


def _fits(settings: TrainSettings, rows: Rows, device: torch.device, ranks: Ranks, kind: Kind) -> bool:
    """Whether a step fits this rank's device, as far as known."""
    capacity, on_cpu = rank_capacity(device), device.type == "cpu"
    if capacity is None:
        return True
    batch = _rows_per_rank(settings, rows, ranks)
    precision, checkpointing = selected_precision(settings.run), settings.run.activation_checkpointing
    layout = model_layout(kind, ranks)
    memory = rank_memory(settings.model, batch, precision, layout, rows.length, on_cpu, checkpointing)
    return memory.total <= USABLE * capacity
