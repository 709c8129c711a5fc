"""Splits a fused projection into heads and rotates queries and keys, with a backward in one launch.

In: qkv (batch, seq, (heads + 2 kv_heads) · head_dim): query heads, then key heads, then value heads, any strides; cos and
sin (at least seq, head_dim / 2), applied as in `rope` at positions 0 … seq − 1. Out: q (batch, heads, seq, head_dim), k
and v (batch, kv_heads, seq, head_dim), with qkv's memory layout; v is a view of it. cos and sin get no gradient.

The forward is `rope`, which fuses with its neighbours in compiled code. The backward rotates dq and dk back and writes
them and dv as the gradient of qkv, with the minimum of memory traffic; Inductor's version takes 2.4 times as long
(docs/kernels.md).
"""

import torch

from lmfast_kernels.autograd import needs_gradient
from lmfast_kernels.backend import (
    dense_last,
    jit,
    register,
    tl,
    triton,
    use_triton,
    wrap_triton,
)
from lmfast_kernels.rope import pair_tile, rope, rotate_pairs


def split_heads_reference(
    qkv: torch.Tensor, num_heads: int, num_kv_heads: int, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same with views and `rope`: used without Triton, or if no gradient is needed."""
    q, k, v = unrotated(qkv, num_heads, num_kv_heads)
    return *rope(q, k, cos, sin), v


def unrotated(
    qkv: torch.Tensor, num_heads: int, num_kv_heads: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k and v as views of qkv."""
    heads = qkv.unflatten(2, (num_heads + 2 * num_kv_heads, -1))
    q, k, v = heads.split([num_heads, num_kv_heads, num_kv_heads], dim=2)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


@jit
def _join_heads_kernel(
    dq_ptr, dk_ptr, dv_ptr, cos_ptr, sin_ptr, out_ptr,
    seq, heads, kv_heads, cos_row, sin_row,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, out_batch, out_row,
    HALF: tl.constexpr, BLOCK_HALF: tl.constexpr, ROWS: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    """ROWS tokens of one head. Consecutive programs process consecutive heads, which are contiguous in the result."""
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    all_heads = heads + 2 * kv_heads
    program = tl.program_id(0)
    head = (program % all_heads).to(tl.int64)
    blocks = tl.cdiv(seq, ROWS)
    batch = (program // all_heads // blocks).to(tl.int64)
    rows = (program // all_heads % blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    half = tl.arange(0, BLOCK_HALF)[None, :]
    mask = (rows < seq) & (half < HALF)
    out = out_ptr + batch * out_batch + head * (2 * HALF)
    if head < heads + kv_heads:
        cos = tl.load(cos_ptr + rows * cos_row + half, mask=mask, other=0.0).to(ACC)
        sin = -tl.load(sin_ptr + rows * sin_row + half, mask=mask, other=0.0).to(ACC)
        if head < heads:
            x = dq_ptr + batch * q_batch + head * q_head
            rotate_pairs(x, out, rows, mask, half, cos, sin, HALF, q_row, 1, out_row, 1)
        else:
            x = dk_ptr + batch * k_batch + (head - heads) * k_head
            rotate_pairs(x, out, rows, mask, half, cos, sin, HALF, k_row, 1, out_row, 1)
    else:
        values = dv_ptr + batch * v_batch + (head - heads - kv_heads) * v_head + rows * v_row + half
        places = out + rows * out_row + half
        tl.store(places, tl.load(values, mask=mask), mask=mask)
        tl.store(places + HALF, tl.load(values + HALF, mask=mask), mask=mask)


@register("join_heads")
def _join_heads(
    dq: torch.Tensor, dk: torch.Tensor, dv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> torch.Tensor:
    """The gradient of qkv from the gradients of rotated q and k, and of v."""
    batch, heads, seq, head_dim = dq.shape
    kv_heads = dk.shape[1]
    out = torch.empty(batch, seq, (heads + 2 * kv_heads) * head_dim, dtype=dq.dtype, device=dq.device)
    if out.numel() == 0:
        return out
    dq, dk, dv, cos, sin = (dense_last(x) for x in (dq, dk, dv, cos, sin))
    tile = pair_tile(head_dim)
    grid = (batch * triton.cdiv(seq, tile["ROWS"]) * (heads + 2 * kv_heads),)
    wrap_triton(_join_heads_kernel)[grid](
        dq, dk, dv, cos, sin, out, seq, heads, kv_heads, cos.stride(0), sin.stride(0),
        *dq.stride()[:3], *dk.stride()[:3], *dv.stride()[:3], *out.stride()[:2],
        DOUBLE=dq.dtype == torch.float64, **tile,
    )  # fmt: skip
    return out


@_join_heads.register_fake
def _(dq, dk, dv, cos, sin):
    batch, heads, seq, head_dim = dq.shape
    return dq.new_empty((batch, seq, (heads + 2 * dk.shape[1]) * head_dim))


class _SplitHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx, qkv, num_heads, num_kv_heads, cos, sin):
        ctx.save_for_backward(cos, sin)
        return split_heads_reference(qkv, num_heads, num_kv_heads, cos, sin)

    @staticmethod
    def backward(ctx, dq, dk, dv):
        return _join_heads(dq, dk, dv, *ctx.saved_tensors), None, None, None, None


def split_heads(
    qkv: torch.Tensor, num_heads: int, num_kv_heads: int, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(rotated q, rotated k, v); does not check shapes."""
    if needs_gradient(qkv) and use_triton("split_heads", qkv):
        return _SplitHeads.apply(qkv, num_heads, num_kv_heads, cos.detach(), sin.detach())
    return split_heads_reference(qkv, num_heads, num_kv_heads, cos, sin)
