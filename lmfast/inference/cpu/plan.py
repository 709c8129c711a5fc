"""The slots of a plan: one int64 array of sizes and addresses that the threads of a pass share.

decoder.py fills it; kernels.py and attention.py read it. With a tuple of 26 arrays instead, compiling took 19 s and every
inner call counted references to all of them.
"""

# Sizes. Shapes below: T threads, at most R rows, B sequences.
D_MODEL, NUM_LAYERS, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, FFN, VOCAB, BATCH, MAX_LENGTH, MAX_ROWS = range(10)
# The architecture.
NORM, ROPE, ACTIVATION, QK_NORM, PARALLEL = range(10, 15)
PRE, POST, NONE = range(3)
SWIGLU, SILU, RELU2 = range(3)
# Addresses of arrays, fp32 unless stated. Rows that a product reads are padded by ROW_PADDING floats (products.py).
MATRICES = 15  # (layers + 1, COLUMNS) int64: one row per layer (columns below), then the head
EMBEDDING = 16  # (vocab_size, d_model)
NORMS = 17  # (2 layers + 1, d_model): each layer's attention and feed-forward norms, then the final norm
HEAD_NORMS = 18  # (layers, 2, head_dim): query norm, key norm
COS, SIN = 19, 20  # (context, head_dim / 2)
CACHE = 21  # (layers, 2, B, kv_heads, max_length, head_dim)
STREAM = 22  # (R, d_model): the residual stream
NORMED = 23  # (T, R, d_model + ROW_PADDING): each thread's input of a sublayer
PROJECTED = 24  # (R, heads + 2 kv_heads, head_dim): queries, keys, values
ATTENDED = 25  # (R, heads · head_dim + ROW_PADDING)
DELTA = 26  # (R, d_model): a sublayer's output
UP = 27  # (R, ffn), or with SwiGLU (R, 2 ffn), gate first
HIDDEN = 28  # (R, ffn + ROW_PADDING)
SCRATCH = 29  # (T, TILE + head_dim + max_length + ROW_PADDING): a tile of products, a query, scores
LOGITS = 30  # (B, vocab_size), one row per row of the pass
PROBABILITIES = 31  # (T, vocab_size): scratch for sampling
NUMBERS = 32  # norm eps, temperature, top_p, logit softcap (0: none)
PACKINGS = 33  # (NUM_PACKINGS, 4) int64: matrices for PACK, columns below
# Sampling, and the current pass: number of rows, number of sequences, purpose.
TOP_K, KEY, STEP, NUM_ROWS, SEQUENCES, PURPOSE, NUM_PACKINGS = range(34, 41)
UNUSED, NUM_UNUSED = 41, 42  # (NUM_UNUSED,) int64: ids that are never chosen
TEAM, PASSED = 43, 44  # threads of the pass; arrivals at its barriers before it
PLAN_WORDS = 45
# Purposes: pack the weights, read rows into the cache, or read and predict each row's next id.
PACK, READ, PREDICT = range(3)
# Columns of MATRICES: addresses of packed projections, then of the value embeddings' table (vocab_size,
# kv_heads · head_dim) and weights (kv_heads,) and of QKV's bias, 0 without them; last, the most cached rows that a query
# attends to.
QKV, OUT, UP_MATRIX, DOWN, VALUE_TABLE, VALUE_WEIGHTS, QKV_BIAS, SPAN = range(8)
COLUMNS = 8
# Columns of PACKINGS: address of a matrix (outputs, inputs), its sizes, address of its panels.
SOURCE, OUTPUTS, INPUTS, PANELS = range(4)
# Rows of `rows` (5, R + 1) int64. Sequence OWNERS[s] has rows [BEGINS[s], BEGINS[s + 1]).
IDS, POSITIONS, OWNERS, BEGINS, PICKS = range(5)
