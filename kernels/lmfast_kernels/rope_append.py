"""Rotary embedding and cache append of a decoding step in one launch: rotates q and k, writes k and v to the caches.

In: q (batch, heads, head_dim), k and v (batch, kv_heads, head_dim), any strides; cos and sin (max_positions,
head_dim / 2), or None for no rotation; lengths, integers (batch,): each sequence's length including the new token, as
in `decode_attention`, so the token's position and cache row are lengths − 1; k_cache and
v_cache (batch, kv_heads, max_len, head_dim), any strides, **written in place** at that row only.
Out: the rotated q (batch, heads, head_dim), contiguous, in the caches' dtype. Half-split layout and float32
arithmetic as in `rope`. No gradient. Lengths must be in 1 … max_len; the kernel writes nothing for others. Autocast has no
effect. Source: Su et al. 2021, arXiv:2104.09864. Costs: docs/kernels.md.
"""

import torch

from lmfast_kernels.backend import (
    dense_last,
    jit,
    power_of_two,
    register,
    tl,
    use_triton,
    wrap_triton,
)
from lmfast_kernels.rope import rope_reference


def rope_append_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    lengths: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
) -> torch.Tensor:
    """The same in plain PyTorch: the oracle, and the implementation without Triton."""
    places = lengths.long() - 1
    if cos is not None and sin is not None:
        q, k = rope_reference(q.unsqueeze(2), k.unsqueeze(2), cos, sin, places.unsqueeze(1))
        q, k = q.squeeze(2), k.squeeze(2)
    rows = torch.arange(q.shape[0], device=q.device)
    k_cache[rows, :, places] = k.to(k_cache.dtype)
    v_cache[rows, :, places] = v.to(v_cache.dtype)
    return q.to(k_cache.dtype).contiguous()


