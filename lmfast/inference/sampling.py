"""From logits to ids, on the device: greedy, temperature, top-k, top-p. Nothing here waits for the host.

Sampling takes argmax(p / e) with e drawn from Exp(1), which picks i with probability p_i (the exponential race, as
in gpt-fast). The draws are a function of (seed, step, row, id): SplitMix64 of that counter, whose top 23 bits make a
uniform number. So a captured graph needs no generator, the compiled CPU pass draws the same, and a sequence's text
does not depend on when its neighbours end. Nucleus sampling is Holtzman et al. 2020: the smallest set of most likely
ids whose probability reaches top_p; it always holds the most likely one.
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
    """What a captured choice of ids is made for: all that cannot be read from a tensor when it is replayed."""

    greedy: bool
    top_k_capacity: int | None  # a power of two, at least top_k
    nucleus: bool


@dataclass(frozen=True)
class Sampling:
    """How ids are chosen. Temperature 0 is greedy: the most likely id, the lowest where several are; so is one that is
    no normal number of float32 (below 1.2e-38), by which logits cannot be divided.

    Raises UserError for a value outside its range."""

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
            raise UserError(f"top_k is {self.top_k}; it must be at least 1 (leave it out to keep all ids)")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; it must be above 0 and at most 1")

    @property
    def key(self) -> int:
        """63 bits that the draws begin from."""
        return derive_seed(self.seed)

    @property
    def kind(self) -> SamplingKind:
        greedy = self.temperature == 0
        capacity = None if greedy or self.top_k is None else 1 << (self.top_k - 1).bit_length()
        return SamplingKind(greedy, capacity, not greedy and self.top_p is not None and self.top_p < 1)


class DeviceSampling:
    """A Sampling whose numbers are tensors: one captured graph serves every temperature, top_k, top_p and seed of a kind.

    `step` counts the choices made; all the numbers and the count travel in one copy.
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
        """Takes over the numbers of `sampling`, which must be of this kind, and begins again at step 0."""
        numbers = pinned_zeros(4, self._numbers.device)
        numbers[1], numbers[2] = sampling.key, sampling.top_k or 0
        floats = numbers[3:].view(torch.float32)
        floats[0], floats[1] = sampling.temperature, 1.0 if sampling.top_p is None else sampling.top_p
        self._numbers.copy_(numbers, non_blocking=True)


def pinned_zeros(size: int, device: torch.device) -> Tensor:
    """Int64 zeros (size,) on the host, from which a copy to `device` need not wait."""
    return torch.zeros(size, dtype=torch.int64, pin_memory=device.type == "cuda")


def filter_logits(
    logits: Tensor,
    top_k: int | Tensor | None = None,
    top_p: float | Tensor | None = None,
    top_k_capacity: int | None = None,  # with a tensor (1,) for top_k: at least its value; None: vocab_size
) -> Tensor:
    """Logits (batch, vocab_size) with everything outside the top k, then outside the nucleus, at −inf."""
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
        # An id is outside when the ids before it already reach top_p.
        outside = p.cumsum(dim=-1) - p >= top_p
        logits = logits.masked_fill(outside.scatter(-1, order, outside), float("-inf"))
    return logits


def sample(
    logits: Tensor,  # (batch, vocab_size)
    sampling: Sampling | DeviceSampling,
    step: int | Tensor,  # how many ids were chosen before; a tensor of no dimensions serves a captured graph
    rows: Tensor | None = None,  # (batch,) int64: the sequences' numbers; 0, 1, 2, … when not given
    out: Tensor | None = None,  # (batch,) int64
) -> Tensor:
    """Next ids (batch,) int64."""
    kind = sampling.kind
    if kind.greedy:
        return torch.argmax(logits, dim=-1, out=out)
    logits = logits.float()
    # The largest becomes 0 first, so that no temperature makes an infinity.
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / sampling.temperature
    p = filter_logits(logits, sampling.top_k, sampling.top_p, kind.top_k_capacity).softmax(dim=-1)
    if rows is None:
        rows = torch.arange(logits.shape[0], device=logits.device)
    draws = exponential(sampling.key, step, rows, logits.shape[-1])
    return torch.argmax(p / draws, dim=-1, out=out)


def exponential(key: int | Tensor, step: int | Tensor, rows: Tensor, vocab_size: int) -> Tensor:
    """Exp(1) draws (batch, vocab_size) fp32 of one step for the sequences with these numbers (batch,)."""
    if not isinstance(step, Tensor):
        step = torch.full((), step, dtype=torch.int64, device=rows.device)
    keys = _mix(_mix(key + step * _GOLDEN) + rows)
    bits = _mix(keys[:, None] + torch.arange(vocab_size, device=rows.device) * _GOLDEN)
    return -((_shift(bits, 41).float() + 0.5) * 2.0**-23).log()


def _shift(x: Tensor, bits: int) -> Tensor:
    """A logical shift to the right of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX_FIRST
    x = (x ^ _shift(x, 27)) * _MIX_SECOND
    return x ^ _shift(x, 31)
