"""The C++ decoder (decoder.py) as a SlotDecoder: sequences join and leave between steps. Does not import torch."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from lmfast.inference.cpu.decoder import READ_ROWS, CpuDecoder, Part
from lmfast.inference.cpu.plan import SamplingNumbers
from lmfast.inference.cpu.weights import DecoderWeights
from lmfast.inference.sampling import Sampling


class CpuSlots:
    """`slots` sequences; see lmfast.inference.slots.SlotDecoder.

    The ids of a sequence do not depend, to the bit, on the other sequences, nor on how its prompt is cut into fills."""

    lag = 0
    shared_rows = 64

    def __init__(
        self,
        weights: DecoderWeights,
        slots: int,
        threads: int | None = None,
        quantize: Literal["int8"] | None = None,
        context_length: int | None = None,
    ):
        """context_length: at most the model's, which is the default."""
        if context_length is not None:
            weights = replace(weights, config=replace(weights.config, context_length=context_length))
        self.slots, self.context_length = slots, weights.config.context_length
        self.vocab_size = weights.config.vocab_size
        self.decoder = CpuDecoder(weights, slots, Sampling(), threads, quantize)
        self.max_rows = READ_ROWS
        self.numbers = np.zeros(slots, np.int64)  # of each slot's next step
        self.stepped: list[int] = []

    def fill(self, parts: Sequence[Part]) -> None:
        self.decoder.fill(parts)

    def copy(self, source: int, target: int, length: int) -> None:
        self.decoder.copy(source, target, length)

    def start(self, slot: int, length: int, newest: int, sampling: Sampling, row: int) -> None:
        self.decoder.lengths[slot], self.decoder.newest[slot] = length, newest
        self.decoder.samplings[slot] = SamplingNumbers.of(sampling, row)
        self.numbers[slot] = 0

    def step(self, slots: list[int], parts: Sequence[Part] = ()) -> Callable[[], list[int]]:
        ids = self.decoder.step(slots, self.numbers[slots], parts)
        self.numbers[slots] += 1
        self.stepped = slots
        return ids

    def logits(self, slot: int) -> np.ndarray:
        return self.decoder.logits[self.stepped.index(slot)]

    def close(self) -> None:
        self.decoder.close()
