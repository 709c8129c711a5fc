"""Several processes that train one model, one device each: `torchrun --nproc-per-node=N -m lmfast.train` (sft, dpo).

Every rank knows the whole batch of a step (it is a function of seed and step) and takes its slice of each forward
pass; DistributedDataParallel adds the gradients up, so N ranks do what one would, equal to rounding. Rank 0 alone
writes, and what a run decides by clock, signal or disk is decided there, or agreed upon, so that no rank waits for
one that went another way. Tensors of the host travel by gloo, those of CUDA devices by NCCL.

In: torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT). Refused: a batch that N does not
divide, more ranks than devices, MPS.
"""

import contextlib
import datetime
import inspect
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lmfast.errors import UserError

T = TypeVar("T")

TIMEOUT = datetime.timedelta(minutes=30)
"""how long a rank waits for another, which may be preparing a corpus or writing to a slow disk"""


@dataclass(frozen=True)
class Ranks:
    """This process among those of its run. With `world_size` 1 nothing here costs or says anything."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes, prints and decides."""
        return self.rank == 0

    def report(self, line: str) -> None:
        """Prints a line about what all ranks have found."""
        if self.is_first:
            print(line)

    def share(self, rows: np.ndarray) -> np.ndarray:
        """This rank's slice of the rows of one forward pass; their number is a multiple of `world_size`."""
        each = len(rows) // self.world_size
        return rows[self.rank * each : (self.rank + 1) * each]

    def sum(self, tensor: Tensor) -> Tensor:
        """`tensor` added up over the ranks, in place; on CUDA the host does not wait."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set on any rank, known to all of them. Of the host: no device is waited for."""
        if self.world_size == 1:
            return flag
        seen = torch.tensor([int(flag)])
        dist.all_reduce(seen, op=dist.ReduceOp.MAX)
        return bool(seen)

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` returns on rank 0, on every rank; where it fails there, the others end without a word."""
        if self.world_size == 1:
            return make()
        box: list[Any] = [None, False]
        if not self.is_first:
            dist.broadcast_object_list(box, src=0)
            if not box[1]:
                raise SystemExit(2)
            return box[0]
        try:
            box = [make(), True]
        finally:
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def first_then_rest(self, make: Callable[[], T]) -> T:
        """Calls `make` on every rank, on rank 0 before the others, which find what it wrote."""
        made = self.only_first(make)
        return make() if made is None else made

    def only_first(self, make: Callable[[], T]) -> T | None:
        """What `make` returns, called on rank 0 alone; None on the others, which end where it fails there."""
        made: list[T] = []
        self.from_first(lambda: made.append(make()))
        return made[0] if made else None

    def fail(self, message: str) -> None:
        """Ends a run by an error that every rank has found: one of them tells it."""
        if self.is_first:
            raise UserError(message)
        raise SystemExit(2)

    def use_device(self, device: torch.device) -> None:
        """Makes this rank's own CUDA device the current one. Raises UserError where there are fewer than ranks."""
        if self.world_size == 1:
            return
        if device.type == "mps":
            raise UserError("MPS trains in one process; start without torchrun, or give --device cpu")
        if device.type == "cuda":
            count = torch.cuda.device_count()
            if self.local_rank >= count:
                raise UserError(
                    f"process {self.local_rank + 1} has no device: this machine has {count}; give "
                    f"--nproc-per-node={count}"
                )
            torch.cuda.set_device(self.local_rank)


class ParallelLoss:
    """loss_fn(model, …) and its gradients, over however many ranks there are."""

    def __init__(self, ranks: Ranks, model: nn.Module, loss_fn: Callable[..., Tensor], autocast):
        self.ranks, self.autocast = ranks, autocast
        self.module, self.ddp = _Bound(model, loss_fn), None
        if ranks.world_size > 1:
            # The compiled step stays one graph: its gradients come together at the end, and travel then.
            torch._dynamo.config.optimize_ddp = False
            # No buffer changes while training. The option has its new name since torch 2.13.
            names = inspect.signature(nn.parallel.DistributedDataParallel).parameters
            name = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
            buffers: dict[str, Any] = {name: False}
            on_cuda = next(model.parameters()).device.type == "cuda"
            self.ddp = nn.parallel.DistributedDataParallel(
                self.module,
                device_ids=[torch.cuda.current_device()] if on_cuda else None,
                gradient_as_bucket_view=True,
                **buffers,
            )

    def add_gradients(self, tensors: tuple, valid: int, last: bool, scale: Tensor | None = None) -> Tensor:
        """Adds the gradients of (summed loss) / valid, `valid` counting all ranks; returns this rank's sum.

        last: of the forward passes of a step. Gradients travel between the ranks then, and not before. scale: a factor
        on the gradients, on the device.
        """
        world_size = self.ranks.world_size
        with self.ddp.no_sync() if self.ddp is not None and not last else contextlib.nullcontext():
            with self.autocast():
                loss_sum = (self.ddp or self.module)(*tensors)
            loss = loss_sum / valid
            if scale is not None:
                loss = loss * scale
            # DDP takes the mean over the ranks, and the sum is wanted.
            (loss * world_size if world_size > 1 else loss).backward()
        return loss_sum.detach()


class _Bound(nn.Module):
    """A model and what is asked of it as one module, for DDP wraps modules."""

    def __init__(self, model: nn.Module, loss_fn: Callable[..., Tensor]):
        super().__init__()
        self.model, self.loss_fn = model, loss_fn

    def forward(self, *tensors) -> Tensor:
        return self.loss_fn(self.model, *tensors)


SINGLE_PROCESS = Ranks()


@contextlib.contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """The ranks that torchrun started, together until the block ends; SINGLE_PROCESS where it started none or one.

    A rank that loses another raises UserError: what that one did not finish is in the newest checkpoint.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield SINGLE_PROCESS
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT)
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", dist.get_rank())))
    try:
        with _reported_to_torchrun():
            try:
                yield ranks
            except RuntimeError as error:
                if not _is_lost_rank(error):
                    raise
                ranks.fail(
                    "another process of this run ended before its time; complete checkpoints are whole, and the run "
                    "resumes from the newest, where there is one"
                )
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _reported_to_torchrun() -> Iterator[None]:
    """Puts a UserError's line into the file that torchrun reads: its own report, thirty lines, then ends with that line."""
    try:
        yield
    except UserError as error:
        if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
            with contextlib.suppress(OSError):
                Path(path).write_text(
                    json.dumps({"message": f"error: {error}", "timestamp": int(time.time())})
                )
        raise


def _is_lost_rank(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error)
