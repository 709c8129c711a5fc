"""Writes the sharded checkpoints of a run in the background, at most one at a time.

In: the pieces of this rank at a step boundary (pieces.py), which are copied to host memory at once. A thread then writes
them with torch.distributed.checkpoint in the safetensors format (nothing is pickled), flushes and hashes its files. Rank 0
waits for the checksums of all ranks, renames the folder and writes COMPLETE. Threads communicate through the store of the
process group, never with collectives, so they cannot disturb those of training. Of pieces that several ranks have, one
rank writes each; who writes what is planned at the first checkpoint, with one gather.

A checkpoint that could not be written (a full disk) leaves nothing behind; `finish` returns the reason on rank 0. The
folder must be shared by all machines of the run. Host memory: the weights and state that this rank writes, and while
writing up to as much again.
"""

import json
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import DefaultSavePlanner, HuggingFaceStorageWriter, SavePlan
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

from lmfast.training.checkpoint import (
    STATE,
    WEIGHTS,
    checksums,
    complete_checkpoint,
    new_checkpoint,
    prune_checkpoints,
    temporary_folder,
)
from lmfast.training.parallel.pieces import Piece
from lmfast.training.parallel.ranks import TIMEOUT, Ranks

POLL = 0.02
"""seconds between looks into the store"""


class ShardedCheckpoints:
    """The checkpoints of a sharded run. All methods must be called on every rank at the same step."""

    def __init__(self, folder: Path, ranks: Ranks, keep: int):
        assert ranks.store is not None, "several ranks have a store"
        self.folder, self.ranks, self.keep = folder, ranks, keep
        self.store = dist.PrefixStore("checkpoints", ranks.store)
        self.number = 0  # of this checkpoint within the run, in keys
        self.planner = _PiecePlanner()
        self.planned: SavePlan | None = None
        self.files: dict[str, int] = {}  # {piece: WEIGHTS or STATE}
        self.pieces: list[tuple[Any, ...]] = []
        self.thread: threading.Thread | None = None
        self.problem: str | None = None

    @property
    def writing(self) -> bool:
        """Whether this rank is still writing, or rank 0 waits for another one."""
        return self.thread is not None and self.thread.is_alive()

    def begin(self, weights: Iterable[Piece], state: Iterable[Piece], progress: dict[str, Any]) -> None:
        """Copies the pieces and returns; `progress` is the content of state.json. No other checkpoint may be unfinished."""
        assert self.thread is None, "the previous checkpoint is unfinished"
        numbered = [(WEIGHTS, piece) for piece in weights] + [(STATE, piece) for piece in state]
        plan = self._plan(numbered)
        own = {item.index.fqn for item in plan.items}
        ready = self.planner.stage(piece for _, piece in numbered if piece.name in own)
        self.number, self.problem = self.number + 1, None
        self.thread = threading.Thread(target=self._write, args=(plan, ready, progress), daemon=True)
        self.thread.start()

    def finish(self) -> str | None:
        """Ends a checkpoint that no rank is writing any more; on rank 0, returns why it failed, or None."""
        if self.thread is not None:
            self.thread.join()
        self.thread = None
        return self.problem

    def _plan(self, numbered: list[tuple[int, Piece]]) -> SavePlan:
        """What this rank writes. A gather, but only if its pieces have changed since the last call."""
        pieces = [(number, p.name, p.shape, p.offset, p.tensor.shape) for number, p in numbered]
        if self.planned is None or pieces != self.pieces:
            self.pieces = pieces
            self.planner.items = [_item(piece) for _, piece in numbered]
            local = self.planner.create_local_plan(), {piece.name: number for number, piece in numbered}
            gathered: list[Any] = [None] * self.ranks.world_size
            dist.all_gather_object(gathered, local)
            plans, _ = self.planner.create_global_plan([plan for plan, _ in gathered])
            # Names files by the largest number, which must be STATE even without any.
            self.files = {"": STATE} | {n: number for _, files in gathered for n, number in files.items()}
            plans = self._writer(self.folder).prepare_global_plan(plans)
            self.planned = self.planner.finish_plan(plans[self.ranks.rank])
        return self.planned

    def _writer(self, folder: Path) -> HuggingFaceStorageWriter:
        return HuggingFaceStorageWriter(str(folder), self.files, save_distributed=True)

    def _write(self, plan: SavePlan, ready: "torch.cuda.Event | None", progress: dict[str, Any]) -> None:
        try:
            if self.ranks.is_first:
                self._write_first(plan, ready, progress)
            elif "error" not in self._hear("folder"):
                self._tell(self._write_shard(temporary_folder(self.folder, progress), plan, ready))
        except Exception as error:  # training goes on; the reason is printed at a later step boundary
            self.problem = _reason(error)

    def _write_first(
        self, plan: SavePlan, ready: "torch.cuda.Event | None", progress: dict[str, Any]
    ) -> None:
        """Rank 0: creates the folder, writes its own files, and completes the checkpoint after the other ranks."""
        try:
            with new_checkpoint(self.folder, progress) as temporary:
                self._tell({}, "folder")
                self._tell(self._write_shard(temporary, plan, ready))
                complete_checkpoint(temporary, progress, self._all_sums(temporary))
        except OSError as error:
            self._tell({"error": _reason(error)}, "folder")  # heard if the folder could not be created
            raise
        prune_checkpoints(self.folder, self.keep, progress.get("best_step"))

    def _write_shard(
        self, temporary: Path, plan: SavePlan, ready: "torch.cuda.Event | None"
    ) -> dict[str, str]:
        """Writes the files of this rank; returns their SHA-256, or the error."""
        try:
            if ready is not None:
                ready.synchronize()
            if not temporary.is_dir():
                raise OSError(f"{temporary} is missing; all machines of a run need the same --out-dir")
            self._writer(temporary).write_data(plan, self.planner).wait()
            return checksums(temporary, f"shard-{self.ranks.rank + 1:05d}-*")
        except Exception as error:  # rank 0 reports it
            return {"error": _reason(error)}

    def _all_sums(self, temporary: Path) -> dict[str, str]:
        """The checksums of all files, when all ranks have ended writing. Raises OSError if one of them failed."""
        keys = [str(rank) for rank in range(self.ranks.world_size)]
        found = [self._hear(key) for key in keys]
        for key in ["folder", *keys]:
            self.store.delete_key(f"{self.number}/{key}")
        for rank, sums in enumerate(found):
            if error := sums.get("error"):
                raise OSError(error if rank == 0 else f"rank {rank}: {error}")
            for name in sums:
                if not (temporary / name).is_file():
                    raise OSError(
                        f"{name} of rank {rank} is missing; all machines of a run need the same --out-dir"
                    )
        return {name: value for sums in found for name, value in sums.items()}

    def _tell(self, value: dict[str, str], key: str | None = None) -> None:
        self.store.set(f"{self.number}/{key or self.ranks.rank}", json.dumps(value))

    def _hear(self, key: str) -> dict[str, str]:
        """The value that a rank sets. Polls, because a waiting call would block the store for other threads."""
        key, deadline = f"{self.number}/{key}", time.monotonic() + TIMEOUT.total_seconds()
        while not self.store.check([key]):
            if time.monotonic() > deadline:
                raise OSError("another rank did not finish writing")
            time.sleep(POLL)
        return json.loads(self.store.get(key))


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"


