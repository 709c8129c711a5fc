"""Scaled dot-product attention without the (seq, seq) matrix in memory.

In: q (batch, heads, seq_q, head_dim), k and v (batch, kv_heads, seq_k, head_dim), any strides; heads a
multiple of kv_heads (query head h reads kv head h // (heads / kv_heads)), head_dim 1 to 256; float32,
float16, bfloat16 (float64 in plain PyTorch). Out: (batch, heads, seq_q, head_dim) in q's dtype; with
`return_lse` also the natural logarithm of each row's softmax denominator, float32 (batch, heads, seq_q),
without a gradient. causal: suffix-aligned, query i sees keys up to i' = i + seq_k − seq_q. window: only the last N
of these, i' − N < j <= i'. document_ids (batch, seq), integers, seq_q = seq_k: a token sees only
tokens with the same id. A row that sees no key gives zeros and an LSE of −inf. Under autocast q, k and v are
cast to its dtype, as in PyTorch's attention. Source: Dao 2023, arXiv:2307.08691. Costs: docs/kernels.md.

On CUDA, attention_forward.py and attention_backward.py support every call; calls in half precision with equal lengths,
without mask and LSE, may use cuDNN or PyTorch's operator instead (`backend.attention_choice`). Elsewhere PyTorch's
operator is used, or attention_blocks.py if a mask for many queries is needed.
"""

import math
from typing import Any, Literal, overload

import torch
import torch.nn.functional as F

from lmfast_kernels.attention_backward import attention_backward
from lmfast_kernels.attention_blocks import attention_blocks, visible
from lmfast_kernels.attention_forward import attention_forward
from lmfast_kernels.autograd import needs_gradient, register_attention_backward
from lmfast_kernels.backend import (
    INTERPRETING,
    attention_choice,
    autocast_dtype,
    compute_dtype,
    dot_precision,
    triton_runs,
)

MAX_HEAD_DIM = 256
ONE_MASK = 512  # up to this many queries, PyTorch's operator gets the complete mask of a masked call


def attention_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = True,
    scale: float | None = None,
    document_ids: torch.Tensor | None = None,
    window: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, lse) by the textbook formula with all scores in memory: the oracle."""
    compute = compute_dtype(q.dtype)
    group = q.shape[1] // k.shape[1]
    wide_k, wide_v = (x.to(compute).repeat_interleave(group, dim=1) for x in (k, v))
    scores = (q.to(compute) @ wide_k.transpose(-1, -2)) * (q.shape[-1] ** -0.5 if scale is None else scale)
    rows, cols = (torch.arange(x.shape[2], device=q.device) for x in (q, k))
    mask = visible(rows, cols, k.shape[2] - q.shape[2], causal, document_ids, window)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    lse = scores.logsumexp(-1)
    # for a row that sees nothing: exp(-inf - 0) = 0 everywhere, instead of exp(-inf + inf)
    weights = torch.exp(scores - lse.masked_fill(lse == -torch.inf, 0.0).unsqueeze(-1))
    return (weights @ wide_v).to(q.dtype), lse.detach()


def attention_sdpa(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool,
    scale: float | None,
    document_ids: torch.Tensor | None,
    window: int | None = None,
) -> torch.Tensor:
    """PyTorch's fused operator, with a mask of all pairs of query and key if one is needed."""
    if q.device.type == "cuda" and q.dtype == torch.float32 and q.shape[1] != k.shape[1]:
        # only the operator that stores all scores supports grouped heads in float32
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    # a literal True: with dynamic shapes the comparison would be symbolic, which the operator rejects
    options: dict[str, Any] = (
        {"scale": scale} if q.shape[1] == k.shape[1] else {"scale": scale, "enable_gqa": True}
    )
    if document_ids is None and window is None and (not causal or q.shape[2] == k.shape[2]):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, **options)
    rows, cols = (torch.arange(x.shape[2], device=q.device) for x in (q, k))
    mask = visible(rows, cols, k.shape[2] - q.shape[2], causal, document_ids, window)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **options)


def attention_cudnn(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float
) -> torch.Tensor:
    """cuDNN's kernel by its own operator, so that no other can be selected; out has q's strides.

    The statistics for a backward are computed only if there will be one.
    """
    trains = needs_gradient(q, k, v)
    cudnn = torch.ops.aten._scaled_dot_product_cudnn_attention
    return cudnn(q, k, v, None, trains, 0.0, causal, False, scale=scale)[0]


