"""Prepares batches ahead of time on another thread, on CUDA in pinned memory.

Input: a BatchSource and the device. Output: the same step(i). A call for step i starts preparing i + 1 … i + AHEAD; a
call for any step but the next starts over there. Exceptions of step(i) are raised by the call. On CUDA, the array of
step i is in one of AHEAD + 2 pinned buffers, so that copying it to the device is asynchronous. It is overwritten when the
device has finished the work queued before the call for step i + 1, so do not keep a reference.
"""

import functools
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from lmfast.training.interfaces import BatchSource

AHEAD = 2


class Prefetched:
    """Use in a `with` statement, or call close(), to end the thread."""

    def __init__(self, batches: BatchSource, device: torch.device):
        self.batches = batches
        self.buffers, begin = None, None
        if device.type == "cuda":
            self.buffers = PinnedBuffers(AHEAD + 2)
            # The default device of a new thread is 0, where pinning would create a context for every rank.
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
        """The origin of the data of step i, as text."""
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
    """`count` pinned arrays in rotation: that of step i is reused for step i + count when the device is done with it."""

    def __init__(self, count: int):
        self.arrays: list[np.ndarray | None] = [None] * count
        self.events: list[torch.cuda.Event | None] = [None] * count

    def store(self, i: int, rows: np.ndarray) -> np.ndarray:
        """A pinned copy of `rows`; waits if the device may still be reading the buffer."""
        slot = i % len(self.arrays)
        if (event := self.events[slot]) is not None:
            event.synchronize()
        array = self.arrays[slot]
        if array is None or array.shape != rows.shape or array.dtype != rows.dtype:
            # As bytes, because torch does not support structured arrays, such as rows of conversations.
            plain = torch.from_numpy(np.ascontiguousarray(rows).view(np.uint8))
            array = self.arrays[slot] = plain.pin_memory().numpy().view(rows.dtype)
        else:
            np.copyto(array, rows)
        return array

    def release_after(self, i: int) -> None:
        """Marks that all work of step i is queued on the current stream: its buffer is free when the device gets here."""
        event = torch.cuda.Event()
        event.record()
        self.events[i % len(self.arrays)] = event
