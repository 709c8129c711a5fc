"""The forward kernel of attention: a program holds a block of queries and iterates over the keys it may see.

In: q (batch, heads, seq_q, head_dim), k and v (batch, kv_heads, seq_k, head_dim), last dimension dense, any other
strides; ids (batch, seq) integers or None. Out: out (batch, heads, seq_q, head_dim), stored as (batch, seq_q,
heads, head_dim), and for each row (batch, heads, seq_q) the **base-2** logarithm of the softmax denominator, float32,
−inf for a row that sees nothing.

Scores are in base 2: exp2 of q·k · scale · log2(e), one fused multiply-add and one instruction per score.
Key blocks that every query of the program sees need no mask and are processed in a separate loop; the diagonal,
the partial last block and everything under document_ids use the masked loop. The longest rows of a causal mask are
launched first, so that the short ones fill the gaps at the end. Source: Dao 2023, arXiv:2307.08691.
"""

import math

import torch

from lmfast_kernels.attention_tiles import forward_config
from lmfast_kernels.backend import (
    compute_dtype,
    dense_last,
    dot_precision,
    jit,
    register,
    tl,
    triton,
    wrap_triton,
)

LOG2_E = math.log2(math.e)
GROUP = 32  # positions per group; each group stores its lowest and highest document id


@jit
def load_tile(
    pointer, row_stride, start, limit, rows, dims,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, CHECK_ROWS: tl.constexpr,
):  # fmt: skip
    """Rows start + rows of a (seq, HEAD_DIM) matrix, zeros from `limit` and HEAD_DIM on."""
    tile = (
        pointer
        + tl.cast(start, tl.int64) * row_stride
        + (rows.to(tl.int64)[:, None] * row_stride + dims[None, :])
    )
    if CHECK_ROWS:
        return tl.load(tile, mask=((start + rows) < limit)[:, None] & (dims < HEAD_DIM)[None, :], other=0.0)
    if HEAD_DIM < BLOCK_D:
        return tl.load(tile, mask=(dims < HEAD_DIM)[None, :], other=0.0)
    return tl.load(tile)


@jit
def store_tile(pointer, row_stride, start, limit, rows, dims, values, HEAD_DIM: tl.constexpr):
    """The counterpart of load_tile; always checks bounds, because a program stores only once."""
    tile = (
        pointer
        + tl.cast(start, tl.int64) * row_stride
        + (rows.to(tl.int64)[:, None] * row_stride + dims[None, :])
    )
    mask = ((start + rows) < limit)[:, None] & (dims < HEAD_DIM)[None, :]
    tl.store(tile, values.to(pointer.dtype.element_ty), mask=mask)


@jit
def document_spans(rows_of_ids, inside, lows_ptr, highs_ptr, seq, GROUP: tl.constexpr, GROUPS: tl.constexpr):
    """Spans of positions for rows with these ids (where `inside`), from the lowest and highest id of each group of GROUP
    positions: the first and one past the last position whose group may contain one of the ids; then the first and one past
    the last position of the groups that contain only the one id of all rows, if these are contiguous, otherwise 0 and 0.

    Exact up to a group for packed rows, whose documents are contiguous; for ids in any order the first span is a superset,
    and the mask excludes the rest.
    """
    lowest = tl.min(tl.where(inside, rows_of_ids, tl.max(rows_of_ids, axis=0)), axis=0)
    highest = tl.max(tl.where(inside, rows_of_ids, lowest), axis=0)
    count = tl.cdiv(seq, GROUP)
    first = tl.zeros((), tl.int32) + count
    last = tl.zeros((), tl.int32)
    alone_first = first
    alone_last = last
    alone = last
    for at in range(0, count, GROUPS):
        places = at + tl.arange(0, GROUPS)
        there = places < count
        lows = tl.load(lows_ptr + places, mask=there, other=0)
        highs = tl.load(highs_ptr + places, mask=there, other=0)
        near = there & (highs >= lowest) & (lows <= highest)
        first = tl.minimum(first, tl.min(tl.where(near, places, count), axis=0))
        last = tl.maximum(last, tl.max(tl.where(near, places + 1, 0), axis=0))
        same = there & (lows == highs) & (lows == lowest) & (lowest == highest)
        alone_first = tl.minimum(alone_first, tl.min(tl.where(same, places, count), axis=0))
        alone_last = tl.maximum(alone_last, tl.max(tl.where(same, places + 1, 0), axis=0))
        alone += tl.sum(same.to(tl.int32), axis=0)
    contiguous = alone_last - alone_first == alone
    alone_first = tl.where(contiguous, alone_first, 0)
    alone_last = tl.where(contiguous, alone_last, 0)
    return first * GROUP, tl.minimum(last * GROUP, seq), alone_first * GROUP, alone_last * GROUP


