"""The backward kernels of attention: dq by query blocks, dk and dv by key blocks, without atomics.

In: dout, q, k, v, out and the forward's base-2 logarithms. Out: dq, dk, dv in the inputs' dtypes. Scores
are recomputed from q and k. A program of the first kernel owns a block of queries and sums over keys; it first
stores delta = Σ dout · out of each row. A program of the second owns a block of keys and sums over the queries
of every head that shares them, so grouped heads need no further reduction. Every sum has one owner and
one order, so two calls agree bitwise. This takes two more products than summing dq atomically (7 instead of 5).
Source: Dao 2023, arXiv:2307.08691, section 3.
"""

import torch

from lmfast_kernels.attention_forward import (
    GROUP,
    LOG2_E,
    document_groups,
    document_spans,
    empty_by_token,
    key_ranges,
    load_tile,
    store_tile,
    visible_scores,
)
from lmfast_kernels.attention_tiles import backward_config
from lmfast_kernels.backend import (
    dense_last,
    dot_precision,
    jit,
    register,
    tl,
    triton,
    wrap_triton,
)


@jit
def _dq_range(
    dq, q, dout, lse, delta, k_ptr, v_ptr, ids_ptr, row_ids, start_m, begin, stop, seq_q, seq_k, k_row, v_row,
    window,
    HEAD_DIM: tl.constexpr, SCALE: tl.constexpr, CAUSAL: tl.constexpr, HAS_IDS: tl.constexpr,
    HAS_WINDOW: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    rows, cols, dims = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    for n in range(begin, stop, BLOCK_N):
        k = load_tile(k_ptr, k_row, n, seq_k, cols, dims, HEAD_DIM, BLOCK_D, MASKED)
        v = load_tile(v_ptr, v_row, n, seq_k, cols, dims, HEAD_DIM, BLOCK_D, MASKED)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION, out_dtype=dq.dtype) * SCALE
        if MASKED:
            col_ids = row_ids
            if HAS_IDS:
                col_ids = tl.load(ids_ptr + n + cols, mask=(n + cols) < seq_k, other=0)
            row, col = (start_m + rows)[:, None], (n + cols)[None, :]
            scores = visible_scores(
                scores, row, col, row_ids[:, None], col_ids[None, :], seq_k, seq_k - seq_q, window,
                CAUSAL, HAS_IDS, HAS_WINDOW,
            )  # fmt: skip
        weights = tl.exp2(scores - lse[:, None])
        dweights = tl.dot(dout, tl.trans(v), input_precision=PRECISION, out_dtype=dq.dtype)
        dscores = weights * (dweights - delta[:, None])
        dq = tl.dot(dscores.to(k.dtype), k, dq, input_precision=PRECISION, out_dtype=dq.dtype)
    return dq


