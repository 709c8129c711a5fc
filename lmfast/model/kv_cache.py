"""The static key/value cache: allocated once at the maximum length and written in place.

Layers have the shape of `lmfast_kernels.decode_attention`: (batch, num_kv_heads, max_length, head_dim). `fill` writes
prompts, whole or in parts, `lmfast_kernels.rope_append` single tokens. `lengths` (batch,) int32 is the number of valid
positions of each sequence; it is on the device, so that a decoding step does not wait for the host. Positions beyond it
are never read.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from lmfast.model.config import ResolvedConfig


@dataclass
class LayerCache:
    """One layer's keys and values, (batch, num_kv_heads, max_length, head_dim) each."""

    k: Tensor
    v: Tensor
    rows: Tensor | None = None  # (batch of the prompt,) int64: the sequences that `fill` writes; None: all
    begin: int = 0  # the position at which `fill` starts

    def fill(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Writes the keys and values of prompts, or of their parts from `begin`; returns those of all positions so far."""
        rows, end = slice(None) if self.rows is None else self.rows, self.begin + k.shape[2]
        self.k[rows, :, self.begin : end] = k.to(self.k.dtype)
        self.v[rows, :, self.begin : end] = v.to(self.v.dtype)
        return (self.k[rows, :, :end], self.v[rows, :, :end]) if self.begin else (k, v)


class KVCache:
    """The caches of all layers for `batch` sequences of at most `max_length` tokens."""

    def __init__(
        self, config: ResolvedConfig, batch: int, max_length: int, device: torch.device, dtype: torch.dtype
    ):
        shape = (batch, config.num_kv_heads, max_length, config.head_dim)
        # Separate tensors: with views of one tensor, torch.compile copied the whole cache at every layer's append.
        self.tensors = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(2 * config.num_layers)]
        self.layers = [LayerCache(k, v) for k, v in zip(self.tensors[::2], self.tensors[1::2], strict=True)]
        self.lengths = torch.zeros(batch, device=device, dtype=torch.int32)
        self.max_length = max_length

    def clear(self) -> None:
        """Zeroes the cache, so that positions beyond the length of a sequence are finite."""
        torch._foreach_zero_(self.tensors)

    def for_rows(self, rows: Tensor | None, begin: int = 0) -> list[LayerCache]:
        """The layers, with `fill` restricted to these sequences and starting at position `begin`."""
        return [LayerCache(c.k, c.v, rows, begin) for c in self.layers]

    def first(self, batch: int, lengths: Tensor) -> "KVCache":
        """The first `batch` sequences, in the same memory, with these lengths (batch,)."""
        part = copy.copy(self)
        part.tensors = [tensor[:batch] for tensor in self.tensors]
        part.layers = [LayerCache(c.k[:batch], c.v[:batch]) for c in self.layers]
        part.lengths = lengths
        return part

    def view(self, max_length: int) -> list[LayerCache]:
        """The first `max_length` positions of the layers, so that short sequences do not read the whole cache."""
        return [LayerCache(c.k[:, :, :max_length], c.v[:, :, :max_length]) for c in self.layers]
