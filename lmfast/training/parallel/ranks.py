"""The processes of a run, one per device: `torchrun --nproc-per-node=N -m lmfast.train` (or sft, dpo).

Every rank computes the whole batch of a step (a function of seed and step) and takes its slice of each forward pass, so N
ranks compute the same as one, up to rounding; only dropout masks differ, so a run with dropout keeps its number of data
ranks. Only rank 0 writes; decisions that depend on clock, signals or disk are made
there or agreed on, so that ranks cannot diverge. Host tensors use gloo, CUDA tensors NCCL.

Input: torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT). Rejects a batch size that N does
not divide, more ranks than devices, and MPS.
"""

import contextlib
import datetime
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from lmfast.errors import UserError
from lmfast.training.parallel.environment import number_of_ranks
from lmfast.training.parallel.lost_ranks import LostRanks, report_to_torchrun

T = TypeVar("T")

TIMEOUT = datetime.timedelta(minutes=30)
"""maximum time to wait for another rank, which may be preparing a corpus or writing to a slow disk"""


@dataclass(frozen=True)
class Ranks:
    """This process among those of its run. All methods are free if `world_size` is 1.

    Rank r is tensor rank r mod tensor_size of data rank r div tensor_size: neighbours share the layers of a model, and rows
    are shared among data ranks."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    tensor_size: int = 1  # --tensor-parallel
    data_group: dist.ProcessGroup | None = None  # ranks of the same tensor rank; None: all ranks
    tensor_group: dist.ProcessGroup | None = None  # ranks of the same data rank; None: only this one
    lockstep: bool = False  # whether data ranks must run the model equally often: its weights are sharded
    store: dist.Store | None = None  # of the process group; for threads, which cannot use collectives

    @property
    def tensor_rank(self) -> int:
        return self.rank % self.tensor_size

    @property
    def data_rank(self) -> int:
        return self.rank // self.tensor_size

    @property
    def data_size(self) -> int:
        """Number of ranks that share the rows of a forward pass."""
        return self.world_size // self.tensor_size

    def in_tensor_groups(self, size: int) -> "Ranks":
        """These ranks in groups of `size` that share the layers of a model; every rank must call it."""
        if size == 1:
            return self
        if size < 1:
            self.fail(f"tensor_parallel is {size}; it must be at least 1")
        if self.world_size == 1:
            self.fail(
                f"tensor_parallel {size} needs {size} processes; start with torchrun --nproc-per-node={size}, or use "
                "--tensor-parallel 1"
            )
        if self.world_size % size:
            self.fail(
                f"tensor_parallel {size} does not divide the {self.world_size} processes of this run; use a divisor, or "
                f"--nproc-per-node with a multiple of {size}"
            )
        tensor = [list(range(at, at + size)) for at in range(0, self.world_size, size)]
        data = [list(group) for group in zip(*tensor, strict=True)]
        # Every rank creates all groups, in the same order.
        groups = {tuple(group): dist.new_group(group, timeout=TIMEOUT) for group in [*tensor, *data]}
        return replace(
            self,
            tensor_size=size,
            data_group=groups[tuple(data[self.rank % size])],
            tensor_group=groups[tuple(tensor[self.rank // size])],
        )

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes, prints and decides."""
        return self.rank == 0

    def report(self, line: str) -> None:
        """Prints a line on rank 0, about something all ranks have found."""
        if self.is_first:
            print(line)

    def share(self, rows: np.ndarray) -> np.ndarray:
        """This rank's slice of the rows of one forward pass, whose number must be a multiple of `data_size`."""
        each = len(rows) // self.data_size
        return rows[self.data_rank * each : (self.data_rank + 1) * each]

    def deal(self, items: Iterable[T]) -> Iterator[tuple[T, bool]]:
        """This data rank's items, every N-th of `items`, and whether each counts.

        In lockstep, ranks without an item in the last turn get the last one again, which does not count."""
        number, last = 0, None
        for number, last in enumerate(items, 1):
            if (number - 1) % self.data_size == self.data_rank:
                yield last, True
        if self.lockstep and last is not None and self.data_rank >= number % self.data_size > 0:
            yield last, False

    def sum(self, tensor: Tensor) -> Tensor:
        """Sums `tensor` over the data ranks, in place; on CUDA the host does not wait."""
        if self.data_size > 1:
            dist.all_reduce(tensor, group=self.data_group)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set on any rank; the same on all ranks. Does not wait for the device."""
        return self.any_of(flag)[0]

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        """`any` of several flags at once."""
        if self.world_size == 1:
            return flags
        seen = torch.tensor([int(flag) for flag in flags])
        dist.all_reduce(seen, op=dist.ReduceOp.MAX)
        return tuple(bool(flag) for flag in seen.tolist())

    def from_first(self, make: Callable[[], T]) -> T:
        """Calls `make` on rank 0 and returns its result on every rank; if it fails, the other ranks exit silently."""
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
        """Calls `make` on rank 0, then on the others, which find the files that rank 0 wrote. If it fails on any rank, all
        exit and rank 0 reports why."""
        if self.world_size == 1:
            return make()
        made, problem = self.only_first(make), None
        try:
            made = make() if made is None else made
        except UserError as error:
            problem = str(error)
        problems: list[str | None] = [None] * self.world_size
        dist.all_gather_object(problems, problem)
        for rank, text in enumerate(problems):
            if text is not None:
                self.fail(f"{text} (rank {rank})")
        assert made is not None
        return made

    def only_first(self, make: Callable[[], T]) -> T | None:
        """Calls `make` on rank 0 only; returns None on the others, which exit if it fails."""
        made: list[T] = []
        self.from_first(lambda: made.append(make()))
        return made[0] if made else None

    def fail(self, message: str) -> None:
        """Ends the run with an error that every rank has found; rank 0 prints it."""
        if self.is_first:
            raise UserError(message)
        raise SystemExit(2)

    def use_device(self, device: torch.device) -> None:
        """Selects this rank's CUDA device. Raises UserError if there are fewer devices than ranks."""
        if self.world_size == 1:
            return
        if device.type == "mps":
            raise UserError("MPS supports only one process; start without torchrun, or use --device cpu")
        if device.type == "cuda":
            count = torch.cuda.device_count()
            if self.local_rank >= count:
                raise UserError(
                    f"process {self.local_rank + 1} has no device, because this machine has {count}; use "
                    f"--nproc-per-node={count}"
                )
            if not dist.is_nccl_available():
                raise UserError(
                    "this build of PyTorch has no NCCL, which several processes with CUDA need; start without torchrun, or "
                    "use --device cpu"
                )
            torch.cuda.set_device(self.local_rank)


