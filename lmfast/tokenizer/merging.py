"""Learns BPE merges from distinct pretokens and their counts.

In: `PretokenCounts` (concatenated bytes uint8, offsets int64, counts int64) and the number of merges wanted.
Out: `list[tuple[bytes, bytes]]`, in the order they were chosen. Each round takes the pair with the greatest
count; equal counts go to the lexicographically greater pair of byte strings, exactly like `max(pairs,
key=lambda pair: (count[pair], pair))` with `pair` a tuple of two `bytes`. Learning ends early when no pair
is left. Source: Sennrich et al. 2016, on bytes as in GPT-2.

`symbols` has one int64 per byte: the token's id in the low half, the pretoken's number in the high half. A token writes its
id at its first and its last byte; bytes inside hold `DEAD`. Only pairs with a count of at least `threshold` are tracked,
which is exact because counts only fall. Why this is fast: docs/tokenizer.md.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from lmfast.tokenizer.compiled.code_cache import enable_cache
from lmfast.tokenizer.compiled.learn_kernels import (
    HEAP_SIZE,
    NEEDS_CAPACITY,
    NO_PAIR,
    NUM_MERGES,
    NUM_PAIRS,
    NUM_POSTINGS,
    NUM_TOKENS,
    THRESHOLD,
    count_pairs,
    lay_out,
    merge_pairs,
    rehash,
    track,
)

if TYPE_CHECKING:
    from lmfast.tokenizer.counting import PretokenCounts

logger = logging.getLogger(__name__)

MERGES_PER_CALL = 512  # how often the compiled loop returns to report progress
MAX_32_BIT_LENGTH = 1 << 32  # above this many bytes of distinct pretokens, postings need 64 bits


def _empty_table(rows: int, columns: int) -> np.ndarray:
    table = np.zeros((rows, columns), np.int64)
    table[:, 0] = -1
    return table


def _grown(array: np.ndarray, used: int, needed: int) -> np.ndarray:
    """`array` with a capacity of at least `needed` rows, 1.5 times as large if it grows; keeps its first `used` rows."""
    if needed <= len(array):
        return array
    larger = np.empty((max(needed, len(array) * 3 // 2), *array.shape[1:]), array.dtype)
    larger[:used] = array[:used]
    return larger


class _Learner:
    """The arrays of one training, and the calls of the compiled loops on them."""

    def __init__(
        self, data: np.ndarray, offsets: np.ndarray, counts: np.ndarray, length: int, num_merges: int
    ):
        """length: of `symbols`, the pretokens' bytes and the boundaries between them."""
        enable_cache(lay_out, count_pairs, track, merge_pairs, rehash)
        self._length = length
        self._counts = counts
        self._symbols = np.empty(length, np.int64)
        text = np.empty(length + 256, np.uint8)
        lay_out(data, offsets, counts, self._symbols, text)
        text[length:] = np.arange(256)

        num_tokens = 256 + min(num_merges, length)
        token_at = np.empty(num_tokens, np.int64)
        token_at[:256] = length + np.arange(256)
        self._token_length = np.ones(num_tokens, np.int64)
        token_prefix = np.zeros(num_tokens, np.uint64)
        token_prefix[:256] = np.arange(256, dtype=np.uint64) << np.uint64(56)
        self._tokens = (text, token_at, self._token_length, token_prefix)
        self._scratch = (np.zeros((2, num_tokens, 2), np.int64), np.empty((2, num_tokens), np.int64))
        self.merges = np.empty((num_tokens - 256, 3), np.int64)
        self._header = np.zeros(6, np.int64)
        self._header[NUM_TOKENS] = 256
        self._table_rows = 1 << 17
        self._table = self._pairs = self._heap = self._postings = np.empty(
            (0, 0), np.int64
        )  # until the first round

    @property
    def num_merges(self) -> int:
        return int(self._header[NUM_MERGES])

    def start_round(self) -> bool:
        """Counts all pairs and tracks those that reach a new, lower threshold. False where no pair is left."""
        header = self._header
        if header[THRESHOLD] == 1:
            return False
        counted = _empty_table(self._table_rows, 3)
        while (distinct := count_pairs(self._symbols, self._counts, self._token_length, counted)) < 0:
            self._table_rows *= 4
            counted = _empty_table(self._table_rows, 3)
        if distinct == 0:
            return False
        # Counts of successive merges fall about as 1/n. A guess that is too high costs another counting
        # (0.15 s on 588,081 pretokens), one that is too low tracks pairs that are never merged: from 1/2
        # to 1/32 of top/n the total changed by 20 %, and 1/12 was the best.
        top = int(counted[:, 1].max())
        guess = top // (12 * len(self.merges)) if header[THRESHOLD] == 0 else header[THRESHOLD] // 8
        self._table_rows = max(self._table_rows, 1 << min(20, self._length.bit_length()))
        header[THRESHOLD] = max(1, min(guess, top))
        tracked = counted[:, 1] >= header[THRESHOLD]
        num_pairs = int(tracked.sum())
        num_postings = int(counted[tracked, 2].sum())
        self._table = _empty_table(1 << (4 * num_pairs + 4096).bit_length(), 2)
        self._pairs = np.empty((2 * num_pairs + 1024, 4), np.int64)
        self._heap = np.empty((2 * num_pairs + 1024, 2), np.int64)
        dtype = np.uint32 if self._length <= MAX_32_BIT_LENGTH else np.int64
        self._postings = np.empty(2 * num_postings + 1024, dtype)
        track(
            self._symbols, self._token_length, counted, header,
            self._table, self._pairs, self._heap, self._postings, self._tokens,
        )  # fmt: skip
        return True

    def grow(self) -> None:
        """Enlarges the buffers for the next merge."""
        header = self._header
        best = self._heap[0, 1]
        occurrences = int(self._pairs[best, 3] - self._pairs[best, 2])
        created = 2 * min(occurrences, int(header[NUM_TOKENS]) + 1)
        num_pairs, heap_size = int(header[NUM_PAIRS]), int(header[HEAP_SIZE])
        num_postings = int(header[NUM_POSTINGS])
        self._pairs = _grown(self._pairs, num_pairs, num_pairs + created)
        self._heap = _grown(self._heap, heap_size, heap_size + created)
        self._postings = _grown(self._postings, num_postings, num_postings + 2 * occurrences)
        if 2 * (num_pairs + created) > len(self._table):
            self._table = _empty_table(1 << (2 * (num_pairs + created)).bit_length(), 2)
            rehash(self._pairs, num_pairs, self._table)

    def merge(self, budget: int) -> int:
        """Makes up to `budget` merges; why it returned."""
        return merge_pairs(
            self._header, budget, self._symbols, self._counts, self._tokens,
            self._table, self._pairs, self._heap, self._postings, self._scratch, self.merges,
        )  # fmt: skip

    def token_bytes(self, token: int) -> bytes:
        text, token_at, token_length, _ = self._tokens
        return text[token_at[token] : token_at[token] + token_length[token]].tobytes()


