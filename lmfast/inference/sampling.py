"""From logits to ids, on the device: greedy, temperature, top-k, top-p. Nothing here waits for the host.

Sampling takes argmax(p / e) with e drawn from Exp(1), which picks i with probability p_i (the exponential race, as
in gpt-fast). The draws are a function of (seed, step, row, id): SplitMix64 of that counter, whose top 23 bits make a
uniform number. So a captured graph needs no generator, the compiled CPU pass draws the same, and a sequence's text
does not depend on when its neighbours end. Nucleus sampling is Holtzman et al. 2020: the smallest set of most likely
ids whose probability reaches top_p; it always holds the most likely one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lmfast.data.batches import derive_seed
from lmfast.errors import UserError

# SplitMix64's constants (Steele et al. 2014), as int64.
_GOLDEN, _MIX_FIRST, _MIX_SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


@dataclass(frozen=True)
class Sampling:
    """How ids are chosen. Temperature 0 is greedy: the most likely id, the lowest where several are.

    Raises UserError for a value outside its range."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self):
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


def filter_logits(logits: Tensor, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Logits (batch, vocab_size) with everything outside the top k, then outside the nucleus, at −inf."""
    if top_k is not None and top_k < logits.shape[-1]:
        kth = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < kth, float("-inf"))
    if top_p is not None and top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        p = ordered.softmax(dim=-1)
        # An id is outside when the ids before it already reach top_p.
        outside = p.cumsum(dim=-1) - p >= top_p
        logits = logits.masked_fill(outside.scatter(-1, order, outside), float("-inf"))
    return logits


def sample(
    logits: Tensor,  # (batch, vocab_size)
    sampling: Sampling,
    step: int | Tensor,  # how many ids were chosen before; a tensor of no dimensions serves a captured graph
    rows: Tensor | None = None,  # (batch,) int64: the sequences' numbers; 0, 1, 2, … when not given
) -> Tensor:
    """Next ids (batch,) int64."""
    logits = logits.float()
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    # The largest becomes 0 first, so that no temperature makes an infinity.
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / sampling.temperature
    p = filter_logits(logits, sampling.top_k, sampling.top_p).softmax(dim=-1)
    if rows is None:
        rows = torch.arange(logits.shape[0], device=logits.device)
    return (p / exponential(sampling.key, step, rows, logits.shape[-1])).argmax(dim=-1)


def exponential(key: int, step: int | Tensor, rows: Tensor, vocab_size: int) -> Tensor:
    """Exp(1) draws (batch, vocab_size) fp32 of one step for the sequences with these numbers (batch,)."""
    step = torch.as_tensor(step, dtype=torch.int64, device=rows.device)
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
