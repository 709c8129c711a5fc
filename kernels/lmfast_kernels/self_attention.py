"""Causal self-attention on a fused projection: rotation and attention, fused on a CPU.

In: qkv (batch, seq, (heads + 2 kv_heads) · head_dim), query heads, then key heads, then value heads; cos and sin
(at least seq, head_dim / 2), or None for no rotation; they get no gradient. Out: (batch, seq, heads · head_dim), the input
of the output projection. On a CPU in float32 (cpp/attention.h) nothing is transposed or copied between the projections,
and the backward writes the gradient of qkv directly. Otherwise it is `split_heads` and `attention`. Costs:
docs/kernels.md.
"""

import torch

from lmfast_kernels.attention import attention
from lmfast_kernels.cpu_library import call, uses_library
from lmfast_kernels.split_heads import split_heads, unrotated


def self_attention_reference(
    qkv: torch.Tensor,
    num_heads: int,
    num_kv_heads: int,
    cos: torch.Tensor | None = None,
    sin: torch.Tensor | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """The separate operators: used except in float32 on a CPU, and for windows shorter than seq."""
    sizes = qkv, num_heads, num_kv_heads
    q, k, v = unrotated(*sizes) if cos is None or sin is None else split_heads(*sizes, cos, sin)
    return attention(q, k, v, window=window).transpose(1, 2).flatten(2)


def _sizes(qkv: torch.Tensor, num_heads: int, num_kv_heads: int) -> tuple[int, int, int, int, int, float]:
    """(batch, seq, heads, kv_heads, head_dim, scale), the first arguments of the library's functions."""
    batch, seq, width = qkv.shape
    head_dim = width // (num_heads + 2 * num_kv_heads)
    return batch, seq, num_heads, num_kv_heads, head_dim, head_dim**-0.5


def _outputs(qkv: torch.Tensor, num_heads: int, num_kv_heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Uninitialised (out, lse)."""
    batch, seq, _, _, head_dim, _ = _sizes(qkv, num_heads, num_kv_heads)
    return qkv.new_empty((batch, seq, num_heads * head_dim)), qkv.new_empty((batch, num_heads, seq))


def _tables(
    cos: torch.Tensor | None, sin: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    return (None, None) if cos is None or sin is None else (cos.contiguous(), sin.contiguous())


@torch.library.custom_op("lmfast::cpu_self_attention", mutates_args=())
def _forward(
    qkv: torch.Tensor, cos: torch.Tensor | None, sin: torch.Tensor | None, num_heads: int, num_kv_heads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, base-2 logarithm of the softmax denominators (batch, heads, seq))."""
    out, lse = _outputs(qkv, num_heads, num_kv_heads)
    if qkv.numel():
        sizes = _sizes(qkv, num_heads, num_kv_heads)
        call("attention_forward", *sizes, qkv.contiguous(), *_tables(cos, sin), out, lse)
    return out, lse


@_forward.register_fake
def _(qkv, cos, sin, num_heads, num_kv_heads):
    return _outputs(qkv, num_heads, num_kv_heads)


@torch.library.custom_op("lmfast::cpu_self_attention_backward", mutates_args=())
def _backward(
    dout: torch.Tensor,
    qkv: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    out: torch.Tensor,
    lse: torch.Tensor,
    num_heads: int,
    num_kv_heads: int,
) -> torch.Tensor:
    dqkv = qkv.new_empty(qkv.shape)
    if qkv.numel():
        sizes = _sizes(qkv, num_heads, num_kv_heads)
        tensors = (
            qkv.contiguous(),
            *_tables(cos, sin),
            out.contiguous(),
            lse.contiguous(),
            dout.contiguous(),
            dqkv,
        )
        call("attention_backward", *sizes, *tensors)
    return dqkv


@_backward.register_fake
def _(dout, qkv, cos, sin, out, lse, num_heads, num_kv_heads):
    return qkv.new_empty(qkv.shape)


def _setup_context(ctx, inputs, output):
    qkv, cos, sin, ctx.num_heads, ctx.num_kv_heads = inputs
    ctx.save_for_backward(qkv, cos, sin, *output)
    ctx.set_materialize_grads(False)


def _autograd(ctx, dout, _dlse):
    return _backward(dout, *ctx.saved_tensors, ctx.num_heads, ctx.num_kv_heads), None, None, None, None


_forward.register_autograd(_autograd, setup_context=_setup_context)


def self_attention(
    qkv: torch.Tensor,
    num_heads: int,
    num_kv_heads: int,
    cos: torch.Tensor | None = None,
    sin: torch.Tensor | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """softmax(rotated q kᵀ / √head_dim, causal) v with concatenated heads, (batch, seq, heads · head_dim), for qkv (batch,
    seq, (heads + 2 kv_heads) · head_dim). With `window` a query sees that many keys, including its own. Raises ValueError
    for inconsistent shapes."""
    heads = num_heads + 2 * num_kv_heads
    if num_kv_heads < 1 or qkv.dim() != 3 or qkv.shape[2] % heads or num_heads % num_kv_heads:
        raise ValueError(
            f"self_attention: qkv {tuple(qkv.shape)} must be (batch, seq, {heads} heads · head_dim), "
            f"{num_heads} heads a multiple of {num_kv_heads} kv heads"
        )
    head_dim = qkv.shape[2] // heads
    if (cos is None) != (sin is None):
        raise ValueError("self_attention: cos and sin must both be given, or neither")
    if (
        cos is not None
        and sin is not None
        and (cos.shape != sin.shape or cos.shape[0] < qkv.shape[1] or 2 * cos.shape[1] != head_dim)
    ):
        raise ValueError(
            f"self_attention: cos {tuple(cos.shape)} and sin {tuple(sin.shape)} must be "
            f"(at least {qkv.shape[1]}, {head_dim} / 2)"
        )
    float_tables = all(table is None or table.dtype == torch.float32 for table in (cos, sin))
    whole = window is None or window >= qkv.shape[1]
    if float_tables and whole and uses_library(qkv):
        return _forward(qkv, cos, sin, num_heads, num_kv_heads)[0]
    return self_attention_reference(qkv, num_heads, num_kv_heads, cos, sin, window)