def _suits_pytorch(q: torch.Tensor, k: torch.Tensor) -> bool:
    """Whether cuDNN's and flash attention's kernels both support a call without mask and LSE (sdp_utils.cpp of
    torch 2.11): half precision, head_dim a multiple of 8 up to 128, more than one key, nothing empty. For other calls
    PyTorch's operator could fall back to one that stores all scores.
    """
    batch, heads, seq, head_dim = q.shape
    return (
        q.dtype in (torch.float16, torch.bfloat16)
        and head_dim % 8 == 0
        and head_dim <= 128
        and seq == k.shape[2]
        and seq > 1
        and 0 < batch < 65536
        and 0 < heads < 65536
    )


def _too_wide_for_exact(q: torch.Tensor) -> bool:
    """Whether a call needs PyTorch's operator because float32 products without tf32 take three tensor-core products
    each: for head_dim above 64, every tile that lmfast_kernels.aot compiled spilled (88 to 1,896 bytes).
    """
    exact = q.dtype == torch.float32 and dot_precision() == "tf32x3"
    return exact and q.shape[-1] > 64 and not INTERPRETING


register_attention_backward(attention_forward, attention_backward)


def _validate(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, document_ids: torch.Tensor | None) -> None:
    if q.dim() != 4 or k.dim() != 4 or v.shape != k.shape:
        raise ValueError(
            f"attention: q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)} must be "
            "(batch, heads, seq, head_dim), k and v of one shape"
        )
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ValueError(f"attention: k {tuple(k.shape)} must have batch and head_dim of q {tuple(q.shape)}")
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ValueError(f"attention: {q.shape[1]} heads are not a multiple of {k.shape[1]} kv heads")
    if not 1 <= q.shape[3] <= MAX_HEAD_DIM:
        raise ValueError(f"attention: head_dim {q.shape[3]} is outside 1 to {MAX_HEAD_DIM}")
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"attention: q, k, v are {q.dtype}, {k.dtype}, {v.dtype}; give them one dtype")
    if document_ids is None:
        return
    if q.shape[2] != k.shape[2] or document_ids.shape != (q.shape[0], q.shape[2]):
        raise ValueError(
            f"attention: document_ids {tuple(document_ids.shape)} must be (batch, seq) = "
            f"({q.shape[0]}, {q.shape[2]}), with q and k of one length"
        )
    if document_ids.is_floating_point():
        raise ValueError(f"attention: document_ids are {document_ids.dtype}; they must be integers")


@overload
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = True,
    scale: float | None = None,
    document_ids: torch.Tensor | None = None,
    window: int | None = None,
    return_lse: Literal[False] = False,
) -> torch.Tensor: ...
@overload
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = True,
    scale: float | None = None,
    document_ids: torch.Tensor | None = None,
    window: int | None = None,
    *,
    return_lse: Literal[True],
) -> tuple[torch.Tensor, torch.Tensor]: ...
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = True,
    scale: float | None = None,
    document_ids: torch.Tensor | None = None,
    window: int | None = None,
    return_lse: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """softmax(q kᵀ · scale + mask) v, scale 1/√head_dim by default. Raises ValueError for inconsistent arguments.

    q (batch, heads, seq_q, head_dim), k and v (batch, kv_heads, seq_k, head_dim); document_ids (batch, seq); window in
    keys. With `return_lse` also the natural logarithm of the softmax denominators (batch, heads, seq_q), float32.
    """
    cast = autocast_dtype(q)
    if cast is not None:
        q, k, v = q.to(cast), k.to(cast), v.to(cast)
    _validate(q, k, v, document_ids)
    if scale is None:
        default: float = q.shape[-1] ** -0.5
        scale = default
    if scale <= 0:
        raise ValueError(f"attention: scale {scale} must be positive")
    if window is not None:
        if window < 1 or not causal:
            raise ValueError(f"attention: window {window} must be at least 1, with causal=True")
        if window >= k.shape[2]:
            window = None  # no key is excluded
    ours = triton_runs(q) and not _too_wide_for_exact(q)
    if ours and not return_lse and document_ids is None and window is None and _suits_pytorch(q, k):
        chosen = attention_choice(q)
        if chosen == "cudnn":
            return attention_cudnn(q, k, v, causal, scale)
        ours = chosen == "triton"
    if ours:
        out, lse = attention_forward(q, k, v, document_ids, causal, scale, window or 0)
        return (out, lse.detach() * math.log(2)) if return_lse else out
    masked = document_ids is not None or (causal and q.shape[2] != k.shape[2]) or window is not None
    if (masked or return_lse) and q.shape[2] > ONE_MASK:
        out, lse = attention_blocks(q, k, v, document_ids, causal, scale, window or 0)
        return (out, lse.detach()) if return_lse else out
    if return_lse:
        return attention_reference(q, k, v, causal, scale, document_ids, window)
    return attention_sdpa(q, k, v, causal, scale, document_ids, window)
