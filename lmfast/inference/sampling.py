"""The parameters of sampling: greedy, temperature, top-k, top-p. Does not import torch.

The random numbers are a function of (seed, step, row, id): the top 23 bits of SplitMix64 of that counter. So a captured
graph needs no generator, all decoders use the same numbers, and the text of a sequence does not depend on when others end.
torch_sampling.py samples with torch; the CPU decoder does the same in compiled code.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lmfast.data.batches import derive_seed
from lmfast.errors import UserError

SMALLEST = float(np.finfo(np.float32).tiny)


class SamplingKind(NamedTuple):
    """The properties of a Sampling that are fixed in a captured graph; the others are tensors."""

    greedy: bool
    top_k_capacity: int | None  # a power of two, at least top_k
    nucleus: bool


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters. Temperature 0 is greedy: the most likely id, the lowest one on ties.

    Numbers below 1.2e-38, which are not normal float32 numbers, count as 0 for temperature and as 1.2e-38 for top_p, which
    keeps one id. Raises UserError for values out of range."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self):
        if 0 < self.temperature < SMALLEST:
            object.__setattr__(self, "temperature", 0.0)
        if self.top_p is not None and 0 < self.top_p < SMALLEST:
            object.__setattr__(self, "top_p", SMALLEST)
        if not (self.temperature >= 0 and self.temperature < float("inf")):
            raise UserError(
                f"temperature is {self.temperature}; it must be a number of at least 0 (0 is greedy)"
            )
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k is {self.top_k}; it must be at least 1, or not set to keep all ids")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; it must be above 0 and at most 1")

    @property
    def key(self) -> int:
        """The 63-bit key of the random numbers."""
        return derive_seed(self.seed)

    @property
    def kind(self) -> SamplingKind:
        greedy = self.temperature == 0
        capacity = None if greedy or self.top_k is None else 1 << (self.top_k - 1).bit_length()
        return SamplingKind(greedy, capacity, not greedy and self.top_p is not None and self.top_p < 1)