SINGLE_PROCESS = Ranks()


@contextlib.contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Joins the process group of torchrun until the block ends; SINGLE_PROCESS without torchrun or with one process.

    Raises UserError if it cannot be joined, or if another rank is lost; the run resumes from the newest checkpoint.
    """
    if number_of_ranks() == 1:
        yield SINGLE_PROCESS
        return
    with _ended_by_signals():
        store, rank, world_size = _join()
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    ranks = Ranks(rank, world_size, local_rank, store=dist.PrefixStore("lmfast", store))
    lost = LostRanks(store, rank, world_size)
    try:
        with _reported_to_torchrun(), lost:
            try:
                yield ranks
            except RuntimeError as error:
                if not _is_lost_rank(error):
                    raise
                if (message := lost.message()) is None:
                    raise SystemExit(2) from None
                raise UserError(message) from None
    finally:
        if not lost.noticed.is_set():
            dist.destroy_process_group()


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Inside the block, Ctrl-C and SIGTERM end the process at once: it waits in C++, where no handler of Python runs."""
    taken = {}
    if threading.current_thread() is threading.main_thread():
        taken = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    taken = {number: handler for number, handler in taken.items() if callable(handler)}
    for number in taken:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)


def _of_this_attempt(store: dist.Store) -> dist.Store:
    """The part of torchrun's store for the current attempt: with --max-restarts on one machine, the store keeps the
    addresses of the processes of earlier attempts."""
    one_machine = os.environ.get("GROUP_WORLD_SIZE") == "1"
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if one_machine else "0"
    return dist.PrefixStore(f"attempt {attempt}", store)


def _join() -> tuple[dist.Store, int, int]:
    """(store, rank, number of ranks) of the process group of torchrun's environment, which this process joins."""
    if not dist.is_available() or not dist.is_gloo_available():
        raise UserError(
            "this build of PyTorch has no gloo, which several processes need; start without torchrun"
        )
    # Without NCCL (Windows), `use_device` rejects CUDA.
    nccl = torch.cuda.is_available() and dist.is_nccl_available()
    try:
        store, rank, world_size = next(dist.rendezvous("env://", timeout=TIMEOUT))
        store = _of_this_attempt(store)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if nccl else "gloo",
            store=dist.PrefixStore("default_pg", store),
            rank=rank,
            world_size=world_size,
            timeout=TIMEOUT,
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"cannot join the other processes ({reason}); start all of them with torchrun"
        ) from None
    return store, rank, world_size


@contextlib.contextmanager
def _reported_to_torchrun() -> Iterator[None]:
    """Writes the message of a UserError to the file that torchrun reads."""
    try:
        yield
    except UserError as error:
        report_to_torchrun(str(error))
        raise


def _is_lost_rank(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error)
