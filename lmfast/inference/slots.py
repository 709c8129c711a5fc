"""Decoders whose sequences are independent of each other: each has a slot of the cache, and joins and leaves between steps.

`Batch` (batching.py) fills the slots; cpu/slots.py and torch_slots.py are the decoders.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from lmfast.inference.sampling import Sampling

Part = tuple[int, list[int], int]
"""(slot, ids, position of the first)"""


class SlotDecoder(Protocol):
    """Continues sequences, each in a slot of a cache; slots are numbered from 0."""

    slots: int
    context_length: int
    vocab_size: int
    max_rows: int
    """most ids of prompts that one `fill` or `step` takes"""
    shared_rows: int
    """most ids of prompts in a step of sequences that have started before"""
    lag: int
    """steps that may be launched before the ids of the first are read: 0 on a CPU, 1 on CUDA"""

    def fill(self, parts: Sequence[Part], /) -> None:
        """Caches ids. Earlier positions of the slots are cached already."""
        ...

    def copy(self, source: int, target: int, length: int, /) -> None:
        """Copies the first `length` cached positions of a slot to another."""
        ...

    def start(self, slot: int, length: int, newest: int, sampling: Sampling, row: int, /) -> None:
        """The slot holds `length` cached ids, followed by `newest`; its next step is number 0 of `sampling`.

        row: the number of the sequence in its request, for its random numbers, as the row of a batch in `generate`."""
        ...

    def step(self, slots: list[int], parts: Sequence[Part] = (), /) -> Callable[[], list[int]]:
        """Appends each slot's newest id and chooses its next; the function returned waits for those, in the order of
        `slots`. They are the ids of `generate` with this sampling, for the sequence in row `row` of a batch.

        parts: cached in the same pass, as by `fill`; those of a slot that starts with this step precede its newest id."""
        ...

    def logits(self, slot: int, /) -> np.ndarray:
        """(vocab_size,) fp32 of a slot in the last step, −inf for unused ids, before temperature."""
        ...

    def close(self) -> None:
        """Frees threads and memory."""
        ...


def leading_equal(ids: np.ndarray, others: np.ndarray) -> int:
    """How many leading ids of two texts are equal."""
    count = min(len(ids), len(others))
    different = np.flatnonzero(ids[:count] != others[:count])
    return int(different[0]) if len(different) else count
