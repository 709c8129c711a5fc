"""One compiled pass of a transformer over a few rows on a CPU: the work of each thread of a team.

In: a plan (plan.py) and the rows of the pass. A row is one token with its sequence and position: decoding has one row per
sequence, reading a prompt has many, in order. Out: the cache with the rows' keys and values and, if requested, logits and
the next id of each row. The first pass packs the weights (products.py) for all later ones.

Between two barriers the threads divide outputs: columns of a product, key/value heads, rows to sample. No sum is split
across threads, so results do not depend on their number; norms are so short that each thread computes its own copy. A
layer has four barriers.
"""

import numpy as np

from lmfast.inference.cpu.attention import attention, rms_norm, share
from lmfast.inference.cpu.plan import (
    ACTIVATION,
    ATTENDED,
    COLUMNS,
    D_MODEL,
    DELTA,
    DOWN,
    EMBEDDING,
    FFN,
    HEAD_DIM,
    HIDDEN,
    IDS,
    INPUTS,
    KEY,
    LOGITS,
    MATRICES,
    MAX_LENGTH,
    MAX_ROWS,
    NONE,
    NORM,
    NORMED,
    NORMS,
    NUM_HEADS,
    NUM_KV_HEADS,
    NUM_LAYERS,
    NUM_PACKINGS,
    NUM_ROWS,
    NUM_UNUSED,
    NUMBERS,
    OUT,
    OUTPUTS,
    OWNERS,
    PACK,
    PACKINGS,
    PANELS,
    PARALLEL,
    PASSED,
    PICKS,
    POST,
    PRE,
    PREDICT,
    PROBABILITIES,
    PROJECTED,
    PURPOSE,
    QKV,
    QKV_BIAS,
    RELU2,
    SCRATCH,
    SOURCE,
    STEP,
    STREAM,
    SWIGLU,
    TEAM,
    TOP_K,
    UNUSED,
    UP,
    UP_MATRIX,
    VOCAB,
)
from lmfast.inference.cpu.products import ROW_PADDING, TILE, pack, products
from lmfast.inference.cpu.sampling import pick
from lmfast.inference.cpu.team import MEMBER_WORDS, MEMBERS, RANK, barrier, next_pass
from lmfast.inference.cpu.vectors import LOG2_E, compiled, compiled_sums, exp2, floats, integers


@compiled
def pack_weights(plan, rank, threads):
    """Packs this rank's share of the panels of all matrices."""
    for k in range(plan[NUM_PACKINGS]):
        job = integers(plan[PACKINGS] + 8 * 4 * k, 4)
        begin, end = share(job[OUTPUTS], 16, rank, threads)
        pack(job[SOURCE], job[OUTPUTS], job[INPUTS], begin, end, job[PANELS])


@compiled
def sublayer_input(plan, t, norm):
    """Copies the residual stream for this thread, normalised by row `norm` of NORMS if norm >= 0; returns its address."""
    d_model, rows = plan[D_MODEL], plan[NUM_ROWS]
    stride = 4 * (d_model + ROW_PADDING)
    normed = plan[NORMED] + t * plan[MAX_ROWS] * stride
    eps = floats(plan[NUMBERS], 1)[0]
    for r in range(rows):
        x = floats(plan[STREAM] + 4 * r * d_model, d_model)
        out = floats(normed + r * stride, d_model)
        if norm >= 0:
            rms_norm(x, floats(plan[NORMS] + 4 * norm * d_model, d_model), eps, out)
        else:
            for i in range(d_model):
                out[i] = x[i]
    return normed


@compiled_sums
def activate(kind, up, gated, hidden):
    """Computes one row's hidden layer from its projections, all of one size; `gated` is used by SwiGLU only."""
    if kind == RELU2:
        for i in range(hidden.shape[0]):
            hidden[i] = up[i] * up[i] if up[i] > 0 else np.float32(0)
    elif kind == SWIGLU:
        for i in range(hidden.shape[0]):
            hidden[i] = up[i] / (np.float32(1) + exp2(-LOG2_E * up[i])) * gated[i]
    else:
        for i in range(hidden.shape[0]):
            hidden[i] = up[i] / (np.float32(1) + exp2(-LOG2_E * up[i]))


