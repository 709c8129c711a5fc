"""Training batches of a token file as a pure function of (seed, step).

The file is split into windows of context_length + 1 tokens that overlap by one (the last target of a window is the first
input of the next). An epoch visits every window once, in the order of a keyed permutation of the window indices that is
computed per window: there is no shuffled index, so memory does not grow with the file. Every epoch has its own key and
shifts the windows by its own offset.

The permutation is a four-round Feistel network over the next even power of two with cycle walking (Black & Rogaway
2002); the round function is splitmix64.
"""

import numpy as np

from lmfast.data.batch_ramp import BatchRamp


def splitmix64(x: np.ndarray) -> np.ndarray:
    """A bijective mixing function of uint64 arrays (Steele, Lea & Flood 2014); overflow wraps around."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def derive_seed(*parts: int) -> int:
    """A 63-bit seed from several integers, such as (seed, step); nearby inputs give unrelated seeds."""
    state = np.zeros(1, np.uint64)
    for part in parts:
        state = splitmix64(state ^ np.array([part % 2**64], np.uint64))
    return int(state[0] >> np.uint64(1))


def permute(index: np.ndarray, size: int, key: int) -> np.ndarray:
    """The images of `index` (uint64, each below `size`) under a permutation of range(size) that `key` selects."""
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    low = np.uint64((1 << int(half)) - 1)
    keys = splitmix64(np.array([key], np.uint64) + np.arange(4, dtype=np.uint64))
    x = out = index.astype(np.uint64)
    walking: slice | np.ndarray = slice(None)
    while len(x):
        left, right = x >> half, x & low
        for k in keys:
            left, right = right, left ^ (splitmix64(right ^ k) & low)
        out[walking] = (left << half) | right
        walking = np.flatnonzero(out >= np.uint64(size))
        x = out[walking]
    return out


def first_few(numbers: np.ndarray, shown: int = 8) -> str:
    """The first few numbers as text, and how many more there are.

    >>> first_few(np.arange(10))
    '0, 1, 2, 3, 4, 5, 6, 7 and 2 more'
    """
    more = f" and {len(numbers) - shown} more" if len(numbers) > shown else ""
    return ", ".join(map(str, numbers[:shown])) + more


BLOCK = 16
"""steps whose windows are computed together: permuting 8 indices takes 90 µs, 16 × 8 hardly more"""


class Batches:
    """Training batches of a token file, without replacement within an epoch.

    tokens: 1-D integer array, usually memory-mapped, of at least context_length + 1 ids.
    rows: sequences per optimizer step (batch_size × grad_accumulation), or a BatchRamp.
    """

    def __init__(self, tokens: np.ndarray, rows: int | BatchRamp, context_length: int, seed: int):
        self.tokens, self.context_length, self.seed = tokens, context_length, seed
        self.ramp = rows if isinstance(rows, BatchRamp) else BatchRamp(rows)
        spare = len(tokens) - 1
        # Leaves one context and the remainder unused, so that epochs can have different offsets.
        self.windows = max(1, spare // context_length - 1)
        self.offsets = spare - self.windows * context_length + 1
        self.block: tuple[int, np.ndarray] | None = None  # the last block used
        # A view of the sequence at every position; copying its rows is five times as fast as gathering ids.
        self.sequences = np.lib.stride_tricks.sliding_window_view(tokens, context_length + 1)

    def step(self, step: int) -> np.ndarray:
        """ids (rows, context_length + 1) int64 of optimizer step `step`."""
        return self.sequences[self.starts(step)].astype(np.int64)

    def describe(self, step: int) -> str:
        """Positions of the rows of step `step` in the token file, as text. Thread-safe."""
        epoch = self.ramp.rows_before(step) // self.windows
        return f"epoch {epoch}, rows from tokens {first_few(self._row_starts(step, step + 1))}"

    def starts(self, step: int) -> np.ndarray:
        """Position of the first id of each row in the token file, int64 (rows,)."""
        block = step // BLOCK
        if self.block is None or self.block[0] != block:
            self.block = block, self._row_starts(BLOCK * block, BLOCK * (block + 1))
        first = self.ramp.rows_before(BLOCK * block)
        return self.block[1][self.ramp.rows_before(step) - first : self.ramp.rows_before(step + 1) - first]

    def _row_starts(self, first: int, end: int) -> np.ndarray:
        """Row positions of the steps from `first` up to but not including `end`, concatenated, int64."""
        position = np.arange(self.ramp.rows_before(first), self.ramp.rows_before(end), dtype=np.int64)
        starts = np.empty(len(position), np.int64)
        epochs = position // self.windows
        for epoch in range(epochs[0], epochs[-1] + 1):
            here = epochs == epoch
            key = derive_seed(self.seed, epoch)
            window = permute((position[here] % self.windows).astype(np.uint64), self.windows, key)
            starts[here] = window.astype(np.int64) * self.context_length + key % self.offsets
        return starts


class Windows:
    """Evaluation batches: the whole file once, in order; the tail is padded with `pad` (no loss).

    Every token except the first is a target exactly once. `limit`: number of batches to keep; 0 keeps all.
    """

    def __init__(self, tokens: np.ndarray, rows: int, context_length: int, pad: int, limit: int = 0):
        self.tokens, self.rows, self.context_length, self.pad = tokens, rows, context_length, pad
        windows = -(-(len(tokens) - 1) // context_length)
        self.batches = -(-windows // rows)
        if limit:
            self.batches = min(self.batches, limit)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self):
        """ids (rows, context_length + 1) int64, all of the same shape."""
        span = self.rows * self.context_length
        for batch in range(self.batches):
            flat = np.full(span + 1, self.pad, np.int64)
            piece = self.tokens[batch * span : (batch + 1) * span + 1]
            flat[: len(piece)] = piece
            starts = np.arange(self.rows) * self.context_length
            yield flat[starts[:, None] + np.arange(self.context_length + 1)]

    def targets(self) -> np.ndarray:
        """The ids that carry loss, in order (a view)."""
        return self.tokens[1 : self.batches * self.rows * self.context_length + 1]
