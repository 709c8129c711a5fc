"""Compiled CPU attention of a few rows over a KV cache: norms, rotation, cache update, softmax.

Input: a plan (plan.py) with queries, keys and values of the rows in PROJECTED. Output: keys and values in the cache, and
ATTENDED. The result of each (row, head) does not depend on what else is in the pass.
"""

import numpy as np

from lmfast.inference.cpu.plan import (
    ATTENDED,
    BATCH,
    BEGINS,
    CACHE,
    COLUMNS,
    COS,
    HEAD_DIM,
    HEAD_NORMS,
    IDS,
    MATRICES,
    MAX_LENGTH,
    NUM_HEADS,
    NUM_KV_HEADS,
    NUMBERS,
    OWNERS,
    POSITIONS,
    PROJECTED,
    QK_NORM,
    ROPE,
    SCRATCH,
    SEQUENCES,
    SIN,
    SPAN,
    VALUE_TABLE,
    VALUE_WEIGHTS,
)
from lmfast.inference.cpu.products import ROW_PADDING, TILE
from lmfast.inference.cpu.vectors import (
    LOG2_E,
    compiled,
    compiled_sums,
    dots_1,
    dots_16,
    exp2,
    floats,
    integers,
    largest,
    weighted_rows_1,
    weighted_rows_2,
    weighted_rows_4,
    weighted_rows_part,
)