@compiled
def activate_rows(plan, begin, end):
    """Computes columns [begin, end) of the hidden layer. Views start there: Numba tests an index that may be negative."""
    ffn, kind = plan[FFN], plan[ACTIVATION]
    width, count = 2 * ffn if kind == SWIGLU else ffn, end - begin
    for r in range(plan[NUM_ROWS]):
        up = plan[UP] + 4 * (r * width + begin)
        hidden = floats(plan[HIDDEN] + 4 * (r * (ffn + ROW_PADDING) + begin), count)
        activate(kind, floats(up, count), floats(up + 4 * ffn, count), hidden)


@compiled_sums
def add(base, delta, out):
    for i in range(out.shape[0]):
        out[i] = base[i] + delta[i]


@compiled
def add_delta(plan, normed, begin, end):
    """stream = base + delta in columns [begin, end). base: the stream, or with post-norm the sublayer's input."""
    d_model, count = plan[D_MODEL], end - begin
    for r in range(plan[NUM_ROWS]):
        at = 4 * (r * d_model + begin)
        stream, delta = floats(plan[STREAM] + at, count), floats(plan[DELTA] + at, count)
        base = (
            floats(normed + 4 * (r * (d_model + ROW_PADDING) + begin), count)
            if plan[NORM] == POST
            else stream
        )
        add(base, delta, stream)


@compiled
def add_bias(plan, bias, width, begin, end):
    """Adds a bias at the address `bias` (0: none) to columns [begin, end) of PROJECTED (rows, width)."""
    if bias:
        added = floats(bias + 4 * begin, end - begin)
        for r in range(plan[NUM_ROWS]):
            row = floats(plan[PROJECTED] + 4 * (r * width + begin), end - begin)
            add(row, added, row)


@compiled
def embed(plan, rows, rank, threads):
    d_model = plan[D_MODEL]
    begin, end = share(plan[NUM_ROWS], 1, rank, threads)
    for r in range(begin, end):
        row = floats(plan[EMBEDDING] + 4 * rows[IDS, r] * d_model, d_model)
        stream = floats(plan[STREAM] + 4 * r * d_model, d_model)
        for i in range(d_model):
            stream[i] = row[i]


@compiled_sums
def softcap(logits, cap, begin, end):
    """logits = cap · tanh(logits / cap) between begin and end."""
    for i in range(begin, end):
        exponential = exp2(logits[i] * (np.float32(2) * LOG2_E / cap))
        logits[i] = cap - np.float32(2) * cap / (exponential + np.float32(1))


@compiled
def choose(plan, rows, rank, t, threads):
    """Chooses the next ids for this rank's share of the rows, with the scratch memory of thread t."""
    vocab_size, numbers = plan[VOCAB], floats(plan[NUMBERS], 4)
    unused = integers(plan[UNUSED], plan[NUM_UNUSED])
    begin, end = share(plan[NUM_ROWS], 1, rank, threads)
    for r in range(begin, end):
        logits = floats(plan[LOGITS] + 4 * r * vocab_size, vocab_size)
        probabilities = floats(plan[PROBABILITIES] + 4 * t * vocab_size, vocab_size)
        for i in range(unused.shape[0]):
            logits[unused[i]] = -np.inf
        rows[PICKS, r] = pick(
            logits, numbers[1], plan[TOP_K], numbers[2], plan[KEY], plan[STEP], rows[OWNERS, r], probabilities
        )


@compiled
def cap_logits(plan, begin, end):
    vocab_size, cap = plan[VOCAB], floats(plan[NUMBERS], 4)[3]
    if cap > 0:
        for r in range(plan[NUM_ROWS]):
            softcap(floats(plan[LOGITS] + 4 * r * vocab_size, vocab_size), cap, begin, end)


