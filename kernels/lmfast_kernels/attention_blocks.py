"""Attention under a mask in plain PyTorch, a block of queries at a time: memory grows with block × keys, never with
queries × keys.

In: q (batch, heads, seq_q, head_dim), k and v (batch, kv_heads, seq_k, head_dim), any strides and floats; document ids
(batch, seq), integers, or None; a window of 0 is none. Out: out like q, and the natural logarithm of each row's softmax
denominator. Used where Triton is not, for long sequences (attention.py). A block reads only the keys between the first
and the last that any of its queries can see: by causality and window everywhere, by documents on CPUs, where looking at
the ids costs no wait for a device. The backward computes a block's weights again from the logarithms. One opaque
operator: traced, its loop would be one copy of its body for each block.
"""

import torch

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
    """Which of the queries `rows` sees which of the keys `cols`, True where it does, broadcastable to (batch, heads, rows,
    cols); None for everything. `offset`: keys before the first query's own, seq_k − seq_q.
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
    """(slice of queries, slice of the keys they may see, mask) of each block."""
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
            # a row that sees nothing: exp(-inf - 0) = 0 everywhere, instead of exp(-inf + inf)
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


def _setup_context(ctx, inputs, output):
    q, k, v, document_ids, ctx.causal, ctx.scale, ctx.window = inputs
    ctx.save_for_backward(q, k, v, *output, document_ids)
    ctx.set_materialize_grads(False)


def _autograd(ctx, dout, _dlse):
    if dout is None:
        return None, None, None, None, None, None, None
    grads = _backward(dout, *ctx.saved_tensors, ctx.causal, ctx.scale, ctx.window)
    return *grads, None, None, None, None


attention_blocks.register_autograd(_autograd, setup_context=_setup_context)
