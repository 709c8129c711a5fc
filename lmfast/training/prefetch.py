"""Batches made ahead of their step, on a thread of their own; on CUDA copied into pinned memory, used in turns.

In: a BatchSource and the device that trains. Out: the same steps. Asked for
step i, the thread is set on i + 1 … i + AHEAD while step i trains; asked for another step than the next, it starts over
there. What step(i) raises is raised here. On CUDA the array of step i lies in one of AHEAD + 2 pinned buffers, whose
copy to the device needs no host, and is overwritten only when the device has passed the work that was queued by the
time step i + 1 was asked for; so keep no reference to it beyond that. Refused: nothing.
"""

import functools
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from lmfast.training.interfaces import BatchSource

AHEAD = 2


class Prefetched:
    """Use it in a `with` statement, or close() it: the thread ends there."""

    def __init__(self, batches: BatchSource, device: torch.device):
        self.batches = batches
        self.buffers, begin = None, None
        if device.type == "cuda":
            self.buffers = PinnedBuffers(AHEAD + 2)
            # A new thread's current device is 0, where pinning would make a context for each rank of a machine.
            begin = functools.partial(torch.cuda.set_device, torch.cuda.current_device())
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="batches", initializer=begin)
        self.pending: deque[tuple[int, Future]] = deque()

    def step(self, i: int) -> np.ndarray:
        if not self.pending or self.pending[0][0] != i:
            while self.pending:
                self.pending.popleft()[1].cancel()
            self._submit(i)
        if self.buffers is not None:
            self.buffers.release_after(i - 1)
        while len(self.pending) <= AHEAD:
            self._submit(self.pending[-1][0] + 1)
        return self.pending.popleft()[1].result()

    def describe(self, i: int) -> str:
        """Where step i's data is from, in the words of what makes the batches."""
        return self.batches.describe(i)

    def _submit(self, i: int) -> None:
        self.pending.append((i, self.thread.submit(self._make, i)))

    def _make(self, i: int) -> np.ndarray:
        rows = self.batches.step(i)
        return rows if self.buffers is None else self.buffers.store(i, rows)

    def close(self) -> None:
        self.thread.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "Prefetched":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class PinnedBuffers:
    """`count` pinned arrays used in turns: step i's is filled anew for step i + count, once the device has passed it."""

    def __init__(self, count: int):
        self.arrays: list[np.ndarray | None] = [None] * count
        self.events: list[torch.cuda.Event | None] = [None] * count

    def store(self, i: int, rows: np.ndarray) -> np.ndarray:
        """A pinned copy of `rows`; waits for the device where its buffer may still be read."""
        slot = i % len(self.arrays)
        if (event := self.events[slot]) is not None:
            event.synchronize()
        array = self.arrays[slot]
        if array is None or array.shape != rows.shape or array.dtype != rows.dtype:
            # By its bytes: torch knows no arrays of records, which rows of conversations are.
            plain = torch.from_numpy(np.ascontiguousarray(rows).view(np.uint8))
            array = self.arrays[slot] = plain.pin_memory().numpy().view(rows.dtype)
        else:
            np.copyto(array, rows)
        return array

    def release_after(self, i: int) -> None:
        """All of step i is queued on the current stream: its buffer is free when the device gets here."""
        event = torch.cuda.Event()
        event.record()
        self.events[i % len(self.arrays)] = event
