"""One pass of a transformer over a few rows on a CPU, compiled: what each thread of a team does.

In: a plan, one int64 array of sizes and addresses that cpu_decoder.py fills, and the pass's rows. A row is one token
with its sequence and position: decoding has one row a sequence, reading a prompt has many, in order. Out: the cache
with the rows' keys and values and, where asked for, logits and the next id of each row. Weights are fp32 and read
where the model has them.

The work between two barriers is cut by outputs: rows of a weight matrix, key/value heads, rows to sample. No sum is
split among threads, so their number changes no bit; norms are so short that each thread makes its own copy of them. A
layer has four barriers.

A plan of numbers rather than a tuple of 26 arrays: with the tuple, compiling took 19 s and each call inside counted
references to all of them.
"""

import numpy as np
from numba import njit

from lmfast.inference.cpu_sampling import largest, pick
from lmfast.inference.cpu_team import barrier, next_pass
from lmfast.inference.vectors import (
    FLAGS,
    LOG2_E,
    SUMS,
    dots_1,
    dots_1x4,
    dots_4x4,
    dots_16,
    exp2,
    floats,
    integers,
)

# What a plan holds, by index. Sizes; T threads, R rows at most (a multiple of four), B sequences:
D_MODEL, NUM_LAYERS, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, FFN, VOCAB, BATCH, MAX_LENGTH, MAX_ROWS = range(10)
# the arrangement;
NORM, ROPE, ACTIVATION, QK_NORM, PARALLEL = range(10, 15)
PRE, POST, NONE = range(3)
SWIGLU, SILU, RELU2 = range(3)
# addresses, of fp32 arrays but for the first;
MATRICES = 15  # (layers + 1, 6) int64: addresses of each layer's, see below; at last the head's
EMBEDDING = 16  # (vocab_size, d_model)
NORMS = 17  # (2 layers + 1, d_model): attention's and feed-forward's of each layer, then the final one
HEAD_NORMS = 18  # (layers, 2, head_dim): queries', keys'
COS, SIN = 19, 20  # (context, head_dim / 2)
CACHE = 21  # (layers, 2, B, kv_heads, max_length, head_dim)
STREAM = 22  # (R, d_model): the residual stream
NORMED = 23  # (T, R, d_model): each thread's input of a sublayer
PROJECTED = 24  # (R, heads + 2 kv_heads, head_dim): queries, keys, values
ATTENDED = 25  # (R, heads, head_dim)
DELTA = 26  # (R, d_model): a sublayer's output
UP = 27  # (R, ffn), with SwiGLU (R, 2 ffn): the gate first
HIDDEN = 28  # (R, ffn)
SCRATCH = 29  # (T, 16 + head_dim + max_length): a tile, a query, scores
LOGITS = 30  # (B, vocab_size), by rows
CHANCES = 31  # (T, vocab_size): scratch of the choice
NUMBERS = 32  # eps of the norms, temperature, top_p, softcap of the logits or 0
# how ids are chosen; and this pass: its rows, sequences they belong to, whether each row's next id is wanted.
TOP_K, KEY, STEP, NUM_ROWS, SEQUENCES, PREDICT = range(33, 39)
PLAN_WORDS = 39
# Columns of MATRICES: projections (out, in), then a table (vocab_size, kv_heads · head_dim) and weights (kv_heads,) of
# value embeddings, 0 in a layer without them.
QKV, OUT, UP_MATRIX, DOWN, VALUE_TABLE, VALUE_WEIGHTS = range(6)
COLUMNS = 6
# Rows of `rows` (5, R + 1) int64. Sequence OWNERS[s] has the rows from BEGINS[s] to BEGINS[s + 1].
IDS, POSITIONS, OWNERS, BEGINS, PICKS = range(5)