@jit
def _attention_dq_kernel(
    dout_ptr, q_ptr, k_ptr, v_ptr, ids_ptr, lows_ptr, highs_ptr, out_ptr, lse_ptr, delta_ptr, dq_ptr,
    seq_q, seq_k, heads, group, window,
    do_batch, do_head, do_row, q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
    out_batch, out_head, out_row, dq_batch, dq_head, dq_row,
    HEAD_DIM: tl.constexpr, SCALE: tl.constexpr, LOG2_SCALE: tl.constexpr, CAUSAL: tl.constexpr,
    HAS_IDS: tl.constexpr, HAS_WINDOW: tl.constexpr, GROUP: tl.constexpr,
    EVEN: tl.constexpr, PRECISION: tl.constexpr,
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
    dout_ptr += batch * do_batch + head * do_head
    out_ptr += batch * out_batch + head * out_head
    dq_ptr += batch * dq_batch + head * dq_head
    ids_ptr += batch * seq_q
    lows_ptr += batch * tl.cdiv(seq_q, GROUP)
    highs_ptr += batch * tl.cdiv(seq_q, GROUP)
    rows, dims = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    inside = (start_m + rows) < seq_q
    dout = load_tile(dout_ptr, do_row, start_m, seq_q, rows, dims, HEAD_DIM, BLOCK_D, not EVEN)
    out = load_tile(out_ptr, out_row, start_m, seq_q, rows, dims, HEAD_DIM, BLOCK_D, not EVEN)
    delta = tl.sum(dout.to(ACC) * out.to(ACC), axis=1)
    tl.store(delta_ptr + row_of_lse * seq_q + start_m + rows, delta, mask=inside)
    q = load_tile(q_ptr, q_row, start_m, seq_q, rows, dims, HEAD_DIM, BLOCK_D, not EVEN)
    lse = tl.load(lse_ptr + row_of_lse * seq_q + start_m + rows, mask=inside, other=0.0)
    lse = tl.where(lse == float("-inf"), 0.0, lse)  # -inf: the row sees nothing, and its scores are all -inf
    row_ids = rows
    if HAS_IDS:
        row_ids = tl.load(ids_ptr + start_m + rows, mask=inside, other=0)
    begin, bare_begin, bare_end, stop = key_ranges(
        start_m, row_ids, inside, seq_q, seq_k, lows_ptr, highs_ptr, window,
        CAUSAL, HAS_IDS, HAS_WINDOW, BLOCK_M, BLOCK_N, GROUP,
    )  # fmt: skip
    dq = tl.zeros((BLOCK_M, BLOCK_D), ACC)
    if HAS_IDS or HAS_WINDOW:
        dq = _dq_range(
            dq, q, dout, lse, delta, k_ptr, v_ptr, ids_ptr, row_ids, start_m, begin, bare_begin, seq_q, seq_k,
            k_row, v_row, window, HEAD_DIM, LOG2_SCALE, CAUSAL, HAS_IDS, HAS_WINDOW, True, PRECISION,
            BLOCK_M, BLOCK_N, BLOCK_D,
        )  # fmt: skip
    dq = _dq_range(
        dq, q, dout, lse, delta, k_ptr, v_ptr, ids_ptr, row_ids, start_m, bare_begin, bare_end, seq_q, seq_k,
        k_row, v_row, window, HEAD_DIM, LOG2_SCALE, CAUSAL, HAS_IDS, HAS_WINDOW, False, PRECISION,
        BLOCK_M, BLOCK_N, BLOCK_D,
    )  # fmt: skip
    dq = _dq_range(
        dq, q, dout, lse, delta, k_ptr, v_ptr, ids_ptr, row_ids, start_m, bare_end, stop, seq_q, seq_k,
        k_row, v_row, window, HEAD_DIM, LOG2_SCALE, CAUSAL, HAS_IDS, HAS_WINDOW, True, PRECISION,
        BLOCK_M, BLOCK_N, BLOCK_D,
    )  # fmt: skip
    store_tile(dq_ptr, dq_row, start_m, seq_q, rows, dims, dq * SCALE, HEAD_DIM)


@jit
def _dkdv_range(
    dk, dv, k, v, q_ptr, dout_ptr, lse_ptr, delta_ptr, ids_ptr, col_ids, start_n, begin, stop, skip_from, skip_to,
    seq_q, seq_k, q_row, do_row, window,
    HEAD_DIM: tl.constexpr, SCALE: tl.constexpr, CAUSAL: tl.constexpr, HAS_IDS: tl.constexpr,
    HAS_WINDOW: tl.constexpr, MASKED: tl.constexpr, CHECK_ROWS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Adds the queries begin … stop. With a window, the masked loop skips skip_from … skip_to, so that it covers both
    sides of the blocks without a mask.
    """
    rows, cols, dims = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    if HAS_WINDOW and MASKED:
        stop -= skip_to - skip_from
    for step in range(begin, stop, BLOCK_M):
        m = step
        if HAS_WINDOW and MASKED:
            m = tl.where(step < skip_from, step, step + (skip_to - skip_from))
        q = load_tile(q_ptr, q_row, m, seq_q, rows, dims, HEAD_DIM, BLOCK_D, CHECK_ROWS)
        inside = (m + rows) < seq_q
        # after the end, and for rows that see nothing, +inf makes every weight 2^-inf = 0
        lse = tl.load(lse_ptr + m + rows, mask=inside, other=float("inf"))
        lse = tl.where(lse == float("-inf"), float("inf"), lse)
        scores = tl.dot(k, tl.trans(q), input_precision=PRECISION, out_dtype=dk.dtype) * SCALE  # (N, M)
        if MASKED:
            row_ids = col_ids
            if HAS_IDS:
                row_ids = tl.load(ids_ptr + m + rows, mask=inside, other=0)
            row, col = (m + rows)[None, :], (start_n + cols)[:, None]
            scores = visible_scores(
                scores, row, col, row_ids[None, :], col_ids[:, None], seq_k, seq_k - seq_q, window,
                CAUSAL, HAS_IDS, HAS_WINDOW,
            )  # fmt: skip
        weights = tl.exp2(scores - lse[None, :])
        dout = load_tile(dout_ptr, do_row, m, seq_q, rows, dims, HEAD_DIM, BLOCK_D, CHECK_ROWS)
        dv = tl.dot(weights.to(dout.dtype), dout, dv, input_precision=PRECISION, out_dtype=dv.dtype)
        dweights = tl.dot(v, tl.trans(dout), input_precision=PRECISION, out_dtype=dk.dtype)
        delta = tl.load(delta_ptr + m + rows, mask=inside, other=0.0)
        dscores = weights * (dweights - delta[None, :])
        dk = tl.dot(dscores.to(q.dtype), q, dk, input_precision=PRECISION, out_dtype=dk.dtype)
    return dk, dv


@jit
def _query_ranges(
    start, col_ids, inside, seq_q, seq_k, lows_ptr, highs_ptr, window,
    CAUSAL: tl.constexpr, HAS_IDS: tl.constexpr, HAS_WINDOW: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """The counterpart of key_ranges. For the keys start … start + BLOCK_N: the first query, the begin and end of the
    blocks of queries that need no mask, and the end of those that need one. With document ids all need one: a loop without
    a mask, for the inside of long documents, spilled 424 bytes with grouped heads (head_dim 64, sm_90).
    """
    begin = tl.zeros((), tl.int32)
    stop = tl.zeros((), tl.int32) + seq_q
    bare_begin = begin
    bare_end = tl.cdiv(stop, BLOCK_M) * BLOCK_M
    if CAUSAL:  # query i sees key j when i >= j - (seq_k - seq_q)
        begin = tl.minimum(tl.maximum(start - (seq_k - seq_q), 0), seq_q) // BLOCK_M * BLOCK_M
        bare_begin = tl.maximum(start + BLOCK_N - 1 - (seq_k - seq_q), 0)
        bare_begin = tl.minimum(tl.cdiv(bare_begin, BLOCK_M) * BLOCK_M, bare_end)
    if HAS_WINDOW:  # and when i < j - (seq_k - seq_q) + window
        stop = tl.maximum(tl.minimum(start + BLOCK_N - 1 - (seq_k - seq_q) + window, stop), 0)
        bare_end = tl.minimum(bare_end, tl.maximum(start - (seq_k - seq_q) + window, 0) // BLOCK_M * BLOCK_M)
    if HAS_IDS:
        first, last, _, _ = document_spans(col_ids, inside, lows_ptr, highs_ptr, seq_k, GROUP, 256)
        begin = tl.maximum(begin, first // BLOCK_M * BLOCK_M)
        stop = tl.minimum(stop, last)
        bare_begin = begin
        bare_end = begin
    elif HAS_WINDOW:
        some = bare_begin < bare_end
        bare_begin = tl.where(some, bare_begin, begin)
        bare_end = tl.where(some, bare_end, begin)
    else:
        bare_end = stop
        stop = bare_begin
    return begin, bare_begin, bare_end, stop


@jit
def _attention_dkdv_kernel(
    dout_ptr, q_ptr, k_ptr, v_ptr, ids_ptr, lows_ptr, highs_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr,
    seq_q, seq_k, kv_heads, group, window,
    do_batch, do_head, do_row, q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
    dk_batch, dk_head, dk_row, dv_batch, dv_head, dv_row,
    HEAD_DIM: tl.constexpr, SCALE: tl.constexpr, LOG2_SCALE: tl.constexpr, CAUSAL: tl.constexpr,
    HAS_IDS: tl.constexpr, HAS_WINDOW: tl.constexpr, GROUP: tl.constexpr,
    EVEN: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    ACC: tl.constexpr = lse_ptr.dtype.element_ty
    blocks = tl.cdiv(seq_k, BLOCK_N)
    program = tl.program_id(0)
    start_n = (program % blocks) * BLOCK_N  # under a causal mask the first keys have the most queries
    batch, kv_head = (program // blocks // kv_heads).to(tl.int64), (program // blocks % kv_heads).to(tl.int64)
    ids_ptr += batch * seq_q
    lows_ptr += batch * tl.cdiv(seq_q, GROUP)
    highs_ptr += batch * tl.cdiv(seq_q, GROUP)
    cols, dims = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    k_ptr += batch * k_batch + kv_head * k_head
    v_ptr += batch * v_batch + kv_head * v_head
    k = load_tile(k_ptr, k_row, start_n, seq_k, cols, dims, HEAD_DIM, BLOCK_D, True)
    v = load_tile(v_ptr, v_row, start_n, seq_k, cols, dims, HEAD_DIM, BLOCK_D, True)

    inside = (start_n + cols) < seq_k
    col_ids = cols
    if HAS_IDS:
        col_ids = tl.load(ids_ptr + start_n + cols, mask=inside, other=0)
    begin, bare_begin, bare_end, stop = _query_ranges(
        start_n, col_ids, inside, seq_q, seq_k, lows_ptr, highs_ptr, window,
        CAUSAL, HAS_IDS, HAS_WINDOW, BLOCK_M, BLOCK_N, GROUP,
    )  # fmt: skip

    dk = tl.zeros((BLOCK_N, BLOCK_D), ACC)
    dv = tl.zeros((BLOCK_N, BLOCK_D), ACC)
    for member in range(0, group):
        head = kv_head * group + member
        q_head_ptr = q_ptr + batch * q_batch + head * q_head
        dout_head_ptr = dout_ptr + batch * do_batch + head * do_head
        per_row = (batch * (kv_heads * group) + head) * seq_q
        dk, dv = _dkdv_range(
            dk, dv, k, v, q_head_ptr, dout_head_ptr, lse_ptr + per_row, delta_ptr + per_row, ids_ptr, col_ids,
            start_n, begin, stop, bare_begin, bare_end, seq_q, seq_k, q_row, do_row, window,
            HEAD_DIM, LOG2_SCALE, CAUSAL, HAS_IDS, HAS_WINDOW, True, True, PRECISION,
            BLOCK_M, BLOCK_N, BLOCK_D,
        )  # fmt: skip
        if not HAS_IDS:
            dk, dv = _dkdv_range(
                dk, dv, k, v, q_head_ptr, dout_head_ptr, lse_ptr + per_row, delta_ptr + per_row, ids_ptr, col_ids,
                start_n, bare_begin, bare_end, bare_end, bare_end, seq_q, seq_k, q_row, do_row, window,
                HEAD_DIM, LOG2_SCALE, CAUSAL, HAS_IDS, HAS_WINDOW, False, not EVEN, PRECISION,
                BLOCK_M, BLOCK_N, BLOCK_D,
            )  # fmt: skip
    dk_ptr += batch * dk_batch + kv_head * dk_head
    dv_ptr += batch * dv_batch + kv_head * dv_head
    store_tile(dk_ptr, dk_row, start_n, seq_k, cols, dims, dk * SCALE, HEAD_DIM)
    store_tile(dv_ptr, dv_row, start_n, seq_k, cols, dims, dv, HEAD_DIM)


@register("attention_backward")
def attention_backward(
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
    """(dq, dk, dv); lse is the forward's base-2 logarithm; window 0 means none."""
    batch, heads, seq_q, head_dim = q.shape
    kv_heads, seq_k = k.shape[1], k.shape[2]
    dq, dk, dv = empty_by_token(q), empty_by_token(k), empty_by_token(v)
    if q.numel() == 0 or k.numel() == 0:
        return dq.zero_(), dk.zero_(), dv.zero_()
    q, k, v, out, dout = dense_last(q), dense_last(k), dense_last(v), dense_last(out), dense_last(dout)
    ids = document_groups(document_ids, lse)
    delta = torch.empty_like(lse)
    dq_config, dkdv_config = backward_config(q, heads > kv_heads, document_ids is not None or window > 0)
    options = {
        "HEAD_DIM": head_dim,
        "SCALE": scale,
        "LOG2_SCALE": scale * LOG2_E,
        "CAUSAL": causal,
        "HAS_IDS": document_ids is not None,
        "HAS_WINDOW": window > 0,
        "GROUP": GROUP,
        "PRECISION": dot_precision(),
    }
    inputs = *dout.stride()[:3], *q.stride()[:3], *k.stride()[:3], *v.stride()[:3]
    grid = (batch * heads * triton.cdiv(seq_q, dq_config["BLOCK_M"]),)
    wrap_triton(_attention_dq_kernel)[grid](
        dout, q, k, v, *ids, out, lse, delta, dq, seq_q, seq_k, heads, heads // kv_heads, window,
        *inputs, *out.stride()[:3], *dq.stride()[:3],
        EVEN=seq_q % dq_config["BLOCK_M"] == 0, **options, **dq_config,
    )  # fmt: skip
    grid = (batch * kv_heads * triton.cdiv(seq_k, dkdv_config["BLOCK_N"]),)
    wrap_triton(_attention_dkdv_kernel)[grid](
        dout, q, k, v, *ids, lse, delta, dk, dv, seq_q, seq_k, kv_heads, heads // kv_heads, window,
        *inputs, *dk.stride()[:3], *dv.stride()[:3],
        EVEN=seq_q % dkdv_config["BLOCK_M"] == 0, **options, **dkdv_config,
    )  # fmt: skip
    return dq, dk, dv


@attention_backward.register_fake
def _(dout, q, k, v, out, lse, document_ids, causal, scale, window):
    return empty_by_token(q), empty_by_token(k), empty_by_token(v)
