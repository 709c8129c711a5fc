"""Masked attention in plain PyTorch, one block of queries at a time: memory is proportional to block × keys instead of
queries × keys.

In: q (batch, heads, seq_q, head_dim), k and v (batch, kv_heads, seq_k, head_dim), any strides and floating dtypes;
document ids (batch, seq), integers, or None; window 0 means none. Out: out like q, and the natural logarithm of each
row's softmax denominator. Used without Triton for long sequences (attention.py). A block reads only the keys between the
first and the last one that its queries can see: limited by causality and window everywhere, and by documents on CPUs,
where reading the ids does not synchronise with a device. The backward recomputes a block's weights from the logarithms.
An opaque operator, because tracing would unroll the loop over blocks.
"""

import torch

from lmfast_kernels.autograd import register_attention_backward
from lmfast_kernels.backend import compute_dtype, no_autocast

BLOCK = 128


def visible(
    rows: torch.Tensor,
    cols: torch.Tensor,
    offset: int,
    causal: bool,
    document_ids: torch.Tensor | None = None,
    window: int | None = None,
) -> torch.Tensor | None:
    """The mask of the keys `cols` that the queries `rows` see, True if seen, broadcastable to (batch, heads, rows, cols);
    None if all are seen. `offset`: the number of keys before the first query's own, seq_k − seq_q.
    """
    mask = None
    if causal:
        ahead = cols[None, :] - rows[:, None] - offset
        mask = ahead <= 0 if not window else (ahead <= 0) & (ahead > -window)
    if document_ids is not None:
        same = (document_ids[:, rows, None] == document_ids[:, None, cols]).unsqueeze(1)
        mask = same if mask is None else same & mask
    return mask


def _blocks(q, k, document_ids, causal, window):
    """(slice of queries, slice of the keys they may see, mask) for each block."""
    seq_q, seq_k = q.shape[2], k.shape[2]
    offset = seq_k - seq_q
    for start in range(0, seq_q, BLOCK):
        end = min(start + BLOCK, seq_q)
        first = max(0, start + offset - window + 1) if window else 0
        last = min(seq_k, max(0, end + offset)) if causal else seq_k
        if document_ids is not None and q.device.type == "cpu":
            own = document_ids[:, start:end]
            own = own.to(torch.uint8) if own.dtype == torch.bool else own
            near = (document_ids >= own.amin(1, True)) & (document_ids <= own.amax(1, True))
            places = near.any(0).nonzero()
            first, last = max(first, int(places[0])), min(last, int(places[-1]) + 1)
        first = min(first, last)
        rows = torch.arange(start, end, device=q.device)
        cols = torch.arange(first, last, device=q.device)
        yield slice(start, end), slice(first, last), visible(rows, cols, offset, causal, document_ids, window)


def _scores(q, k, mask, scale):
    """Masked scores (batch, kv_heads, group, rows, keys) of one block in the compute dtype."""
    batch, heads, rows, head_dim = q.shape
    kv_heads, keys = k.shape[1], k.shape[2]
    grouped = q.reshape(batch, kv_heads, heads // kv_heads * rows, head_dim) * scale
    scores = (grouped @ k.transpose(-1, -2)).view(batch, kv_heads, heads // kv_heads, rows, keys)
    if mask is None:
        return scores
    return scores.masked_fill_(~(mask if mask.dim() == 2 else mask.unsqueeze(2)), -torch.inf)


@torch.library.custom_op("lmfast::attention_blocks", mutates_args=())
def attention_blocks(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    document_ids: torch.Tensor | None,
    causal: bool,
    scale: float,
    window: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, natural logarithm of the softmax denominators)."""
    compute = compute_dtype(q.dtype)
    batch, heads, seq_q, head_dim = q.shape
    out = q.new_empty((batch, seq_q, heads, head_dim)).transpose(1, 2)
    lse = q.new_empty((batch, heads, seq_q), dtype=compute)
    with no_autocast(q):
        for rows, keys, mask in _blocks(q, k, document_ids, causal, window):
            scores = _scores(q[:, :, rows].to(compute), k[:, :, keys].to(compute), mask, scale)
            block_lse = scores.logsumexp(-1, keepdim=True)
            # for a row that sees nothing: exp(-inf - 0) = 0 everywhere, instead of exp(-inf + inf)
            weights = torch.exp(scores - block_lse.masked_fill(block_lse == -torch.inf, 0.0)).flatten(2, 3)
            out[:, :, rows] = (weights @ v[:, :, keys].to(compute)).reshape(batch, heads, -1, head_dim)
            lse[:, :, rows] = block_lse.reshape(batch, heads, -1)
    return out, lse


@attention_blocks.register_fake
def _(q, k, v, document_ids, causal, scale, window):
    batch, heads, seq_q, head_dim = q.shape
    out = q.new_empty((batch, seq_q, heads, head_dim)).transpose(1, 2)
    return out, q.new_empty((batch, heads, seq_q), dtype=compute_dtype(q.dtype))


@torch.library.custom_op("lmfast::attention_blocks_backward", mutates_args=())
def _backward(
    dout: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    document_ids: torch.Tensor | None,
    causal: bool,
    scale: float,
    window: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    compute = compute_dtype(q.dtype)
    batch, heads, seq_q, head_dim = q.shape
    kv_heads, seq_k = k.shape[1], k.shape[2]
    dq = q.new_empty((batch, seq_q, heads, head_dim)).transpose(1, 2)
    dk, dv = (q.new_zeros((batch, kv_heads, seq_k, head_dim), dtype=compute) for _ in range(2))
    with no_autocast(q):
        for rows, keys, mask in _blocks(q, k, document_ids, causal, window):
            q_block, k_block = q[:, :, rows].to(compute), k[:, :, keys].to(compute)
            upstream = dout[:, :, rows].to(compute)
            delta = (upstream * out[:, :, rows]).sum(-1).view(batch, kv_heads, heads // kv_heads, -1, 1)
            upstream = upstream.reshape(batch, kv_heads, -1, head_dim)
            block_lse = lse[:, :, rows].reshape(batch, kv_heads, heads // kv_heads, -1, 1)
            scores = _scores(q_block, k_block, mask, scale)
            weights = torch.exp(scores - block_lse.masked_fill(block_lse == -torch.inf, 0.0))
            dweights = (upstream @ v[:, :, keys].to(compute).transpose(-1, -2)).view_as(weights)
            dscores = (weights * (dweights - delta)).flatten(2, 3) * scale
            dv[:, :, keys] += weights.flatten(2, 3).transpose(-1, -2) @ upstream
            dk[:, :, keys] += dscores.transpose(-1, -2) @ q_block.reshape(batch, kv_heads, -1, head_dim)
            dq[:, :, rows] = (dscores @ k_block).reshape(batch, heads, -1, head_dim)
    return dq, dk.to(k.dtype), dv.to(v.dtype)


@_backward.register_fake
def _(dout, q, k, v, out, lse, document_ids, causal, scale, window):
    batch, heads, seq_q, head_dim = q.shape
    dq = q.new_empty((batch, seq_q, heads, head_dim)).transpose(1, 2)
    return dq, k.new_empty(k.shape), v.new_empty(v.shape)


register_attention_backward(attention_blocks, _backward)
