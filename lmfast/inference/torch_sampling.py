"""Sampling of ids from logits with torch, on any device. Does not synchronise with the host.

Samples argmax(p / e) with e from Exp(1), which selects i with probability p_i (as in gpt-fast). The random numbers are
those of sampling.py. Top-p (Holtzman et al. 2020) keeps the smallest set of most likely ids whose probability reaches
top_p, at least the most likely one.
"""

import torch
from torch import Tensor

from lmfast.inference.sampling import Sampling, SamplingKind

# SplitMix64's constants (Steele et al. 2014), as int64.
_GOLDEN, _MIX_FIRST, _MIX_SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


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
