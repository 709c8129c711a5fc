"""The static key/value cache: allocated once at the longest length, written in place, never grown.

Shapes are those of `kernels.decode_attention`: (batch, num_kv_heads, max_length, head_dim) a layer. `lengths`
(batch,) int32 says how many positions of each sequence are valid; it lives on the device, so that a decoding step
never waits for the host. What lies beyond a sequence's length is never read.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lmfast.model.config import ModelConfig


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

    def append(self, k: Tensor, v: Tensor, lengths: Tensor) -> None:
        """Writes one token's keys and values (batch, num_kv_heads, 1, head_dim) at each sequence's own length."""
        rows = torch.arange(k.shape[0], device=k.device)
        self.k[rows, :, lengths] = k.squeeze(2).to(self.k.dtype)
        self.v[rows, :, lengths] = v.squeeze(2).to(self.v.dtype)


class KVCache:
    """All layers' caches for `batch` sequences of at most `max_length` tokens."""

    def __init__(
        self, config: ModelConfig, batch: int, max_length: int, device: torch.device, dtype: torch.dtype
    ):
        shape = (config.num_layers, 2, batch, config.num_kv_heads, max_length, config.head_dim)
        self.storage = torch.zeros(shape, device=device, dtype=dtype)
        self.layers = [LayerCache(k, v) for k, v in self.storage]
        self.lengths = torch.zeros(batch, device=device, dtype=torch.int32)
        self.max_length = max_length

    def of_rows(self, rows: Tensor | None) -> list[LayerCache]:
        """The layers as `fill` shall write them: those sequences only."""
        return [LayerCache(c.k, c.v, rows) for c in self.layers]

    def view(self, max_length: int) -> list[LayerCache]:
        """The layers' first `max_length` positions: a short sequence need not read a long cache."""
        return [LayerCache(c.k[:, :, :max_length], c.v[:, :, :max_length]) for c in self.layers]

    @staticmethod
    def bytes_per_token(config: ModelConfig, element_size: int = 2) -> int:
        """Bytes that one more token of one sequence occupies, all layers."""
        return 2 * config.num_layers * config.num_kv_heads * config.head_dim * element_size