@jit
def _rope_append_kernel(
    q_ptr, k_ptr, v_ptr, cos_ptr, sin_ptr, lengths_ptr, q_out_ptr, k_cache_ptr, v_cache_ptr,
    heads, kv_heads, max_len, cos_row, sin_row,
    q_batch, q_head, k_batch, k_head, v_batch, v_head,
    kc_batch, kc_head, kc_row, kc_dim, vc_batch, vc_head, vc_row, vc_dim,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, ROTATE: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    """One head of q, k or v of one sequence."""
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    HALF: tl.constexpr = HEAD_DIM // 2
    batch, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    place = tl.load(lengths_ptr + batch).to(tl.int64) - 1
    inside = (place >= 0) & (place < max_len)
    dims = tl.arange(0, BLOCK_D)
    mask = dims < HEAD_DIM
    if head < heads:
        x_ptr = q_ptr + batch * q_batch + head * q_head
    elif head < heads + kv_heads:
        x_ptr = k_ptr + batch * k_batch + (head - heads) * k_head
    else:
        x_ptr = v_ptr + batch * v_batch + (head - heads - kv_heads) * v_head
    x = tl.load(x_ptr + dims, mask=mask, other=0.0).to(ACC)
    if ROTATE:  # noqa: SIM102 (a compile-time condition; the next one is not)
        if head < heads + kv_heads:
            first = dims < HALF
            angle = tl.where(first, dims, dims - HALF)
            other = tl.load(x_ptr + tl.where(first, dims + HALF, dims - HALF), mask=mask, other=0.0).to(ACC)
            cos = tl.load(cos_ptr + place * cos_row + angle, mask=mask & inside, other=0.0).to(ACC)
            sin = tl.load(sin_ptr + place * sin_row + angle, mask=mask & inside, other=0.0).to(ACC)
            x = x * cos + tl.where(first, -other, other) * sin
    if head < heads:
        out_ptr = q_out_ptr + (batch * heads + head) * HEAD_DIM
        tl.store(out_ptr + dims, x.to(q_out_ptr.dtype.element_ty), mask=mask)
    elif head < heads + kv_heads:
        row_ptr = k_cache_ptr + batch * kc_batch + (head - heads) * kc_head + place * kc_row
        tl.store(row_ptr + dims * kc_dim, x.to(k_cache_ptr.dtype.element_ty), mask=mask & inside)
    else:
        row_ptr = v_cache_ptr + batch * vc_batch + (head - heads - kv_heads) * vc_head + place * vc_row
        tl.store(row_ptr + dims * vc_dim, x.to(v_cache_ptr.dtype.element_ty), mask=mask & inside)


@register("rope_append", mutates=("k_cache", "v_cache"))
def _rope_append(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    lengths: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
) -> torch.Tensor:
    batch, heads, head_dim = q.shape
    kv_heads, max_len = k_cache.shape[1], k_cache.shape[2]
    q_out = torch.empty(q.shape, dtype=k_cache.dtype, device=q.device)
    if q_out.numel() == 0:
        return q_out
    q, k, v = dense_last(q), dense_last(k), dense_last(v)
    lengths = lengths.contiguous()
    rotate = cos is not None
    cos, sin = (q, q) if cos is None or sin is None else (dense_last(cos), dense_last(sin))
    block_d = power_of_two(head_dim)
    wrap_triton(_rope_append_kernel)[(batch, heads + 2 * kv_heads)](
        q, k, v, cos, sin, lengths, q_out, k_cache, v_cache,
        heads, kv_heads, max_len, cos.stride(0), sin.stride(0),
        *q.stride()[:2], *k.stride()[:2], *v.stride()[:2], *k_cache.stride(), *v_cache.stride(),
        HEAD_DIM=head_dim, BLOCK_D=block_d, ROTATE=rotate, DOUBLE=q.dtype == torch.float64,
        num_warps=1 if block_d <= 128 else 2,
    )  # fmt: skip
    return q_out


@_rope_append.register_fake
def _(q, k, v, cos, sin, lengths, k_cache, v_cache):
    return torch.empty(q.shape, dtype=k_cache.dtype, device=q.device)


def _validate(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    lengths: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
) -> None:
    if q.dim() != 3 or k.dim() != 3 or k.shape != v.shape or k.shape[::2] != q.shape[::2]:
        raise ValueError(
            f"rope_append: q {tuple(q.shape)} must be (batch, heads, head_dim), k {tuple(k.shape)} and "
            f"v {tuple(v.shape)} (batch, kv_heads, head_dim)"
        )
    if (
        k_cache.dim() != 4
        or k_cache.shape != v_cache.shape
        or k_cache.shape[:2] != k.shape[:2]
        or k_cache.shape[3] != k.shape[2]
    ):
        raise ValueError(
            f"rope_append: caches {tuple(k_cache.shape)} and {tuple(v_cache.shape)} must both be (batch, "
            f"kv_heads, max_len, head_dim) for k {tuple(k.shape)}"
        )
    if k_cache.dtype != v_cache.dtype or not q.dtype == k.dtype == v.dtype:
        raise ValueError(
            f"rope_append: q, k, v are {q.dtype}, {k.dtype}, {v.dtype}, caches {k_cache.dtype}, {v_cache.dtype}; "
            "give q, k and v one dtype, and both caches one"
        )
    if (cos is None) != (sin is None):
        raise ValueError("rope_append: cos and sin must both be given, or neither")
    if cos is not None and sin is not None:
        if q.shape[-1] % 2:
            raise ValueError(f"rope_append: head_dim {q.shape[-1]} must be even to be rotated")
        if cos.dim() != 2 or cos.shape != sin.shape or cos.shape[1] * 2 != q.shape[-1]:
            raise ValueError(
                f"rope_append: cos {tuple(cos.shape)} and sin {tuple(sin.shape)} must be "
                f"(max_positions, {q.shape[-1] // 2})"
            )
        if cos.shape[0] < k_cache.shape[2]:
            raise ValueError(
                f"rope_append: caches of {k_cache.shape[2]} rows, but cos and sin hold only {cos.shape[0]} positions"
            )
    if lengths.shape != q.shape[:1] or lengths.is_floating_point():
        raise ValueError(
            f"rope_append: lengths {tuple(lengths.shape)} {lengths.dtype} must be integers ({q.shape[0]},)"
        )


def rope_append(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    lengths: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
) -> torch.Tensor:
    """The rotated q; writes k (rotated) and v to row lengths − 1 of the caches.

    q (batch, heads, head_dim), k and v (batch, kv_heads, head_dim), lengths (batch,), caches (batch, kv_heads, max_len,
    head_dim). Raises ValueError for inconsistent shapes.
    """
    _validate(q, k, v, cos, sin, lengths, k_cache, v_cache)
    append = _rope_append if use_triton("rope_append", q) else rope_append_reference
    return append(q.detach(), k.detach(), v.detach(), cos, sin, lengths, k_cache, v_cache)
