"""The static key/value cache: allocated once at the longest length, written in place, never grown.

Shapes are those of `lmfast_kernels.decode_attention`: (batch, num_kv_heads, max_length, head_dim) a layer. Prompts are
written by `fill`, single tokens by `lmfast_kernels.rope_append`. `lengths`
(batch,) int32 says how many positions of each sequence are valid; it lives on the device, so that a decoding step
never waits for the host. What lies beyond a sequence's length is never read.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lmfast.model.config import ResolvedConfig


@dataclass
class LayerCache:
    """One layer's keys and values, (batch, num_kv_heads, max_length, head_dim) each."""

    k: Tensor
    v: Tensor
    rows: Tensor | None = None  # (batch of a prompt,) int64: the sequences `fill` writes, where not all

    def fill(self, k: Tensor, v: Tensor) -> None:
        """Writes whole prompts' keys and values from position 0."""
        if self.rows is None:
            self.k[:, :, : k.shape[2]] = k
            self.v[:, :, : v.shape[2]] = v
        else:
            self.k[self.rows, :, : k.shape[2]] = k.to(self.k.dtype)
            self.v[self.rows, :, : v.shape[2]] = v.to(self.v.dtype)


class KVCache:
    """All layers' caches for `batch` sequences of at most `max_length` tokens."""

    def __init__(
        self, config: ResolvedConfig, batch: int, max_length: int, device: torch.device, dtype: torch.dtype
    ):
        shape = (batch, config.num_kv_heads, max_length, config.head_dim)
        # Each in memory of its own: of views of one tensor torch.compile copied the whole cache for each layer's append.
        self.tensors = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(2 * config.num_layers)]
        self.layers = [LayerCache(k, v) for k, v in zip(self.tensors[::2], self.tensors[1::2], strict=True)]
        self.lengths = torch.zeros(batch, device=device, dtype=torch.int32)
        self.max_length = max_length

    def clear(self) -> None:
        """Forgets what was in it: whatever lies beyond a sequence's length is finite again."""
        torch._foreach_zero_(self.tensors)

    def for_rows(self, rows: Tensor | None) -> list[LayerCache]:
        """The layers as `fill` shall write them: those sequences only."""
        return [LayerCache(c.k, c.v, rows) for c in self.layers]

    def view(self, max_length: int) -> list[LayerCache]:
        """The layers' first `max_length` positions: a short sequence need not read a long cache."""
        return [LayerCache(c.k[:, :, :max_length], c.v[:, :, :max_length]) for c in self.layers]
