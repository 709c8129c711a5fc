"""The parts of a transformer block: normalisation, attention, feed-forward. All operators are from lmfast_kernels.

Activations are (batch, seq, d_model) in the autocast dtype; weights are fp32. Sources: RMSNorm,
Zhang & Sennrich 2019; RoPE, Su et al. 2021; SwiGLU, Shazeer 2020; grouped-query attention, Ainslie et al. 2023;
squared ReLU, So et al. 2021; QK-norm, Henry et al. 2020; parallel block, GPT-J (Wang & Komatsuzaki 2021); value
embeddings, modded-nanogpt (Jordan et al. 2024) after Zhou et al. 2024, arXiv:2410.17897; sliding windows, Beltagy et
al. 2020, in some layers only as in nanochat.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import lmfast_kernels
from lmfast.model.config import ResolvedConfig
from lmfast.model.experts import SparseFeedForward
from lmfast.model.kv_cache import LayerCache
from lmfast.model.projections import FusedLinear, Linear, activate
from lmfast.model.shards import WHOLE, Shards


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension; with `residual`, first adds it and also returns the sum."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor, residual: Tensor | None = None):
        return lmfast_kernels.rms_norm(x, self.weight, self.eps, residual)


class NoNorm(nn.Module):
    """The `norm: none` ablation, with RMSNorm's interface."""

    def forward(self, x: Tensor, residual: Tensor | None = None):
        return x if residual is None else (x + residual, x + residual)


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """`model.named_modules()`, with the type that torch does not declare."""
    return model.named_modules()


def make_norm(config: ResolvedConfig) -> nn.Module:
    return NoNorm() if config.norm == "none" else RMSNorm(config.d_model, config.norm_eps)