@jit
def key_ranges(
    start, row_ids, inside, seq_q, seq_k, lows_ptr, highs_ptr, window,
    CAUSAL: tl.constexpr, HAS_IDS: tl.constexpr, HAS_WINDOW: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """For the queries start … start + BLOCK_M: the first key, the begin and end of the blocks of keys that need no mask,
    and the end of the keys. All but the last are multiples of BLOCK_N.
    """
    begin = tl.zeros((), tl.int32)
    stop = tl.zeros((), tl.int32) + seq_k
    bare_begin = begin
    bare_end = stop
    if CAUSAL:
        bare_end = tl.maximum(tl.minimum(start + 1 + seq_k - seq_q, seq_k), 0)
        stop = tl.maximum(tl.minimum(start + BLOCK_M + seq_k - seq_q, seq_k), 0)
    bare_end = bare_end // BLOCK_N * BLOCK_N
    if HAS_WINDOW:
        begin = tl.maximum(start + seq_k - seq_q - window + 1, 0) // BLOCK_N * BLOCK_N
        bare_begin = tl.cdiv(tl.maximum(start + BLOCK_M + seq_k - seq_q - window, 0), BLOCK_N) * BLOCK_N
    if HAS_IDS:
        first, last, alone_first, alone_last = document_spans(
            row_ids, inside, lows_ptr, highs_ptr, seq_q, GROUP, 256
        )
        begin = tl.maximum(begin, first // BLOCK_N * BLOCK_N)
        stop = tl.minimum(stop, last)
        bare_begin = tl.maximum(bare_begin, tl.cdiv(alone_first, BLOCK_N) * BLOCK_N)
        bare_end = tl.minimum(bare_end, alone_last // BLOCK_N * BLOCK_N)
    bare_begin = tl.maximum(bare_begin, begin)
    some = bare_begin < bare_end
    return begin, tl.where(some, bare_begin, begin), tl.where(some, bare_end, begin), stop


@jit
def visible_scores(
    scores, row, col, row_ids, col_ids, seq_k, offset, window,
    CAUSAL: tl.constexpr, HAS_IDS: tl.constexpr, HAS_WINDOW: tl.constexpr,
):  # fmt: skip
    """Scores with −inf for keys that a query must not see; row and col, and their ids, broadcast to the scores' shape."""
    seen = col < seq_k
    if CAUSAL:
        seen = seen & (col <= row + offset)
    if HAS_WINDOW:
        seen = seen & (col > row + offset - window)
    if HAS_IDS:
        seen = seen & (row_ids == col_ids)
    return tl.where(seen, scores, float("-inf"))


@jit
def _forward_range(
    acc, row_max, row_sum, q, k_ptr, v_ptr, ids_ptr, row_ids, start_m, begin, stop, seq_q, seq_k, k_row, v_row,
    window,
    HEAD_DIM: tl.constexpr, SCALE: tl.constexpr, CAUSAL: tl.constexpr, HAS_IDS: tl.constexpr,
    HAS_WINDOW: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    rows, cols, dims = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    for n in range(begin, stop, BLOCK_N):
        k = load_tile(k_ptr, k_row, n, seq_k, cols, dims, HEAD_DIM, BLOCK_D, MASKED)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION, out_dtype=acc.dtype)  # (BLOCK_M, BLOCK_N)
        if MASKED:
            col_ids = row_ids
            if HAS_IDS:
                col_ids = tl.load(ids_ptr + n + cols, mask=(n + cols) < seq_k, other=0)
            row, col = (start_m + rows)[:, None], (n + cols)[None, :]
            scores = visible_scores(
                scores, row, col, row_ids[:, None], col_ids[None, :], seq_k, seq_k - seq_q, window,
                CAUSAL, HAS_IDS, HAS_WINDOW,
            )  # fmt: skip
        new_max = tl.maximum(row_max, tl.max(scores, axis=1) * SCALE)
        base = new_max
        if MASKED:  # for a row that has seen nothing yet, -inf - -inf would be NaN
            base = tl.where(new_max == float("-inf"), 0.0, new_max)
        weights = tl.exp2(scores * SCALE - base[:, None])
        shrink = tl.exp2(row_max - base)
        row_sum = row_sum * shrink + tl.sum(weights, axis=1)
        v = load_tile(v_ptr, v_row, n, seq_k, cols, dims, HEAD_DIM, BLOCK_D, MASKED)
        acc = acc * shrink[:, None]
        acc = tl.dot(weights.to(v.dtype), v, acc, input_precision=PRECISION, out_dtype=acc.dtype)
        row_max = new_max
    return acc, row_max, row_sum


@jit
def _attention_forward_kernel(
    q_ptr, k_ptr, v_ptr, ids_ptr, lows_ptr, highs_ptr, out_ptr, lse_ptr,
    seq_q, seq_k, heads, group, window,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, out_batch, out_head, out_row,
    HEAD_DIM: tl.constexpr, SCALE: tl.constexpr, CAUSAL: tl.constexpr, HAS_IDS: tl.constexpr,
    HAS_WINDOW: tl.constexpr, GROUP: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    ACC: tl.constexpr = lse_ptr.dtype.element_ty
    blocks = tl.cdiv(seq_q, BLOCK_M)
    program = tl.program_id(0)
    start_m = (blocks - 1 - program % blocks) * BLOCK_M
    row_of_lse = (program // blocks).to(tl.int64)
    batch, head = row_of_lse // heads, row_of_lse % heads
    q_ptr += batch * q_batch + head * q_head
    k_ptr += batch * k_batch + head // group * k_head
    v_ptr += batch * v_batch + head // group * v_head
    ids_ptr += batch * seq_q
    lows_ptr += batch * tl.cdiv(seq_q, GROUP)
    highs_ptr += batch * tl.cdiv(seq_q, GROUP)
    rows, dims = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    inside = (start_m + rows) < seq_q
    q = load_tile(q_ptr, q_row, start_m, seq_q, rows, dims, HEAD_DIM, BLOCK_D, not EVEN)
    row_ids = rows
    if HAS_IDS:
        row_ids = tl.load(ids_ptr + start_m + rows, mask=inside, other=0)
    begin, bare_begin, bare_end, stop = key_ranges(
        start_m, row_ids, inside, seq_q, seq_k, lows_ptr, highs_ptr, window,
        CAUSAL, HAS_IDS, HAS_WINDOW, BLOCK_M, BLOCK_N, GROUP,
    )  # fmt: skip
    row_max = tl.full((BLOCK_M,), float("-inf"), ACC)
    row_sum = tl.zeros((BLOCK_M,), ACC)
    acc = tl.zeros((BLOCK_M, BLOCK_D), ACC)
    if HAS_IDS or HAS_WINDOW:
        acc, row_max, row_sum = _forward_range(
            acc, row_max, row_sum, q, k_ptr, v_ptr, ids_ptr, row_ids, start_m, begin, bare_begin, seq_q, seq_k,
            k_row, v_row, window, HEAD_DIM, SCALE, CAUSAL, HAS_IDS, HAS_WINDOW, True, PRECISION,
            BLOCK_M, BLOCK_N, BLOCK_D,
        )  # fmt: skip
    acc, row_max, row_sum = _forward_range(
        acc, row_max, row_sum, q, k_ptr, v_ptr, ids_ptr, row_ids, start_m, bare_begin, bare_end, seq_q, seq_k,
        k_row, v_row, window, HEAD_DIM, SCALE, CAUSAL, HAS_IDS, HAS_WINDOW, False, PRECISION,
        BLOCK_M, BLOCK_N, BLOCK_D,
    )  # fmt: skip
    acc, row_max, row_sum = _forward_range(
        acc, row_max, row_sum, q, k_ptr, v_ptr, ids_ptr, row_ids, start_m, bare_end, stop, seq_q, seq_k,
        k_row, v_row, window, HEAD_DIM, SCALE, CAUSAL, HAS_IDS, HAS_WINDOW, True, PRECISION,
        BLOCK_M, BLOCK_N, BLOCK_D,
    )  # fmt: skip
    out = acc / tl.where(row_sum == 0.0, 1.0, row_sum)[:, None]
    out_ptr += batch * out_batch + head * out_head
    store_tile(out_ptr, out_row, start_m, seq_q, rows, dims, out, HEAD_DIM)
    lse = row_max + tl.log2(row_sum)
    tl.store(lse_ptr + row_of_lse * seq_q + start_m + rows, lse, mask=inside)


def empty_by_token(x: torch.Tensor) -> torch.Tensor:
    """Uninitialised, with the shape (batch, heads, seq, head_dim) of x and a token's heads contiguous in memory, so that
    the output projection and the gradient of the input projection read it without a transposing copy.
    """
    batch, heads, seq, head_dim = x.shape
    return x.new_empty((batch, seq, heads, head_dim)).transpose(1, 2)


def document_groups(
    document_ids: torch.Tensor | None, unused: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The ids (batch, seq) as the kernels read them, and the lowest and highest of every GROUP of them,
    (batch, ⌈seq / GROUP⌉); `unused` three times if there are no ids.
    """
    if document_ids is None:
        return unused, unused, unused
    ids = document_ids.to(torch.uint8) if document_ids.dtype == torch.bool else document_ids.contiguous()
    seq = ids.shape[1]
    places = torch.arange(-(-seq // GROUP) * GROUP, device=ids.device).clamp(max=seq - 1)
    grouped = ids.index_select(1, places).unflatten(1, (-1, GROUP))
    return ids, grouped.amin(2), grouped.amax(2)


@register("attention_forward")
def attention_forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    document_ids: torch.Tensor | None,
    causal: bool,
    scale: float,
    window: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, base-2 logarithm of the softmax denominators); window 0 means none."""
    batch, heads, seq_q, head_dim = q.shape
    out = empty_by_token(q)
    lse = torch.empty((batch, heads, seq_q), dtype=compute_dtype(q.dtype), device=q.device)
    if lse.numel() == 0:
        return out, lse
    q, k, v = dense_last(q), dense_last(k), dense_last(v)
    config = forward_config(q, document_ids is not None or window > 0)
    grid = (batch * heads * triton.cdiv(seq_q, config["BLOCK_M"]),)
    wrap_triton(_attention_forward_kernel)[grid](
        q, k, v, *document_groups(document_ids, lse), out, lse,
        seq_q, k.shape[2], heads, heads // k.shape[1], window,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
        HEAD_DIM=head_dim, SCALE=scale * LOG2_E, CAUSAL=causal, HAS_IDS=document_ids is not None,
        HAS_WINDOW=window > 0, GROUP=GROUP, EVEN=seq_q % config["BLOCK_M"] == 0, PRECISION=dot_precision(),
        **config,
    )  # fmt: skip
    return out, lse


@attention_forward.register_fake
def _(q, k, v, document_ids, causal, scale, window):
    return empty_by_token(q), q.new_empty(q.shape[:3], dtype=compute_dtype(q.dtype))