@compiled
def share(count, unit, rank, threads):
    """The range of `count` outputs that this rank of the pass computes, in whole units except for the last."""
    units = (count + unit - 1) // unit
    return min(count, units * rank // threads * unit), min(count, units * (rank + 1) // threads * unit)


@compiled_sums
def rms_norm(x, weight, eps, out):
    """out = x / rms(x) · weight, over one row; `out` may be x."""
    total = np.float32(0)
    for i in range(x.shape[0]):
        total += x[i] * x[i]
    scale = np.float32(1) / np.sqrt(total / np.float32(x.shape[0]) + eps)
    for i in range(x.shape[0]):
        out[i] = x[i] * scale * weight[i]


@compiled_sums
def rotate(x, cos, sin, scale, out):
    """Rotates the pairs (i, i + half) of one head by their angles and multiplies by scale."""
    half = cos.shape[0]
    for i in range(half):
        first, second = x[i] * scale, x[i + half] * scale
        out[i] = first * cos[i] - second * sin[i]
        out[i + half] = second * cos[i] + first * sin[i]


@compiled
def place_head(plan, x, head_norm, position, scale, out):
    """Normalises one query or key (head_dim,) in place with that row of HEAD_NORMS, rotates and scales it into `out`."""
    head_dim = plan[HEAD_DIM]
    if plan[QK_NORM]:
        weight = floats(plan[HEAD_NORMS] + 4 * head_norm * head_dim, head_dim)
        rms_norm(x, weight, floats(plan[NUMBERS], 1)[0], x)
    if plan[ROPE]:
        half = head_dim // 2
        cos, sin = (
            floats(plan[COS] + 4 * position * half, half),
            floats(plan[SIN] + 4 * position * half, half),
        )
        rotate(x, cos, sin, scale, out)
    else:
        for i in range(head_dim):
            out[i] = x[i] * scale


@compiled
def dots(rows, x, n, count, out, after):
    """out[i] = x · row i (n floats each), for i < count; all addresses. after: address of what is read next, to prefetch."""
    size = 4 * n
    if count < 16:
        for i in range(count):
            dots_1(rows + i * size, size, x, n, out + 4 * i, 0)
        return
    for i in range(0, count - 15, 16):
        here = rows + i * size
        dots_16(here, size, x, n, out + 4 * i, 16 * size if i + 16 < count else after - here)
    if count % 16:  # the last 16 rows; some are computed twice, with the same result
        here = rows + (count - 16) * size
        dots_16(here, size, x, n, out + 4 * (count - 16), after - here)


@compiled_sums
def softmax_weights(scores, top):
    """Replaces scores (in units of log 2, with maximum `top`) by unnormalised weights; returns their sum."""
    total = np.float32(0)
    for i in range(scores.shape[0]):
        weight = exp2(scores[i] - top)
        scores[i] = weight
        total += weight
    return total


@compiled
def weighted_sum(weights, values, n, width, scale, out, after):
    """out (width,) = scale · weights (n,) · values (n, width); all addresses."""
    size = 4 * width
    k = 0
    while k + 64 <= width:
        weighted_rows_4(weights, values + 4 * k, size, n, scale, out + 4 * k, 64, after + 4 * k)
        k += 64
    if k + 32 <= width:
        weighted_rows_2(weights, values + 4 * k, size, n, scale, out + 4 * k, 32, after + 4 * k)
        k += 32
    if k + 16 <= width:
        weighted_rows_1(weights, values + 4 * k, size, n, scale, out + 4 * k, 16, after + 4 * k)
        k += 16
    if k < width:
        weighted_rows_part(weights, values + 4 * k, size, n, scale, out + 4 * k, width - k, after + 4 * k)


@compiled
def attend(query, keys, values, n, head_dim, scores, out, keys_next):
    """Attention of one scaled query over n rows of keys and values (n, head_dim); all addresses.

    keys_next: address of what is read next, to prefetch."""
    dots(keys, query, head_dim, n, scores, values)
    total = softmax_weights(floats(scores, n), largest(scores, n))
    weighted_sum(scores, values, n, head_dim, np.float32(1) / total, out, keys_next)


@compiled
def attention(plan, rows, layer, rank, t, threads):
    """Rotates, updates the cache and attends, for this rank's (sequence, key/value head) pairs, in thread t's memory."""
    heads, kv_heads, head_dim = plan[NUM_HEADS], plan[NUM_KV_HEADS], plan[HEAD_DIM]
    group, size = heads // kv_heads, 4 * plan[HEAD_DIM]
    scale = np.float32(LOG2_E / np.sqrt(np.float32(head_dim)))
    query = plan[SCRATCH] + 4 * (t * (TILE + head_dim + plan[MAX_LENGTH] + ROW_PADDING) + TILE)
    scores = query + size
    attended_stride = 4 * (heads * head_dim + ROW_PADDING)
    matrices = integers(plan[MATRICES], COLUMNS * (layer + 1))
    table, span = matrices[COLUMNS * layer + VALUE_TABLE], matrices[COLUMNS * layer + SPAN]
    layer_values = plan[BATCH] * kv_heads * plan[MAX_LENGTH] * size  # bytes from a layer's keys to its values
    first, last = share(plan[SEQUENCES] * kv_heads, 1, rank, threads)
    for pair in range(first, last):
        s, g = pair // kv_heads, pair % kv_heads
        begin = 2 * layer * layer_values + (rows[OWNERS, s] * kv_heads + g) * plan[MAX_LENGTH] * size
        keys = plan[CACHE] + begin
        values = keys + layer_values
        keys_next = keys + plan[MAX_LENGTH] * size
        for r in range(rows[BEGINS, s], rows[BEGINS, s + 1]):
            position = rows[POSITIONS, r]
            projected = plan[PROJECTED] + r * (heads + 2 * kv_heads) * size
            key = floats(projected + (heads + g) * size, head_dim)
            new_key = floats(keys + position * size, head_dim)
            place_head(plan, key, 2 * layer + 1, position, np.float32(1), new_key)
            value = floats(projected + (heads + kv_heads + g) * size, head_dim)
            new_value = floats(values + position * size, head_dim)
            if table:
                learned = floats(table + (rows[IDS, r] * kv_heads + g) * size, head_dim)
                weight = floats(matrices[COLUMNS * layer + VALUE_WEIGHTS], kv_heads)[g]
                for i in range(head_dim):
                    new_value[i] = value[i] + weight * learned[i]
            else:
                for i in range(head_dim):
                    new_value[i] = value[i]
            for h in range(g * group, (g + 1) * group):
                unscaled = floats(projected + h * size, head_dim)
                place_head(plan, unscaled, 2 * layer, position, scale, floats(query, head_dim))
                out = plan[ATTENDED] + r * attended_stride + h * size
                seen = min(position + 1, span)
                skipped = (position + 1 - seen) * size
                attend(query, keys + skipped, values + skipped, seen, head_dim, scores, out, keys_next)