class _PiecePlanner(DefaultSavePlanner):
    """Plans to write pieces, and supplies their copies in host memory."""

    def __init__(self):
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self.items: list[WriteItem] = []
        self.copies: dict[str, Tensor] = {}

    def create_local_plan(self) -> SavePlan:
        return SavePlan(self.items)

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        return self.copies[index.fqn]

    @torch.no_grad()
    def stage(self, pieces: Iterable[Piece]) -> "torch.cuda.Event | None":
        """Copies pieces to host memory, which is kept for the next time; on CUDA the host does not wait. Returns the event
        after which the copies are complete."""
        on_cuda = False
        for piece in pieces:
            tensor = piece.tensor
            on_cuda = on_cuda or tensor.is_cuda
            if piece.name not in self.copies or self.copies[piece.name].shape != tensor.shape:
                copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
                self.copies[piece.name] = copy
            self.copies[piece.name].copy_(tensor, non_blocking=True)
        if not on_cuda:
            return None
        event = torch.cuda.Event()
        event.record()
        return event


def _item(piece: Piece) -> WriteItem:
    offset, shape = torch.Size(piece.offset), torch.Size(piece.shape)
    return WriteItem(
        MetadataIndex(piece.name, offset),
        WriteItemType.SHARD,
        tensor_data=TensorWriteData(
            ChunkStorageMetadata(offset, piece.tensor.shape),
            TensorProperties.create_from_tensor(piece.tensor),
            shape,
        ),
    )
