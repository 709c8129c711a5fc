"""Sampling of ids from logits with torch, on any device. Does not synchronise with the host.

Samples argmax(p / e) with e from Exp(1), which selects i with probability p_i (as in gpt-fast). The random numbers are
those of sampling.py. Top-p (Holtzman et al. 2020) keeps the smallest set of most likely ids whose probability reaches
top_p, at least the most likely one.
"""

from collections.abc import Iterable
from enum import IntEnum

import numpy as np
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


class RowKind(IntEnum):
    """What the rows of a step need. A step of a kind also serves rows of lower kinds."""

    GREEDY = 0
    FREE = 1  # a temperature, without top-k and top-p
    FILTERED = 2  # sorts the logits

    @classmethod
    def of(cls, samplings: Iterable[Sampling]) -> "RowKind":
        """The lowest kind that serves these rows."""
        kinds = [sampling.kind for sampling in samplings]
        if any(kind.nucleus or kind.top_k_capacity is not None for kind in kinds):
            return cls.FILTERED
        return cls.GREEDY if all(kind.greedy for kind in kinds) else cls.FREE


class RowSampling:
    """The parameters of rows with a Sampling each, so that one captured graph serves all parameters of a kind.

    numbers: int64 (NUMBERS, rows), whose columns are set to `column`. step: numbers of ids sampled so far, (rows,). row:
    what enters the random numbers of each, (rows,).
    """

    NUMBERS = 5

    def __init__(self, kind: RowKind, numbers: Tensor):
        self.kind = kind
        self.step, self.key, self.row, top_k, floats = numbers
        self.top_k = top_k[:, None]
        self.temperature, self.top_p = floats.view(torch.float32).view(-1, 2, 1).unbind(1)

    @staticmethod
    def column(sampling: Sampling, row: int) -> list[int]:
        """The numbers of a row before its first step."""
        kind = sampling.kind
        top_p = sampling.top_p if kind.nucleus and sampling.top_p is not None else float("inf")
        floats = np.array([sampling.temperature, top_p], np.float32)
        # The largest number keeps all ids. A greedy row has no filter.
        top_k = sampling.top_k if kind.top_k_capacity is not None else None
        top_k = top_k or np.iinfo(np.int64).max
        return [0, sampling.key, row, top_k, int(floats.view(np.int64)[0])]


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
        logits = _within_nucleus(logits, ordered, order, top_p)
    return logits


def _filter_rows(logits: Tensor, sampling: RowSampling) -> Tensor:
    """`filter_logits` with the top_k and top_p of each row, and one sort for both."""
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    kth = ordered.gather(-1, (sampling.top_k - 1).clamp(0, logits.shape[-1] - 1))
    logits, ordered = (x.masked_fill(x < kth, float("-inf")) for x in (logits, ordered))
    return _within_nucleus(logits, ordered, order, sampling.top_p)


def _within_nucleus(logits: Tensor, ordered: Tensor, order: Tensor, top_p: float | Tensor) -> Tensor:
    """Logits with −inf outside the top p. ordered: logits[order], descending."""
    p = ordered.softmax(dim=-1)
    # An id is excluded if the ids before it already reach top_p.
    outside = p.cumsum(dim=-1) - p >= top_p
    return logits.masked_fill(outside.scatter(-1, order, outside), float("-inf"))


def sample_rows(logits: Tensor, sampling: RowSampling, out: Tensor | None = None) -> Tensor:
    """Next ids (rows,) int64 of rows with a Sampling each: those that `sample` chooses, to the bit."""
    if sampling.kind is RowKind.GREEDY:
        return torch.argmax(logits, dim=-1, out=out)
    logits = logits.float()
    greedy = sampling.temperature == 0
    scaled = logits - logits.amax(dim=-1, keepdim=True)
    scaled = scaled / sampling.temperature.masked_fill(greedy, 1.0)
    if sampling.kind is RowKind.FILTERED:
        scaled = _filter_rows(scaled, sampling)
    draws = exponential(sampling.key, sampling.step, sampling.row, logits.shape[-1])
    return torch.argmax(torch.where(greedy, logits, scaled.softmax(dim=-1) / draws), dim=-1, out=out)


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
    """Exp(1) random numbers (batch, vocab_size) fp32 of one step for the sequences `rows` (batch,).

    key, step: of all sequences, or a tensor (batch,)."""
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