@njit(**FLAGS)
def share(count, unit, t, threads):
    """The part of `count` outputs that thread t computes: whole units, but for the last."""
    units = (count + unit - 1) // unit
    return min(count, units * t // threads * unit), min(count, units * (t + 1) // threads * unit)


@njit(**FLAGS)
def dots(rows, x, n, begin, end, out):
    """out[i] = x · row i (n floats each), for begin <= i < end; all three at addresses."""
    size = 4 * n
    i = begin
    while i + 16 <= end:
        dots_16(rows + i * size, size, x, n, out + 4 * i)
        i += 16
    while i < end:
        dots_1(rows + i * size, size, x, n, out + 4 * i)
        i += 1


@njit(**FLAGS)
def products(weight, x, n, rows, begin, end, out, width, tile):
    """out[r, o] = x[r] · row o of the weight, for all rows r and begin <= o < end; all four at addresses.

    x (R, n), out (R, width), tile: 16 floats of scratch."""
    size = 4 * n
    if rows == 1:
        dots(weight, x, n, begin, end, out)
        return
    done = floats(tile, 16)
    o = begin
    while o < end:
        several = o + 4 <= end
        for r in range(0, rows, 4):
            if several:
                dots_4x4(weight + o * size, size, x + r * size, size, n, tile)
            else:
                dots_1x4(weight + o * size, size, x + r * size, size, n, tile)
            count = 4 if several else 1
            for j in range(min(4, rows - r)):
                to = floats(out + 4 * ((r + j) * width + o), count)
                for i in range(count):
                    to[i] = done[j * count + i]
        o += 4 if several else 1


@njit(**SUMS)
def rms_norm(x, weight, eps, out):
    """out = x / rms(x) · weight, over one row; `out` may be x."""
    total = np.float32(0)
    for i in range(x.shape[0]):
        total += x[i] * x[i]
    scale = np.float32(1) / np.sqrt(total / np.float32(x.shape[0]) + eps)
    for i in range(x.shape[0]):
        out[i] = x[i] * scale * weight[i]


@njit(**FLAGS)
def sublayer_input(plan, t, norm):
    """This thread's copy of the stream, normalised where norm >= 0: by that row of NORMS. Returns its address."""
    d_model, rows = plan[D_MODEL], plan[NUM_ROWS]
    normed = plan[NORMED] + 4 * t * plan[MAX_ROWS] * d_model
    eps = floats(plan[NUMBERS], 1)[0]
    for r in range(rows):
        x = floats(plan[STREAM] + 4 * r * d_model, d_model)
        out = floats(normed + 4 * r * d_model, d_model)
        if norm >= 0:
            rms_norm(x, floats(plan[NORMS] + 4 * norm * d_model, d_model), eps, out)
        else:
            for i in range(d_model):
                out[i] = x[i]
    return normed


@njit(**SUMS)
def rotate(x, cos, sin, scale, out):
    """One head's pairs (i, i + half) turned by their angles, times scale."""
    half = cos.shape[0]
    for i in range(half):
        first, second = x[i] * scale, x[i + half] * scale
        out[i] = first * cos[i] - second * sin[i]
        out[i + half] = second * cos[i] + first * sin[i]


@njit(**FLAGS)
def place_head(plan, x, head_norm, position, scale, out):
    """One query or key (head_dim,): normalised (in place) by that row of HEAD_NORMS, rotated, scaled."""
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


@njit(**SUMS)
def softmax_weights(scores):
    """scores (in units of log 2) become weights that need dividing by what is returned."""
    top = largest(scores)
    total = np.float32(0)
    for i in range(scores.shape[0]):
        weight = exp2(scores[i] - top)
        scores[i] = weight
        total += weight
    return total


@njit(**SUMS)
def weighted_sum(weights, values, scale, out):
    """out = scale · weights (n,) · values (n, head_dim) flat, four rows at a time."""
    n, width = weights.shape[0], out.shape[0]
    for k in range(width):
        out[k] = np.float32(0)
    i = 0
    while i + 4 <= n:
        a, b, c, d = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
        v = i * width
        for k in range(width):
            low, high = a * values[v + k] + b * values[v + width + k], c * values[v + 2 * width + k]
            out[k] += low + (high + d * values[v + 3 * width + k])
        i += 4
    while i < n:
        for k in range(width):
            out[k] += weights[i] * values[i * width + k]
        i += 1
    for k in range(width):
        out[k] *= scale


@njit(**FLAGS)
def attend(query, keys, values, n, head_dim, scores, out):
    """Attention of one scaled query over n rows of keys and values (n, head_dim); all at addresses."""
    dots(keys, query, head_dim, 0, n, scores)
    weights = floats(scores, n)
    total = softmax_weights(weights)
    weighted_sum(weights, floats(values, n * head_dim), np.float32(1) / total, floats(out, head_dim))


@njit(**FLAGS)
def attention(plan, rows, layer, t, threads):
    """Rotates, writes the cache and attends, for this thread's share of (sequence, key/value head)."""
    heads, kv_heads, head_dim = plan[NUM_HEADS], plan[NUM_KV_HEADS], plan[HEAD_DIM]
    group, size = heads // kv_heads, 4 * plan[HEAD_DIM]
    scale = np.float32(LOG2_E / np.sqrt(np.float32(head_dim)))
    query = plan[SCRATCH] + 4 * (t * (16 + head_dim + plan[MAX_LENGTH]) + 16)
    scores = query + size
    matrices = integers(plan[MATRICES], COLUMNS * (layer + 1))
    table = matrices[COLUMNS * layer + VALUE_TABLE]
    layer_values = plan[BATCH] * kv_heads * plan[MAX_LENGTH] * size  # bytes from a layer's keys to its values
    first, last = share(plan[SEQUENCES] * kv_heads, 1, t, threads)
    for pair in range(first, last):
        s, g = pair // kv_heads, pair % kv_heads
        begin = 2 * layer * layer_values + (rows[OWNERS, s] * kv_heads + g) * plan[MAX_LENGTH] * size
        keys = plan[CACHE] + begin
        values = keys + layer_values
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
                asked = floats(projected + h * size, head_dim)
                place_head(plan, asked, 2 * layer, position, scale, floats(query, head_dim))
                out = plan[ATTENDED] + (r * heads + h) * size
                attend(query, keys, values, position + 1, head_dim, scores, out)


@njit(**SUMS)
def activate(kind, up, hidden, begin, end):
    """One row's hidden layer between begin and end, from its projections."""
    ffn = hidden.shape[0]
    if kind == RELU2:
        for i in range(begin, end):
            hidden[i] = up[i] * up[i] if up[i] > 0 else np.float32(0)
        return
    for i in range(begin, end):
        hidden[i] = up[i] / (np.float32(1) + exp2(-LOG2_E * up[i]))
    if kind == SWIGLU:
        for i in range(begin, end):
            hidden[i] *= up[ffn + i]


@njit(**FLAGS)
def activate_rows(plan, begin, end):
    ffn, kind = plan[FFN], plan[ACTIVATION]
    width = 2 * ffn if kind == SWIGLU else ffn
    for r in range(plan[NUM_ROWS]):
        up, hidden = floats(plan[UP] + 4 * r * width, width), floats(plan[HIDDEN] + 4 * r * ffn, ffn)
        activate(kind, up, hidden, begin, end)


@njit(**FLAGS)
def add_delta(plan, normed, begin, end):
    """stream = base + delta, between two columns. base is the stream itself, with post-norm the sublayer's input."""
    d_model = plan[D_MODEL]
    for r in range(plan[NUM_ROWS]):
        at = 4 * r * d_model
        stream, delta = floats(plan[STREAM] + at, d_model), floats(plan[DELTA] + at, d_model)
        base = floats((normed if plan[NORM] == POST else plan[STREAM]) + at, d_model)
        for i in range(begin, end):
            stream[i] = base[i] + delta[i]


@njit(**FLAGS)
def embed(plan, rows, t, threads):
    d_model = plan[D_MODEL]
    begin, end = share(plan[NUM_ROWS], 1, t, threads)
    for r in range(begin, end):
        row = floats(plan[EMBEDDING] + 4 * rows[IDS, r] * d_model, d_model)
        stream = floats(plan[STREAM] + 4 * r * d_model, d_model)
        for i in range(d_model):
            stream[i] = row[i]


@njit(**SUMS)
def softcap(logits, cap, begin, end):
    """logits = cap · tanh(logits / cap) between begin and end."""
    for i in range(begin, end):
        turned = exp2(logits[i] * (np.float32(2) * LOG2_E / cap))
        logits[i] = cap - np.float32(2) * cap / (turned + np.float32(1))


@njit(**FLAGS)
def choose(plan, rows, t, threads):
    """The next ids of this thread's share of the rows."""
    vocab_size, numbers = plan[VOCAB], floats(plan[NUMBERS], 4)
    begin, end = share(plan[NUM_ROWS], 1, t, threads)
    for r in range(begin, end):
        logits = floats(plan[LOGITS] + 4 * r * vocab_size, vocab_size)
        chances = floats(plan[CHANCES] + 4 * t * vocab_size, vocab_size)
        rows[PICKS, r] = pick(
            logits, numbers[1], plan[TOP_K], numbers[2], plan[KEY], plan[STEP], rows[OWNERS, r], chances
        )


@njit(**FLAGS)
def cap_logits(plan, begin, end):
    vocab_size, cap = plan[VOCAB], floats(plan[NUMBERS], 4)[3]
    if cap > 0:
        for r in range(plan[NUM_ROWS]):
            softcap(floats(plan[LOGITS] + 4 * r * vocab_size, vocab_size), cap, begin, end)


@njit(**FLAGS)
def work(plan, rows, sync, t, threads, seen, passed, patience, woken):
    """One pass for thread 0; for the others all that are called, until none comes for `patience` looks.

    Returns (passes seen, barriers passed), to be given back at the next call; passes seen is −1 when all has ended.
    All in one function: Numba optimises what a function calls anew with each function that calls it, in turn."""
    layers, heads, head_dim, d_model = plan[NUM_LAYERS], plan[NUM_HEADS], plan[HEAD_DIM], plan[D_MODEL]
    ffn, vocab_size, arrangement = plan[FFN], plan[VOCAB], plan[NORM]
    matrices = integers(plan[MATRICES], COLUMNS * (layers + 1))
    tile = plan[SCRATCH] + 4 * t * (16 + head_dim + plan[MAX_LENGTH])
    qkv_width = (heads + 2 * plan[NUM_KV_HEADS]) * head_dim
    up_width = 2 * ffn if plan[ACTIVATION] == SWIGLU else ffn
    qkv_begin, qkv_end = share(qkv_width, 16, t, threads)
    begin, end = share(d_model, 16, t, threads)
    up_begin, up_end = share(ffn, 16, t, threads)
    head_begin, head_end = share(vocab_size, 16, t, threads)
    while True:
        if t > 0:
            called = next_pass(sync, seen, patience, woken)
            woken = False
            if called <= 0:
                return (seen if called == 0 else -1), passed
        count, predict = plan[NUM_ROWS], plan[PREDICT]
        embed(plan, rows, t, threads)
        passed = barrier(sync, passed, threads)
        # Post-norm leaves it to the next sublayer to normalise what the one before has summed.
        norm = 0 if arrangement == PRE else -1
        for layer in range(layers):
            at = COLUMNS * layer
            x = sublayer_input(plan, t, norm)
            products(
                matrices[at + QKV], x, d_model, count, qkv_begin, qkv_end, plan[PROJECTED], qkv_width, tile
            )
            passed = barrier(sync, passed, threads)
            attention(plan, rows, layer, t, threads)
            passed = barrier(sync, passed, threads)
            products(
                matrices[at + OUT],
                plan[ATTENDED],
                heads * head_dim,
                count,
                begin,
                end,
                plan[DELTA],
                d_model,
                tile,
            )
            add_delta(plan, x, begin, end)
            if arrangement != NONE:
                norm += 1
            if not plan[PARALLEL]:
                passed = barrier(sync, passed, threads)
                x = sublayer_input(plan, t, norm)
            for part in range(0, up_width, ffn):
                products(
                    matrices[at + UP_MATRIX], x, d_model, count, part + up_begin, part + up_end, plan[UP], up_width,
                    tile,
                )  # fmt: skip
            activate_rows(plan, up_begin, up_end)
            passed = barrier(sync, passed, threads)
            products(matrices[at + DOWN], plan[HIDDEN], ffn, count, begin, end, plan[DELTA], d_model, tile)
            add_delta(plan, x, begin, end)
            if arrangement != NONE:
                norm += 1
            passed = barrier(sync, passed, threads)
        if predict:
            x = sublayer_input(plan, t, norm)
            products(
                matrices[COLUMNS * layers],
                x,
                d_model,
                count,
                head_begin,
                head_end,
                plan[LOGITS],
                vocab_size,
                tile,
            )
            cap_logits(plan, head_begin, head_end)
            passed = barrier(sync, passed, threads)
            choose(plan, rows, t, threads)
            passed = barrier(sync, passed, threads)
        # After the last barrier nothing of a pass is read: thread 0 may be preparing the next one already.
        seen += 1
        if t == 0:
            return seen, passed
