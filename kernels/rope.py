"""Rotary position embedding of queries and keys, both at once.

In: q (batch, heads, seq, head_dim), k (batch, kv_heads, seq, head_dim), head_dim even, any strides; cos and
sin (max_len, head_dim / 2), the angles of each position; positions None (0 … seq − 1), or integers (seq,)
or (batch, seq) that index cos and sin. Out: q and k rotated, in their own dtypes, computed in float32.
Half-split layout (Llama, GPT-NeoX): dimension i is paired with i + head_dim / 2, not with its neighbour.
cos and sin get no gradient. Under autocast nothing changes. Positions outside the table are the caller's to
prevent: checking them would make the host wait for the device. Source: Su et al. 2021, arXiv:2104.09864.
"""

import torch

from kernels.backend import compute_dtype


def rope_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same maths in plain PyTorch: the oracle, and the path wherever Triton is not chosen."""
    if positions is None:
        cos, sin = (
            cos[: q.shape[2]],
            sin[: q.shape[2]],
        )  # (seq, head_dim / 2): broadcasts over batch and heads
    else:
        cos, sin = cos[positions], sin[positions]
        if positions.dim() == 2:
            cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # (batch, 1, seq, head_dim / 2)
    compute = compute_dtype(q.dtype)
    cos, sin = cos.to(compute), sin.to(compute)

    def rotate(x: torch.Tensor) -> torch.Tensor:
        first, second = x.to(compute).chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)

    return rotate(q), rotate(k)


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
    elif positions.shape not in ((seq,), (batch, seq)):
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
    """(q, k), each rotated by its positions' angles. Raises ValueError on shapes that do not fit."""
    _validate(q, k, cos, sin, positions)
    return rope_reference(q, k, cos, sin, positions)
