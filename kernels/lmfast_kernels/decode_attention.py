"""Attention of one new token per sequence over a static key-value cache.

In: q (batch, heads, head_dim) or (batch, heads, 1, head_dim); k_cache and v_cache (batch, kv_heads, max_len,
head_dim), any strides, heads a multiple of kv_heads; lengths, integers (batch,): the number of valid cache rows per
sequence, including the new token's. Out: q's shape and dtype; zeros for a length of 0. `window` restricts attention to the
last `window` of those rows. Scale 1/√head_dim. No gradient. Lengths are a tensor, so that one compiled graph (and
one CUDA graph) serves every step. Rows from `lengths` on must be finite (a cache allocated with zeros
is); except on CUDA they are read and multiplied by zero, so passing k_cache[:, :, :bound] saves time there. Under autocast
q and the caches are cast to its dtype. Source: Dao et al. 2023, "Flash-Decoding for long-context inference".

On CUDA each sequence's cache is split among programs, enough to fill the multiprocessors twice, in proportion to the
sequence's length; a second kernel combines them. A group's query heads are the rows of one product, so a grouped cache is
read once. Costs: docs/kernels.md.
"""

import torch
import torch.nn.functional as F

from lmfast_kernels.attention_forward import LOG2_E, load_tile
from lmfast_kernels.backend import (
    autocast_dtype,
    compute_dtype,
    dense_last,
    dot_precision,
    jit,
    num_sms,
    power_of_two,
    register,
    tl,
    triton,
    use_triton,
    wrap_triton,
)

MAX_SPLITS = 128


