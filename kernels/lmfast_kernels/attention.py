"""Scaled dot-product attention without the (seq, seq) matrix in memory.

In: q (batch, heads, seq_q, head_dim), k and v (batch, kv_heads, seq_k, head_dim), any strides, heads a
multiple of kv_heads (query head h reads kv head h // (heads / kv_heads)), head_dim 1 to 256; float32,
float16, bfloat16 (float64 in plain PyTorch). Out: (batch, heads, seq_q, head_dim) in q's dtype; with
`return_lse` also the natural logarithm of each row's softmax denominator, float32 (batch, heads, seq_q),
which carries no gradient. causal: suffix-aligned, query i sees keys up to i' = i + seq_k − seq_q. window: of
these only the last N, i' − N < j <= i'. document_ids (batch, seq), integers, seq_q = seq_k: a token sees only
tokens with its own id. A row that sees no key gives zeros and an LSE of −inf. Under autocast q, k and v are
cast to its dtype, as PyTorch's own attention does. Source: Dao 2023, arXiv:2307.08691.

On CUDA the kernels of attention_forward.py and attention_backward.py serve every call; calls without mask and
LSE, in half precision and with equal lengths, may go to cuDNN or to PyTorch's operator instead
(`backend.attention_choice`), which would build a mask of all pairs for the others. Elsewhere PyTorch's operator
serves, and attention_blocks.py where a mask of many queries is needed.

On paper, batch 4, 16 heads of 128, 4,096 tokens, causal, bf16: forward 275 GFLOP (causal work once), 278 µs
at 989 TFLOP/s; q, k, v read and out written, 268 MB, 80 µs at 3.35 TB/s: bound by the products. Backward
687 GFLOP, 695 µs; these kernels make 7 products where 5 are counted, so 973 µs is their own floor, the
price of having no atomics; eight tensors moved, 537 MB, 160 µs.
"""

import math
from typing import Any, Literal, overload

import torch
import torch.nn.functional as F

from lmfast_kernels.attention_backward import attention_backward
from lmfast_kernels.attention_blocks import attention_blocks, visible
from lmfast_kernels.attention_forward import attention_forward
from lmfast_kernels.backend import (
    INTERPRETING,
    attention_choice,
    autocast_dtype,
    compute_dtype,
    dot_precision,
    triton_runs,
)

MAX_HEAD_DIM = 256
ONE_MASK = 512  # queries up to which PyTorch's operator gets the mask of a masked call whole


def attention_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = True,
    scale: float | None = None,
    document_ids: torch.Tensor | None = None,
    window: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, lse) by the textbook's formula with every score in memory: the oracle."""
    compute = compute_dtype(q.dtype)
    group = q.shape[1] // k.shape[1]
    wide_k, wide_v = (x.to(compute).repeat_interleave(group, dim=1) for x in (k, v))
    scores = (q.to(compute) @ wide_k.transpose(-1, -2)) * (q.shape[-1] ** -0.5 if scale is None else scale)
    rows, cols = (torch.arange(x.shape[2], device=q.device) for x in (q, k))
    mask = visible(rows, cols, k.shape[2] - q.shape[2], causal, document_ids, window)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    lse = scores.logsumexp(-1)
    # a row that sees nothing: exp(-inf - 0) = 0 everywhere, instead of exp(-inf + inf)
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
    """PyTorch's fused operator, with every pair of query and key in a mask unless it needs none."""
    if q.device.type == "cuda" and q.dtype == torch.float32 and q.shape[1] != k.shape[1]:
        # only its operator that keeps every score takes grouped heads in float32
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    # a literal, not the comparison: with dynamic shapes that would be symbolic, which the operator refuses
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
    """cuDNN's kernel by its own operator, so that nothing else can be picked; out has q's strides.

    The statistics that a backward needs are computed only where there will be one.
    """
    trains = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    cudnn = torch.ops.aten._scaled_dot_product_cudnn_attention
    return cudnn(q, k, v, None, trains, 0.0, causal, False, scale=scale)[0]


def _suits_pytorch(q: torch.Tensor, k: torch.Tensor) -> bool:
    """Whether a call without mask and LSE is one that cuDNN's and flash attention's kernels both take (sdp_utils.cpp of
    torch 2.11): half precision, head_dim a multiple of 8 up to 128, more than one key, nothing empty. For others PyTorch's
    operator could fall back to one that keeps every score.
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
    """Float32 products without tf32 take three tensor-core products each, and for head_dim over 64 no tile
    that lmfast_kernels.aot compiled kept its operands in registers (88 to 1,896 bytes spilled): PyTorch's operator
    runs those.
    """
    exact = q.dtype == torch.float32 and dot_precision() == "tf32x3"
    return exact and q.shape[-1] > 64 and not INTERPRETING


def _setup_context(ctx, inputs, output):
    q, k, v, document_ids, ctx.causal, ctx.scale, ctx.window = inputs
    out, lse = output
    ctx.save_for_backward(q, k, v, out, lse, document_ids)
    ctx.set_materialize_grads(False)


def _autograd(ctx, dout, _dlse):
    q, k, v, out, lse, document_ids = ctx.saved_tensors
    if dout is None:
        return None, None, None, None, None, None, None
    grads = attention_backward(dout, q, k, v, out, lse, document_ids, ctx.causal, ctx.scale, ctx.window)
    return *grads, None, None, None, None


attention_forward.register_autograd(_autograd, setup_context=_setup_context)


def _validate(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, document_ids: torch.Tensor | None) -> None:
    if q.dim() != 4 or k.dim() != 4 or v.shape != k.shape:
        raise ValueError(
            f"attention: q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)} must be "
            "(batch, heads, seq, head_dim), k and v of one shape"
        )
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ValueError(f"attention: k {tuple(k.shape)} must have batch and head_dim of q {tuple(q.shape)}")
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ValueError(f"attention: {q.shape[1]} heads are no multiple of {k.shape[1]} kv heads")
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
    """softmax(q kᵀ · scale + mask) v, scale 1/√head_dim by default. Raises ValueError on arguments that do
    not fit.
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
            window = None  # every key is within reach
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