def learn_merges(
    counts: "PretokenCounts", num_merges: int, on_merge: Callable[[int], None] | None = None
) -> list[tuple[bytes, bytes]]:
    """The first `num_merges` merges (fewer when no pair is left), in the order defined at the top of this file.

    `on_merge(merges_so_far)` is called every few hundred merges. With this module's logger at DEBUG the most
    frequent pretokens and every chosen pair with its count are logged.
    """
    lengths = np.diff(counts.offsets)
    usable = (lengths >= 2) & (counts.counts > 0)
    length = int(lengths[usable].sum()) + int(usable.sum()) + 1
    debug = logger.isEnabledFor(logging.DEBUG)
    if debug:
        for word in np.argsort(-counts.counts, kind="stable")[:20]:
            logger.debug("pretoken %r: %d", counts.pretoken(word), counts.counts[word])
    if num_merges <= 0 or length == 1:
        return []

    learner = _Learner(counts.data, counts.offsets, counts.counts, length, num_merges)
    wanted = len(learner.merges)
    reason = NO_PAIR
    while learner.num_merges < wanted:
        if reason == NO_PAIR and not learner.start_round():
            break
        if reason == NEEDS_CAPACITY:
            learner.grow()
        before = learner.num_merges
        reason = learner.merge(1 if debug else min(MERGES_PER_CALL, wanted - before))
        done = learner.num_merges
        if on_merge is not None and done > before:
            on_merge(done)
        if debug and done > before:
            a, b, count = learner.merges[done - 1].tolist()
            pair = learner.token_bytes(a), learner.token_bytes(b)
            logger.debug("merge %d: %r + %r, %d times", done, *pair, count)

    result = []
    vocabulary = [bytes([i]) for i in range(256)]
    for a, b, _ in learner.merges[: learner.num_merges].tolist():
        result.append((vocabulary[a], vocabulary[b]))
        vocabulary.append(vocabulary[a] + vocabulary[b])
    return result
