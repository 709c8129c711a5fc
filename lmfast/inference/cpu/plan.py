"""What the threads of a pass share: the places of a plan, one int64 array of sizes and addresses.

decoder.py fills it, kernels.py and attention.py read it. A plan of numbers rather than a tuple of 26 arrays:
with the tuple, compiling took 19 s and each call inside counted references to all of them.
"""

# Sizes; T threads, R rows at most, B sequences:
D_MODEL, NUM_LAYERS, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, FFN, VOCAB, BATCH, MAX_LENGTH, MAX_ROWS = range(10)
# the arrangement;
NORM, ROPE, ACTIVATION, QK_NORM, PARALLEL = range(10, 15)
PRE, POST, NONE = range(3)
SWIGLU, SILU, RELU2 = range(3)
# addresses, of fp32 arrays but for two. Between rows that a product reads there are ROW_PADDING floats (products.py).
MATRICES = 15  # (layers + 1, 7) int64: addresses of each layer's, see below; at last the head's
EMBEDDING = 16  # (vocab_size, d_model)
NORMS = 17  # (2 layers + 1, d_model): attention's and feed-forward's of each layer, then the final one
HEAD_NORMS = 18  # (layers, 2, head_dim): queries', keys'
COS, SIN = 19, 20  # (context, head_dim / 2)
CACHE = 21  # (layers, 2, B, kv_heads, max_length, head_dim)
STREAM = 22  # (R, d_model): the residual stream
NORMED = 23  # (T, R, d_model + ROW_PADDING): each thread's input of a sublayer
PROJECTED = 24  # (R, heads + 2 kv_heads, head_dim): queries, keys, values
ATTENDED = 25  # (R, heads · head_dim + ROW_PADDING)
DELTA = 26  # (R, d_model): a sublayer's output
UP = 27  # (R, ffn), with SwiGLU (R, 2 ffn): the gate first
HIDDEN = 28  # (R, ffn + ROW_PADDING)
SCRATCH = 29  # (T, TILE + head_dim + max_length + ROW_PADDING): a tile of products, a query, scores
LOGITS = 30  # (B, vocab_size), by rows
PROBABILITIES = 31  # (T, vocab_size): scratch of the choice
NUMBERS = 32  # eps of the norms, temperature, top_p, softcap of the logits or 0
PACKINGS = 33  # (NUM_PACKINGS, 4) int64: what PACK packs, see below
# how ids are chosen; and this pass: its rows, sequences they belong to, what it is for.
TOP_K, KEY, STEP, NUM_ROWS, SEQUENCES, PURPOSE, NUM_PACKINGS = range(34, 41)
UNUSED, NUM_UNUSED = 41, 42  # (NUM_UNUSED,) int64: ids that are never chosen
PLAN_WORDS = 43
# A pass packs the weights, reads rows into the cache, or wants each row's next id too.
PACK, READ, PREDICT = range(3)
# Columns of MATRICES: packed projections, then a table (vocab_size, kv_heads · head_dim) and weights (kv_heads,) of
# value embeddings, 0 in a layer without them. The last is no address: how many rows of the cache a query sees at most.
QKV, OUT, UP_MATRIX, DOWN, VALUE_TABLE, VALUE_WEIGHTS, SPAN = range(7)
COLUMNS = 7
# Columns of PACKINGS: address of a matrix (outputs, inputs), its sizes, address of its panels.
SOURCE, OUTPUTS, INPUTS, PANELS = range(4)
# Rows of `rows` (5, R + 1) int64. Sequence OWNERS[s] has the rows from BEGINS[s] to BEGINS[s + 1].
IDS, POSITIONS, OWNERS, BEGINS, PICKS = range(5)
