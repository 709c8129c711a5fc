"""Rotary position embedding of queries and keys in one launch.

In: q (batch, heads, seq, head_dim), k (batch, kv_heads, seq, head_dim), head_dim even, any strides; cos and
sin (max_len, head_dim / 2), of the angles of each position; positions None (0 … seq − 1), or integers (seq,) or
(batch, seq) that index cos and sin. Out: q and k rotated, in their own dtypes, computed in float32.
Half-split layout (Llama, GPT-NeoX): dimension i is paired with i + head_dim / 2, not with its neighbour. The
backward is the conjugate rotation, the same kernel with sin negated; cos and sin get no gradient. Autocast has no effect.
Positions must be within the tables; checking them would synchronise host and device.
Source: Su et al. 2021, arXiv:2104.09864. Costs: docs/kernels.md.
"""

import torch

from lmfast_kernels.backend import (
    compute_dtype,
    jit,
    power_of_two,
    register,
    tl,
    triton,
    use_triton,
    wrap_triton,
)


def rope_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same computation in plain PyTorch: the oracle, and the implementation without Triton."""
    if positions is None:
        cos, sin = cos[: q.shape[2]], sin[: q.shape[2]]  # (seq, head_dim / 2): broadcast over batch and heads
    else:
        positions = positions.long()  # PyTorch interprets uint8 as a mask
        cos, sin = cos[positions], sin[positions]
        if positions.dim() == 2:
            cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # (batch, 1, seq, head_dim / 2)
    compute = compute_dtype(q.dtype)
    cos, sin = cos.detach().to(compute), sin.detach().to(compute)
    same, crossed = cos.unsqueeze(-2), torch.stack((-sin, sin), dim=-2)  # (..., 1 or 2, head_dim / 2)

    def rotate(x: torch.Tensor) -> torch.Tensor:
        halves = x.to(compute).unflatten(-1, (2, -1))
        # Inductor treats a flip as an index: the rotation fuses with its consumer and keeps x's memory order
        return (halves * same + halves.flip(-2) * crossed).flatten(-2).to(x.dtype)

    return rotate(q), rotate(k)


@jit
def rotate_pairs(x, out, rows, mask, half, cos, sin, HALF: tl.constexpr, x_row, x_dim, out_row, out_dim):
    """Rotates (ROWS, HALF) pairs of one head; x and out point to the head, rows are its positions."""
    first = tl.load(x + rows * x_row + half * x_dim, mask=mask, other=0.0).to(cos.dtype)
    second = tl.load(x + rows * x_row + (half + HALF) * x_dim, mask=mask, other=0.0).to(cos.dtype)
    out_type = out.dtype.element_ty
    tl.store(out + rows * out_row + half * out_dim, (first * cos - second * sin).to(out_type), mask=mask)
    second = second * cos + first * sin
    tl.store(out + rows * out_row + (half + HALF) * out_dim, second.to(out_type), mask=mask)


@jit
def _rope_kernel(
    q_ptr, k_ptr, cos_ptr, sin_ptr, positions_ptr, q_out_ptr, k_out_ptr,
    seq, heads, kv_heads, cos_row, sin_row, positions_batch, positions_row,
    q_batch, q_head, q_row, q_dim, k_batch, k_head, k_row, k_dim,
    qo_batch, qo_head, qo_row, qo_dim, ko_batch, ko_head, ko_row, ko_dim,
    HALF: tl.constexpr, BLOCK_HALF: tl.constexpr, ROWS: tl.constexpr,
    HAS_POSITIONS: tl.constexpr, CONJUGATE: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    blocks = tl.cdiv(seq, ROWS)
    program = tl.program_id(0)
    head = ((program // blocks) % (heads + kv_heads)).to(tl.int64)
    batch = (program // blocks // (heads + kv_heads)).to(tl.int64)
    rows = (program % blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    half = tl.arange(0, BLOCK_HALF)[None, :]
    mask = (rows < seq) & (half < HALF)
    places = rows
    if HAS_POSITIONS:
        offsets = batch * positions_batch + rows * positions_row
        places = tl.load(positions_ptr + offsets, mask=rows < seq, other=0).to(tl.int64)
    cos = tl.load(cos_ptr + places * cos_row + half, mask=mask, other=0.0).to(ACC)
    sin = tl.load(sin_ptr + places * sin_row + half, mask=mask, other=0.0).to(ACC)
    if CONJUGATE:
        sin = -sin
    if head < heads:
        x, out = q_ptr + batch * q_batch + head * q_head, q_out_ptr + batch * qo_batch + head * qo_head
        rotate_pairs(x, out, rows, mask, half, cos, sin, HALF, q_row, q_dim, qo_row, qo_dim)
    else:
        head -= heads
        x, out = k_ptr + batch * k_batch + head * k_head, k_out_ptr + batch * ko_batch + head * ko_head
        rotate_pairs(x, out, rows, mask, half, cos, sin, HALF, k_row, k_dim, ko_row, ko_dim)


def pair_tile(head_dim: int) -> dict[str, int]:
    """Constants of a tile of 2,048 pairs of one head, 16 per thread: (ROWS, BLOCK_HALF), of which HALF columns exist."""
    half = head_dim // 2
    block_half = power_of_two(half)
    return {"HALF": half, "BLOCK_HALF": block_half, "ROWS": max(1, 2048 // block_half), "num_warps": 4}


@register("rope")
def _rope(
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor | None,
    conjugate: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    q_out, k_out = torch.empty_like(q), torch.empty_like(k)
    batch, heads, seq, head_dim = q.shape
    if batch * seq * (heads + k.shape[1]) == 0:
        return q_out, k_out
    tile = pair_tile(head_dim)
    cos, sin = cos.contiguous(), sin.contiguous()
    places = cos if positions is None else positions
    places_batch = places.stride(0) if positions is not None and positions.dim() == 2 else 0
    places_row = 0 if positions is None else places.stride(-1)
    grid = (batch * (heads + k.shape[1]) * triton.cdiv(seq, tile["ROWS"]),)
    wrap_triton(_rope_kernel)[grid](
        q, k, cos, sin, places, q_out, k_out,
        seq, heads, k.shape[1], cos.stride(0), sin.stride(0), places_batch, places_row,
        *q.stride(), *k.stride(), *q_out.stride(), *k_out.stride(),
        HAS_POSITIONS=positions is not None, CONJUGATE=conjugate, DOUBLE=q.dtype == torch.float64, **tile,
    )  # fmt: skip
    return q_out, k_out


@_rope.register_fake
def _(q, k, cos, sin, positions, conjugate):
    return torch.empty_like(q), torch.empty_like(k)


def _setup_context(ctx, inputs, output):
    _, _, cos, sin, positions, ctx.conjugate = inputs
    ctx.save_for_backward(cos, sin, positions)


def _autograd(ctx, dq, dk):
    cos, sin, positions = ctx.saved_tensors
    return *_rope(dq, dk, cos, sin, positions, not ctx.conjugate), None, None, None, None


_rope.register_autograd(_autograd, setup_context=_setup_context)


def _validate(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, positions: torch.Tensor | None
) -> None:
    if q.dim() != 4 or k.dim() != 4:
        raise ValueError(
            f"rope: q {tuple(q.shape)} and k {tuple(k.shape)} must be (batch, heads, seq, head_dim)"
        )
    batch, _, seq, head_dim = q.shape
    if k.shape[0] != batch or k.shape[2] != seq or k.shape[3] != head_dim:
        raise ValueError(f"rope: k {tuple(k.shape)} must have batch, seq and head_dim of q {tuple(q.shape)}")
    if head_dim % 2:
        raise ValueError(f"rope: head_dim {head_dim} must be even")
    if cos.shape != sin.shape or cos.dim() != 2 or cos.shape[1] * 2 != head_dim:
        raise ValueError(
            f"rope: cos {tuple(cos.shape)} and sin {tuple(sin.shape)} must be (max_len, {head_dim // 2})"
        )
    if positions is None:
        if seq > cos.shape[0]:
            raise ValueError(f"rope: {seq} positions, but cos and sin hold only {cos.shape[0]}")
    elif positions.shape != (q.shape[2:3] if positions.dim() == 1 else q.shape[0:3:2]):
        raise ValueError(f"rope: positions {tuple(positions.shape)} must be ({seq},) or ({batch}, {seq})")
    elif positions.is_floating_point():
        raise ValueError(f"rope: positions are {positions.dtype}; they must be integers")


def rope(
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(q, k), rotated by the angles of their positions, for q (batch, heads, seq, head_dim), k (batch, kv_heads, seq,
    head_dim), cos and sin (max_len, head_dim / 2). Raises ValueError for inconsistent shapes."""
    _validate(q, k, cos, sin, positions)
    if not use_triton("rope", q):
        return rope_reference(q, k, cos, sin, positions)
    return _rope(q, k, cos, sin, positions, False)