def decode_normed(
    norm: nn.Module | None, weight: Tensor, delta: Tensor, residual: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(norm(s) weightᵀ, s) where s = delta + residual, for one new token per sequence. norm, residual: None for none."""
    if isinstance(norm, RMSNorm):
        return lmfast_kernels.decode_norm_linear(delta, norm.weight, weight, norm.eps, residual)
    s = delta if residual is None else delta + residual
    return lmfast_kernels.decode_linear(s, weight), s


class Head(nn.Linear):
    """The output layer: hidden states (..., d_model) → logits (..., vocab_size), or directly their loss."""

    fp8 = False  # whether the products of the loss use FP8 in training; see model/fp8.py

    def __init__(self, d_model: int, vocab_size: int):
        super().__init__(d_model, vocab_size, bias=False)

    def cross_entropy(
        self,
        hidden: Tensor,
        targets: Tensor,
        ignore_index: int,
        softcap: float | None,
        z_loss: float = 0.0,
        fp8: bool = False,
    ) -> Tensor:
        """Summed loss of hidden (tokens, d_model) and targets (tokens,), as `lmfast_kernels.linear_cross_entropy`."""
        return lmfast_kernels.linear_cross_entropy(
            hidden, self.weight, targets, ignore_index, softcap, z_loss, fp8=fp8
        )[0]


class Attention(nn.Module):
    """Causal grouped-query self-attention with one fused projection for queries, keys and values.

    A value embedding adds a learned vector of the token, with one weight per head, to the values. With a window, a token
    attends to itself and the window − 1 tokens before it.
    """

    def __init__(self, config: ResolvedConfig, layer: int = 0):
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = (
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
        )
        self.rotate = config.position == "rope"
        self.window = config.layer_window(layer)
        kv = self.num_kv_heads * self.head_dim
        self.qkv = FusedLinear(config.d_model, [config.attention_width, kv, kv], config.qkv_bias)
        self.out = Linear(config.attention_width, config.d_model)
        self.q_norm = RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else None
        self.value_embedding = None
        if config.has_value_embedding(layer):
            self.value_embedding = nn.Embedding(config.vocab_size, kv)
            self.value_weight = nn.Parameter(torch.empty(self.num_kv_heads, 1))

    def _window_within(self, length: int) -> int | None:
        """The window, or None if it covers all `length` positions and so equals full attention."""
        return self.window if self.window is not None and self.window < length else None

    def split_heads(self, projected: Tensor, ids: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (batch, seq, num_heads, head_dim), keys and values (batch, seq, num_kv_heads, …), before rotation, from
        the product of qkv.
        """
        batch, seq, _ = projected.shape
        heads = projected.view(batch, seq, self.num_heads + 2 * self.num_kv_heads, self.head_dim)
        q, k, v = heads.split([self.num_heads, self.num_kv_heads, self.num_kv_heads], dim=2)
        if self.value_embedding is not None:
            v = v + (self.value_weight * self.value_embedding(ids).view_as(v)).to(v.dtype)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        return q, k, v

    def forward(
        self,
        x: Tensor,  # (batch, seq, d_model)
        rope: tuple[Tensor, Tensor],
        positions: Tensor | None = None,  # (batch, seq), for packed rows
        document_ids: Tensor | None = None,  # (batch, seq): attention stays within equal ids
        cache: LayerCache | None = None,  # receives the keys and values of `x`, and has those before it
        ids: Tensor | None = None,  # (batch, seq): token ids, for value embeddings
    ) -> Tensor:
        window = self._window_within(x.shape[1])
        plain = self.q_norm is None and self.value_embedding is None and window is None
        if plain and positions is None and document_ids is None and cache is None:
            tables = rope if self.rotate else (None, None)
            return self.out(
                lmfast_kernels.self_attention(self.qkv(x), self.num_heads, self.num_kv_heads, *tables)
            )
        q, k, v = (heads.transpose(1, 2) for heads in self.split_heads(self.qkv(x), ids))
        if self.rotate:
            q, k = lmfast_kernels.rope(q, k, *rope, positions)
        if cache is not None:
            k, v = cache.fill(k, v)
            window = self._window_within(k.shape[2])
        attended = lmfast_kernels.attention(q, k, v, causal=True, document_ids=document_ids, window=window)
        return self.out(attended.transpose(1, 2).flatten(2))

    def decode(
        self,
        projected: Tensor,
        rope: tuple[Tensor, Tensor],
        lengths: Tensor,
        cache: LayerCache,
        ids: Tensor | None = None,
    ) -> Tensor:
        """Attention of one new token per sequence.

        projected: product of qkv (batch, 1, …); ids (batch, 1); lengths (batch,), including the new token.
        """
        q, k, v = (heads.squeeze(1) for heads in self.split_heads(projected, ids))
        tables = rope if self.rotate else (None, None)
        q = lmfast_kernels.rope_append(q, k, v, *tables, lengths, cache.k, cache.v)
        window = self._window_within(cache.k.shape[2])
        attended = lmfast_kernels.decode_attention(q, cache.k, cache.v, lengths, window=window)
        return lmfast_kernels.decode_linear(attended.flatten(1)[:, None], self.out.weight)


Attend = Callable[[Attention, Tensor], Tensor]
"""runs a block's attention: (attention, its input (batch, seq, d_model), or in decoding qkv's product) → its output"""


class FeedForward(nn.Module):
    """SwiGLU with gate and up in one projection, or an ungated ablation with the same number of parameters."""

    def __init__(self, config: ResolvedConfig):
        super().__init__()
        self.kind = config.ffn
        hidden = config.ffn_hidden
        self.up = FusedLinear(config.d_model, [hidden, hidden] if self.kind == "swiglu" else [hidden])
        self.down = Linear(hidden, config.d_model)

    def use_fp8(self, on: bool) -> None:
        """Switches FP8 products in training on or off; see model/fp8.py."""
        self.up.fp8 = self.down.fp8 = on

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "swiglu":
            weights = self.up.weight, self.down.weight
            return lmfast_kernels.feed_forward(x, *weights, fp8=self.up.fp8 and self.training)
        return self.down(activate(self.kind, self.up(x)))

    def decode_down(self, up: Tensor) -> Tensor:
        """Activation and down projection for one new token per sequence, from the product of `up` (batch, 1, …)."""
        if self.kind == "swiglu":
            return lmfast_kernels.decode_swiglu_linear(up, self.down.weight)
        return lmfast_kernels.decode_linear(activate(self.kind, up), self.down.weight)


class Block(nn.Module):
    """Attention and feed-forward with a residual stream.

    With `norm: pre`, the stream is passed as (delta, residual), so that adding the output of a sublayer and normalising
    the sum are one operator. The other arrangements return the whole stream as delta, with residual None.
    """

    shards: Shards = WHOLE
    recomputed: Callable[..., tuple[Tensor, Tensor | None]] | None = None
    """runs a function of the residual stream, and again in the backward; see recomputation.py"""

    def __init__(self, config: ResolvedConfig, layer: int = 0):
        super().__init__()
        self.post_norm = config.norm == "post"
        self.attention_norm = make_norm(config)
        self.attention = Attention(config, layer)
        self.ffn_norm = None if config.parallel_block else make_norm(config)
        self.feed_forward = SparseFeedForward(config) if config.num_experts else FeedForward(config)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(
        self, delta: Tensor, residual: Tensor | None, attend: Attend, counted: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(delta, residual) after this block, and in training with experts the load of `counted` (`experts.route`)."""
        if self.recomputed is None or not self.training or not torch.is_grad_enabled():
            return self._forward(delta, residual, attend, counted)
        # The sum, so that one tensor is kept for the backward instead of two.
        stream = delta if residual is None else delta + residual
        stream, load = self.recomputed(lambda x: self._stream(x, attend, counted), stream)
        return stream, None, load

    def _stream(self, x: Tensor, attend: Attend, counted: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The residual stream after this block, from the one before it; the load."""
        delta, residual, load = self._forward(x, None, attend, counted)
        return delta if residual is None else delta + residual, load

    def _forward(
        self, delta: Tensor, residual: Tensor | None, attend: Attend, counted: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        ffn_norm, enter, leave = self.ffn_norm, self.shards.enter, self.shards.leave
        if self.post_norm and ffn_norm is not None:
            x = self.attention_norm(delta + self.dropout(leave(attend(self.attention, enter(delta)))))
            y, load = self._feed_forward(enter(x), counted)
            return ffn_norm(x + self.dropout(leave(y))), None, load
        if residual is None:
            residual, x = delta, self.attention_norm(delta)
        else:
            x, residual = self.attention_norm(delta, residual)
        if ffn_norm is None:  # parallel
            x = enter(x)
            attended = self.dropout(attend(self.attention, x))
            y, load = self._feed_forward(x, counted)
            return leave(attended + self.dropout(y)), residual, load
        x, residual = ffn_norm(self.dropout(leave(attend(self.attention, enter(x)))), residual)
        y, load = self._feed_forward(enter(x), counted)
        return self.dropout(leave(y)), residual, load

    def _feed_forward(self, x: Tensor, counted: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The output of the feed-forward, and the load of its experts, if it has any."""
        layer = self.feed_forward
        return layer(x, counted) if isinstance(layer, SparseFeedForward) else (layer(x), None)

    def decode(self, delta: Tensor, residual: Tensor | None, attend: Attend) -> tuple[Tensor, Tensor | None]:
        """`forward` for one new token per sequence; attend(attention, projected) takes the product of qkv.

        With `norm: pre`, each norm and SwiGLU is fused with the product that reads it (lmfast_kernels/decode_linear.py).
        """
        if self.post_norm or self.ffn_norm is None:
            return self.forward(delta, residual, lambda attention, x: attend(attention, attention.qkv(x)))[:2]
        layer, qkv = self.feed_forward, self.attention.qkv.weight
        projected, residual = decode_normed(self.attention_norm, qkv, delta, residual)
        leave = self.shards.leave
        delta = self.dropout(leave(attend(self.attention, self.attention.qkv.add_bias(projected))))
        if isinstance(layer, SparseFeedForward):
            x, residual = self.ffn_norm(delta, residual)
            return self.dropout(leave(layer(x)[0])), residual
        hidden, residual = decode_normed(self.ffn_norm, layer.up.weight, delta, residual)
        return self.dropout(leave(layer.decode_down(hidden))), residual


class Blocks(nn.ModuleList):
    """The blocks of a model, in order."""

    if TYPE_CHECKING:

        def __iter__(self) -> Iterator[Block]: ...