@compiled
def work(plan, rows, sync, t, done, spin_limit):
    """Runs one pass on thread 0; on others, every pass they are invited to until none comes within `spin_limit` polls.

    done: number of this thread's last pass. Returns it, −1 once the team has ended. One function, because Numba
    optimises a callee again for each of its callers, and for each of theirs."""
    layers, heads, head_dim, d_model = plan[NUM_LAYERS], plan[NUM_HEADS], plan[HEAD_DIM], plan[D_MODEL]
    ffn, vocab_size, arrangement = plan[FFN], plan[VOCAB], plan[NORM]
    matrices = integers(plan[MATRICES], COLUMNS * (layers + 1))
    scratch = plan[SCRATCH] + 4 * t * (TILE + head_dim + plan[MAX_LENGTH] + ROW_PADDING)
    qkv_width = (heads + 2 * plan[NUM_KV_HEADS]) * head_dim
    up_width = 2 * ffn if plan[ACTIVATION] == SWIGLU else ffn
    up_size = 4 * ((ffn + 15) // 16 * 16) * d_model  # bytes from the gate's panels to up's
    while True:
        rank = 0
        if t > 0:
            called = next_pass(sync, t, done, spin_limit)
            if called <= 0:
                return done if called == 0 else -1
            done = called
            rank = sync[MEMBERS + MEMBER_WORDS * (t - 1) + RANK]
        count, purpose, threads, passed = plan[NUM_ROWS], plan[PURPOSE], plan[TEAM], plan[PASSED]
        if purpose == PACK:
            pack_weights(plan, rank, threads)
            passed = barrier(sync, passed, threads)
            if t == 0:
                plan[PASSED] = passed
                return done
            continue
        qkv_begin, qkv_end = share(qkv_width, 16, rank, threads)
        begin, end = share(d_model, 16, rank, threads)
        up_begin, up_end = share(ffn, 16, rank, threads)
        head_begin, head_end = share(vocab_size, 16, rank, threads)
        embed(plan, rows, rank, threads)
        passed = barrier(sync, passed, threads)
        # With post-norm, each sublayer normalises the sum that the previous one left.
        norm = 0 if arrangement == PRE else -1
        for layer in range(layers):
            at = COLUMNS * layer
            x = sublayer_input(plan, t, norm)
            products(
                matrices[at + QKV], x, d_model, count, qkv_begin, qkv_end, plan[PROJECTED], qkv_width, scratch
            )
            add_bias(plan, matrices[at + QKV_BIAS], qkv_width, qkv_begin, qkv_end)
            passed = barrier(sync, passed, threads)
            attention(plan, rows, layer, rank, t, threads)
            passed = barrier(sync, passed, threads)
            products(
                matrices[at + OUT], plan[ATTENDED], heads * head_dim, count, begin, end, plan[DELTA], d_model,
                scratch,
            )  # fmt: skip
            add_delta(plan, x, begin, end)
            if arrangement != NONE:
                norm += 1
            if not plan[PARALLEL]:
                passed = barrier(sync, passed, threads)
                x = sublayer_input(plan, t, norm)
            for part in range(up_width // ffn):
                products(
                    matrices[at + UP_MATRIX] + part * up_size, x, d_model, count, up_begin, up_end,
                    plan[UP] + 4 * part * ffn, up_width, scratch,
                )  # fmt: skip
            activate_rows(plan, up_begin, up_end)
            passed = barrier(sync, passed, threads)
            products(matrices[at + DOWN], plan[HIDDEN], ffn, count, begin, end, plan[DELTA], d_model, scratch)
            add_delta(plan, x, begin, end)
            if arrangement != NONE:
                norm += 1
            passed = barrier(sync, passed, threads)
        if purpose == PREDICT:
            x = sublayer_input(plan, t, norm)
            products(
                matrices[COLUMNS * layers], x, d_model, count, head_begin, head_end, plan[LOGITS], vocab_size,
                scratch,
            )  # fmt: skip
            cap_logits(plan, head_begin, head_end)
            passed = barrier(sync, passed, threads)
            choose(plan, rows, rank, t, threads)
            passed = barrier(sync, passed, threads)
        # Nothing of a pass is read after its last barrier: thread 0 may already be preparing the next.
        if t == 0:
            plan[PASSED] = passed
            return done
