"""Sampling of ids from logits on the device: greedy, temperature, top-k, top-p. Does not synchronise with the host.

Samples argmax(p / e) with e from Exp(1), which selects i with probability p_i (as in gpt-fast). The random numbers are a
function of (seed, step, row, id): the top 23 bits of SplitMix64 of that counter. So a captured graph needs no generator, the
compiled CPU decoder uses the same numbers, and the text of a sequence does not depend on when others end. Top-p (Holtzman
et al. 2020) keeps the smallest set of most likely ids whose probability reaches top_p, at least the most likely one.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lmfast.data.batches import derive_seed
from lmfast.errors import UserError

SMALLEST_TEMPERATURE = torch.finfo(torch.float32).tiny
# SplitMix64's constants (Steele et al. 2014), as int64.
_GOLDEN, _MIX_FIRST, _MIX_SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


class SamplingKind(NamedTuple):
    """The properties of a Sampling that are fixed in a captured graph; the others are tensors."""

    greedy: bool
    top_k_capacity: int | None  # a power of two, at least top_k
    nucleus: bool


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters. Temperature 0 is greedy: the most likely id, the lowest one on ties.

    Temperatures below 1.2e-38, which are not normal float32 numbers, count as 0. Raises UserError for values out of
    range."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self):
        if 0 < self.temperature < SMALLEST_TEMPERATURE:
            object.__setattr__(self, "temperature", 0.0)
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


class DeviceSampling:
    """A Sampling with its parameters in tensors, so that one captured graph serves all parameters of a kind.

    step: number of ids sampled so far. Parameters and step are copied to the device together.
    """

    def __init__(self, kind: SamplingKind, device: torch.device):
        self.kind = kind
        self._numbers = torch.zeros(4, dtype=torch.int64, device=device)
        self.step, self.key, top_k, floats = self._numbers.split(1)
        self.step, self.key = self.step.squeeze(0), self.key.squeeze(0)
        self.temperature, top_p = floats.view(torch.float32)
        self.top_k = None if kind.top_k_capacity is None else top_k
        self.top_p = top_p if kind.nucleus else None

    def set(self, sampling: Sampling) -> None:
        """Sets the parameters to those of `sampling`, which must be of this kind, and the step to 0."""
        numbers = pinned_zeros(4, self._numbers.device)
        numbers[1], numbers[2] = sampling.key, sampling.top_k or 0
        floats = numbers[3:].view(torch.float32)
        floats[0], floats[1] = sampling.temperature, 1.0 if sampling.top_p is None else sampling.top_p
        self._numbers.copy_(numbers, non_blocking=True)


def pinned_zeros(size: int, device: torch.device) -> Tensor:
    """Int64 zeros (size,) on the host, pinned so that copies to a CUDA `device` are asynchronous."""
    return torch.zeros(size, dtype=torch.int64, pin_memory=device.type == "cuda")


def filter_logits(
    logits: Tensor,
    top_k: int | Tensor | None = None,
    top_p: float | Tensor | None = None,
    top_k_capacity: int | None = None,  # with a tensor (1,) for top_k: at least its value; None: vocab_size
) -> Tensor:
    """Logits (batch, vocab_size) with −inf outside the top k, then outside the top p."""
    if isinstance(top_k, Tensor):
        capacity = logits.shape[-1] if top_k_capacity is None else min(top_k_capacity, logits.shape[-1])
        largest = logits.topk(capacity, dim=-1).values
        kth = largest.index_select(-1, (top_k - 1).clamp(max=largest.shape[-1] - 1))
        logits = logits.masked_fill(logits < kth, float("-inf"))
    elif top_k is not None and top_k < logits.shape[-1]:
        kth = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < kth, float("-inf"))
    if top_p is not None and (isinstance(top_p, Tensor) or top_p < 1):
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        p = ordered.softmax(dim=-1)
        # An id is excluded if the ids before it already reach top_p.
        outside = p.cumsum(dim=-1) - p >= top_p
        logits = logits.masked_fill(outside.scatter(-1, order, outside), float("-inf"))
    return logits


def sample(
    logits: Tensor,  # (batch, vocab_size)
    sampling: Sampling | DeviceSampling,
    step: int | Tensor,  # number of ids sampled before; a scalar tensor in a captured graph
    rows: Tensor | None = None,  # (batch,) int64: indices of the sequences; default 0, 1, 2, …
    out: Tensor | None = None,  # (batch,) int64
) -> Tensor:
    """Next ids (batch,) int64."""
    kind = sampling.kind
    if kind.greedy:
        return torch.argmax(logits, dim=-1, out=out)
    logits = logits.float()
    # Subtract the maximum first, so that no temperature overflows.
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / sampling.temperature
    p = filter_logits(logits, sampling.top_k, sampling.top_p, kind.top_k_capacity).softmax(dim=-1)
    if rows is None:
        rows = torch.arange(logits.shape[0], device=logits.device)
    draws = exponential(sampling.key, step, rows, logits.shape[-1])
    return torch.argmax(p / draws, dim=-1, out=out)


def exponential(key: int | Tensor, step: int | Tensor, rows: Tensor, vocab_size: int) -> Tensor:
    """Exp(1) random numbers (batch, vocab_size) fp32 of one step for the sequences `rows` (batch,)."""
    if not isinstance(step, Tensor):
        step = torch.full((), step, dtype=torch.int64, device=rows.device)
    keys = _mix(_mix(key + step * _GOLDEN) + rows)
    bits = _mix(keys[:, None] + torch.arange(vocab_size, device=rows.device) * _GOLDEN)
    return -((_shift(bits, 41).float() + 0.5) * 2.0**-23).log()


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX_FIRST
    x = (x ^ _shift(x, 27)) * _MIX_SECOND
    return x ^ _shift(x, 31)