def decode_attention_reference(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    lengths: torch.Tensor,
    window: int | None = None,
) -> torch.Tensor:
    """The same computation with PyTorch's operator, for q (batch, heads, head_dim); used where Triton is not.

    A group's query heads become the rows of one small matrix, so that grouped caches are read once and not
    repeated. Measured on 2 cores: 417 µs, with a boolean mask 512 µs (16 heads, 2 kv heads, 4096
    rows of 128).
    """
    batch, heads, head_dim = q.shape
    kv_heads, max_len = k_cache.shape[1], k_cache.shape[2]
    places, ends = torch.arange(max_len, device=q.device), lengths.unsqueeze(1)
    beyond = places >= ends  # (batch, max_len)
    if window is not None:
        beyond |= places < ends.clamp(max=max_len) - window
    mask = torch.zeros(beyond.shape, dtype=q.dtype, device=q.device).masked_fill(beyond, -torch.inf)
    grouped = q.reshape(batch, kv_heads, heads // kv_heads, head_dim)
    out = F.scaled_dot_product_attention(grouped, k_cache, v_cache, attn_mask=mask[:, None, None, :])
    return out.reshape(batch, heads, head_dim)


@jit
def _decode_split_kernel(
    q_ptr, k_ptr, v_ptr, lengths_ptr, partial_ptr, stats_ptr, out_ptr,
    max_len, kv_heads, splits, window,
    q_batch, q_head, k_batch, k_head, k_row, v_batch, v_head, v_row,
    HEAD_DIM: tl.constexpr, SCALE: tl.constexpr, GROUP: tl.constexpr, SINGLE: tl.constexpr, HAS_WINDOW: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One split of one kv head: unnormalised sum (batch, heads, splits, HEAD_DIM), maximum and denominator."""
    ACC: tl.constexpr = stats_ptr.dtype.element_ty
    group, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    batch, kv_head = group // kv_heads, group % kv_heads
    q_ptr += batch * q_batch + kv_head * GROUP * q_head
    k_ptr += batch * k_batch + kv_head * k_head
    v_ptr += batch * v_batch + kv_head * v_head
    length = tl.minimum(tl.load(lengths_ptr + batch).to(tl.int32), max_len)
    earliest = tl.zeros((), tl.int32)
    if HAS_WINDOW:
        earliest = tl.maximum(length - window, 0)
    share = tl.cdiv(tl.cdiv(length - earliest, splits), BLOCK_N) * BLOCK_N
    begin = earliest + split * share
    stop = tl.minimum(begin + share, length)

    members, cols, dims = tl.arange(0, BLOCK_G), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    q = load_tile(q_ptr, q_head, 0, GROUP, members, dims, HEAD_DIM, BLOCK_D, True)
    row_max = tl.full((BLOCK_G,), float("-inf"), ACC)
    row_sum = tl.zeros((BLOCK_G,), ACC)
    acc = tl.zeros((BLOCK_G, BLOCK_D), ACC)
    for n in range(begin, stop, BLOCK_N):
        k = load_tile(k_ptr, k_row, n, stop, cols, dims, HEAD_DIM, BLOCK_D, True)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION, out_dtype=ACC) * SCALE
        scores = tl.where((n + cols)[None, :] < stop, scores, float("-inf"))
        new_max = tl.maximum(
            row_max, tl.max(scores, axis=1)
        )  # every block has a valid row, so this is finite
        weights = tl.exp2(scores - new_max[:, None])
        shrink = tl.exp2(row_max - new_max)
        row_sum = row_sum * shrink + tl.sum(weights, axis=1)
        v = load_tile(v_ptr, v_row, n, stop, cols, dims, HEAD_DIM, BLOCK_D, True)
        acc = acc * shrink[:, None]
        acc = tl.dot(weights.to(v.dtype), v, acc, input_precision=PRECISION, out_dtype=ACC)
        row_max = new_max

    heads = group * GROUP + members  # batch × heads, as (batch, kv_heads, GROUP) is dense
    in_group = members < GROUP
    if SINGLE:
        out = acc / tl.where(row_sum == 0.0, 1.0, row_sum)[:, None]
        places = out_ptr + heads[:, None] * HEAD_DIM + dims[None, :]
        tl.store(
            places, out.to(out_ptr.dtype.element_ty), mask=in_group[:, None] & (dims < HEAD_DIM)[None, :]
        )
    else:
        slots = heads * splits + split
        places = partial_ptr + slots[:, None] * HEAD_DIM + dims[None, :]
        tl.store(places, acc, mask=in_group[:, None] & (dims < HEAD_DIM)[None, :])
        tl.store(stats_ptr + 2 * slots, row_max, mask=in_group)
        tl.store(stats_ptr + 2 * slots + 1, row_sum, mask=in_group)


@jit
def _decode_combine_kernel(
    partial_ptr, stats_ptr, out_ptr, splits,
    HEAD_DIM: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Combines the splits of one head. An empty split has maximum −inf and weight 0."""
    head = tl.program_id(0).to(tl.int64)
    dims, slots = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_S)
    there = slots < splits
    maxima = tl.load(stats_ptr + 2 * (head * splits + slots), mask=there, other=float("-inf"))
    sums = tl.load(stats_ptr + 2 * (head * splits + slots) + 1, mask=there, other=0.0)
    top = tl.max(maxima, axis=0)
    weights = tl.exp2(maxima - tl.where(top == float("-inf"), 0.0, top))
    total = tl.sum(weights * sums, axis=0)
    mask = there[:, None] & (dims < HEAD_DIM)[None, :]
    places = partial_ptr + (head * splits + slots)[:, None] * HEAD_DIM + dims[None, :]
    out = tl.sum(weights[:, None] * tl.load(places, mask=mask, other=0.0), axis=0)
    out = out / tl.where(total == 0.0, 1.0, total)
    tl.store(out_ptr + head * HEAD_DIM + dims, out.to(out_ptr.dtype.element_ty), mask=dims < HEAD_DIM)


def decode_config(q: torch.Tensor) -> dict[str, int]:
    """Rows per step, warps and stages; three steps of keys and values in flight hide the memory latency."""
    block_d = max(16, power_of_two(q.shape[-1]))
    block_n, stages = (64, 3) if q.element_size() <= 2 else (32, 2)
    if block_d == 256:
        block_n //= 2
    warps = 4
    if block_d == 256 and q.element_size() > 2:  # with 4 warps 128 bytes spilled on sm_90, with 8 warps 8
        warps = 8
    return {"BLOCK_N": block_n, "BLOCK_D": block_d, "num_warps": warps, "num_stages": stages}


@register("decode_attention")
def _decode(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, lengths: torch.Tensor, window: int
) -> torch.Tensor:
    """Attention for q (batch, heads, head_dim), in the same shape, contiguous; window 0 means none."""
    batch, heads, head_dim = q.shape
    kv_heads, max_len = k_cache.shape[1], k_cache.shape[2]
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    if out.numel() == 0 or max_len == 0:
        return out.zero_()
    config = decode_config(q)
    splits = min(
        MAX_SPLITS,
        triton.cdiv(min(window, max_len) if window else max_len, config["BLOCK_N"]),
        max(1, 2 * num_sms(q.device) // (batch * kv_heads)),
    )
    compute = compute_dtype(q.dtype)
    q, k, v = dense_last(q), dense_last(k_cache), dense_last(v_cache)
    partial = torch.empty(
        (batch, heads, splits if splits > 1 else 0, head_dim), dtype=compute, device=q.device
    )
    stats = torch.empty((batch, heads, splits, 2), dtype=compute, device=q.device)
    wrap_triton(_decode_split_kernel)[(batch * kv_heads, splits)](
        q, k, v, lengths.contiguous(), partial, stats, out, max_len, kv_heads, splits, window,
        *q.stride()[:2], *k.stride()[:3], *v.stride()[:3],
        HEAD_DIM=head_dim, SCALE=head_dim**-0.5 * LOG2_E, GROUP=heads // kv_heads, SINGLE=splits == 1, HAS_WINDOW=window > 0,
        PRECISION=dot_precision(), BLOCK_G=max(16, power_of_two(heads // kv_heads)), **config,
    )  # fmt: skip
    if splits > 1:
        wrap_triton(_decode_combine_kernel)[(batch * heads,)](
            partial, stats, out, splits,
            HEAD_DIM=head_dim, BLOCK_S=power_of_two(splits), BLOCK_D=config["BLOCK_D"], num_warps=4,
        )  # fmt: skip
    return out


@_decode.register_fake
def _(q, k_cache, v_cache, lengths, window):
    return q.new_empty(q.shape)


def _validate(q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, lengths: torch.Tensor) -> None:
    if q.dim() not in (3, 4) or (q.dim() == 4 and q.shape[2] != 1):
        raise ValueError(
            f"decode_attention: q {tuple(q.shape)} must be (batch, heads, head_dim) "
            "or (batch, heads, 1, head_dim)"
        )
    if k_cache.dim() != 4 or k_cache.shape != v_cache.shape:
        raise ValueError(
            f"decode_attention: caches {tuple(k_cache.shape)} and {tuple(v_cache.shape)} must both be "
            "(batch, kv_heads, max_len, head_dim)"
        )
    if k_cache.shape[0] != q.shape[0] or k_cache.shape[3] != q.shape[-1]:
        raise ValueError(
            f"decode_attention: caches {tuple(k_cache.shape)} must have "
            f"batch and head_dim of q {tuple(q.shape)}"
        )
    if k_cache.shape[1] == 0 or q.shape[1] % k_cache.shape[1]:
        raise ValueError(
            f"decode_attention: {q.shape[1]} heads are not a multiple of {k_cache.shape[1]} kv heads"
        )
    if not 1 <= q.shape[-1] <= 256:
        raise ValueError(f"decode_attention: head_dim {q.shape[-1]} is outside 1 to 256")
    if not q.dtype == k_cache.dtype == v_cache.dtype:
        raise ValueError(
            f"decode_attention: q and caches are {q.dtype}, {k_cache.dtype}, {v_cache.dtype}; "
            "give them one dtype"
        )
    if lengths.shape != q.shape[:1] or lengths.is_floating_point():
        raise ValueError(
            f"decode_attention: lengths {tuple(lengths.shape)} {lengths.dtype} must be "
            f"integers ({q.shape[0]},)"
        )


def decode_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    lengths: torch.Tensor,
    window: int | None = None,
) -> torch.Tensor:
    """Attention of each sequence's single query over its first `lengths` cache rows, or the last `window` of them.
    Raises ValueError for inconsistent shapes.

    q (batch, heads, head_dim) or (batch, heads, 1, head_dim), caches (batch, kv_heads, max_len, head_dim), lengths
    (batch,).
    """
    cast = autocast_dtype(q)
    if cast is not None:
        q, k_cache, v_cache = q.to(cast), k_cache.to(cast), v_cache.to(cast)
    _validate(q, k_cache, v_cache, lengths)
    if window is not None and window < 1:
        raise ValueError(f"decode_attention: window {window} must be at least 1")
    rows = q if q.dim() == 3 else q.squeeze(2)
    if use_triton("decode_attention", q):
        return _decode(rows.detach(), k_cache.detach(), v_cache.detach(), lengths, window or 0).reshape(
            q.shape
        )
    return decode_attention_reference(rows, k_cache, v_cache, lengths, window).reshape(q.shape)
