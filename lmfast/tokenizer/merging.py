"""From distinct pretokens and how often each occurs to the list of BPE merges.

In: `PretokenCounts` (concatenated bytes uint8, offsets int64, counts int64) and how many merges are wanted.
Out: `list[tuple[bytes, bytes]]`, in the order they were chosen. Each round takes the pair with the greatest
count; equal counts go to the lexicographically greater pair of byte strings, exactly like `max(pairs,
key=lambda pair: (count[pair], pair))` with `pair` a tuple of two `bytes`. Learning ends early when no pair
is left. Source: Sennrich et al. 2016, on bytes as in GPT-2.

How it stays fast (588,081 distinct pretokens, 32,000 merges: see docs/LOG.md):

- **One flat array, no linked list.** Every distinct pretoken lies once in `symbols`, one int64 a byte: the
  token's id in the low half, the pretoken's number in the high half, and a boundary between pretokens. A
  token writes its id at its first and at its last byte, so its right neighbour is `length` away and its
  left neighbour is read from the byte before it. Bytes inside a token hold `DEAD`.
- **Pairs are born complete.** Every pair that a merge creates contains the new id, so its occurrences are
  all known when that merge ends: its list of positions (postings) is written once, in order, and is never
  appended to. Later merges make entries stale; they are recognised when the list is read.
- **Arithmetic by neighbour, not by occurrence.** Merging (a, b) into n, with L to the left and R to the
  right, moves the same weight from (L, a) to (L, n) and from (b, R) to (n, R). Weights are summed in two
  dense arrays indexed by L and R, so the hash table is touched once for each distinct neighbour.
- **Counts only fall**, hence a lazy heap is exact: a popped pair with an outdated count goes back with its
  present one.
- **A threshold keeps the tail out.** Only pairs with a count of at least `threshold` are tracked at all. As
  counts only fall, every pair that still reaches the threshold is tracked, so the choice stays exact; when
  none is left the threshold is lowered and the pairs are counted afresh. Most pairs of a large corpus are
  rare and never cost a hash slot, a heap entry or a posting.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from lmfast.tokenizer.compiled.code_cache import enable_cache
from lmfast.tokenizer.compiled.intrinsics import prefetch
from lmfast.tokenizer.compiled.pair_heap import LOW, sift_down, sift_up

if TYPE_CHECKING:
    from lmfast.tokenizer.counting import PretokenCounts

logger = logging.getLogger(__name__)

BOUNDARY = 0xFFFFFFFE  # between pretokens
DEAD = 0xFFFFFFFF  # a byte inside a token, neither its first nor its last
AHEAD = 12  # postings: how early the symbols at a position are asked for
MERGES_PER_CALL = 512  # how often the compiled loop comes back for progress
LARGEST_32_BIT_ROOM = 1 << 32  # more bytes of distinct pretokens than this need postings of 64 bits

# The loop's scalars live in one int64 array, so that it can stop for more room and go on.
NUM_TOKENS, NUM_PAIRS, NUM_POSTINGS, HEAP_SIZE, THRESHOLD, NUM_MERGES = range(6)
# Why it came back.
ENOUGH, NO_PAIR, NEEDS_ROOM = range(3)


@njit(inline="always")
def _slot(key, mask):
    """The home slot of a pair key: multiplicative hashing, the product's high half."""
    return np.int64((np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & mask


@njit
def _find(table, key):
    """The index in `table` (rows: key, pair) that holds `key`, or the empty row where it would go."""
    mask = table.shape[0] - 1
    slot = _slot(key, mask)
    while table[slot, 0] != key and table[slot, 0] != -1:
        slot = (slot + 1) & mask
    return slot


@njit
def _lay_out(data, offsets, counts, symbols, text):
    """Writes the pretokens of two bytes or more into `symbols` and `text`; returns the length used."""
    at = 1
    symbols[0] = BOUNDARY
    text[0] = 0
    for word in range(counts.shape[0]):
        if offsets[word + 1] - offsets[word] < 2 or counts[word] <= 0:
            continue
        for i in range(offsets[word], offsets[word + 1]):
            symbols[at] = (word << 32) | np.int64(data[i])
            text[at] = data[i]
            at += 1
        symbols[at] = BOUNDARY
        text[at] = 0
        at += 1
    return at


@njit
def _count_pairs(symbols, counts, token_length, table):
    """Adds up the weight of every adjacent pair in `table` (rows: key, weight, occurrences).

    Returns the number of distinct pairs, or -1 if they would more than half fill the table.
    """
    mask = table.shape[0] - 1
    limit = table.shape[0] >> 1
    distinct = 0
    n = symbols.shape[0]
    p = 0
    left = np.int64(BOUNDARY)
    while p < n:
        symbol = symbols[p]
        right = symbol & LOW
        if right == BOUNDARY:
            p += 1
        else:
            p += token_length[right]
            if left != BOUNDARY:
                key = (left << 32) | right
                slot = _slot(key, mask)
                while table[slot, 0] != key and table[slot, 0] != -1:
                    slot = (slot + 1) & mask
                if table[slot, 0] == -1:
                    if distinct >= limit:
                        return -1
                    table[slot, 0] = key
                    distinct += 1
                table[slot, 1] += counts[symbol >> 32]
                table[slot, 2] += 1
        left = right
    return distinct


@njit
def _track(symbols, token_length, counted, header, table, pairs, heap, postings, tokens):
    """Starts a round at a new threshold: the pairs that reach it get a number, a heap entry and postings."""
    threshold = header[THRESHOLD]
    num_pairs = 0
    at = 0
    for row in range(counted.shape[0]):
        if counted[row, 0] != -1 and counted[row, 1] >= threshold:
            slot = _find(table, counted[row, 0])
            table[slot, 0] = counted[row, 0]
            table[slot, 1] = num_pairs
            pairs[num_pairs, 0] = counted[row, 0]
            pairs[num_pairs, 1] = counted[row, 1]
            pairs[num_pairs, 2] = at
            pairs[num_pairs, 3] = at
            at += counted[row, 2]
            heap[num_pairs, 0] = counted[row, 1]
            heap[num_pairs, 1] = num_pairs
            sift_up(heap, num_pairs, pairs, tokens)
            num_pairs += 1
    n = symbols.shape[0]
    p = 0
    left_at = 0
    left = np.int64(BOUNDARY)
    while p < n:
        right = symbols[p] & LOW
        right_at = p
        if right == BOUNDARY:
            p += 1
        else:
            p += token_length[right]
            if left != BOUNDARY:
                slot = _find(table, (left << 32) | right)
                if table[slot, 0] != -1:
                    pair = table[slot, 1]
                    postings[pairs[pair, 3]] = left_at
                    pairs[pair, 3] += 1
        left = right
        left_at = right_at
    header[NUM_PAIRS] = num_pairs
    header[NUM_POSTINGS] = at
    header[HEAP_SIZE] = num_pairs


@njit
def _subtract(table, pairs, key, weight):
    slot = _find(table, key)
    if table[slot, 0] != -1:
        pairs[table[slot, 1], 1] -= weight


@njit
def _merge(header, budget, symbols, counts, tokens, table, pairs, heap, postings, scratch, merges):
    """Makes up to `budget` merges and returns why it stopped.

    pairs (n, 4): key, count, where its postings start and end. heap (n, 2): count, pair. merges (n, 3): ids
    of the pair and its count when chosen. scratch: near (2, tokens, 2), for each left [0] and right [1]
    neighbour of the merge at hand its weight, and how often it occurred, later where its next posting goes,
    all zero between merges; touched (2, tokens), which neighbours those are.

    Most of the time goes into waiting for memory, hence the prefetches: of the symbols AHEAD postings early, of
    a pretoken's count and of a pair's row as soon as it is known that they will be needed.
    """
    near, touched = scratch
    text, token_at, token_length, token_prefix = tokens
    threshold = header[THRESHOLD]
    while budget > 0:
        size = header[HEAP_SIZE]
        if size == 0:
            return NO_PAIR
        best = heap[0, 1]
        count = pairs[best, 1]
        if count != heap[0, 0]:
            if count >= threshold:
                heap[0, 0] = count
            else:
                size -= 1
                heap[0, 0] = heap[size, 0]
                heap[0, 1] = heap[size, 1]
                header[HEAP_SIZE] = size
            sift_down(heap, size, pairs, tokens)
            continue

        new = header[NUM_TOKENS]
        start = pairs[best, 2]
        occurrences = pairs[best, 3] - start
        born = 2 * min(occurrences, new + 1)
        if (
            new >= token_at.shape[0]
            or 2 * (header[NUM_PAIRS] + born) > table.shape[0]
            or header[NUM_PAIRS] + born > pairs.shape[0]
            or size + born > heap.shape[0]
            or header[NUM_POSTINGS] + 2 * occurrences > postings.shape[0]
        ):
            return NEEDS_ROOM

        size -= 1
        heap[0, 0] = heap[size, 0]
        heap[0, 1] = heap[size, 1]
        sift_down(heap, size, pairs, tokens)

        # 1. Merge the occurrences that are still there, left to right, and keep their positions.
        a = pairs[best, 0] >> 32
        b = pairs[best, 0] & LOW
        length_a = token_length[a]
        length = length_a + token_length[b]
        live = start
        for i in range(start, start + occurrences):
            if i + AHEAD < start + occurrences:
                prefetch(symbols, np.int64(postings[i + AHEAD]))
            p = np.int64(postings[i])
            q = p + length_a
            symbol = symbols[p]
            if symbol & LOW != a or symbols[q] & LOW != b:
                continue
            prefetch(counts, symbol >> 32)
            symbol = symbol - a + new
            symbols[q] = DEAD
            symbols[p] = symbol
            symbols[p + length - 1] = symbol
            postings[live] = p
            live += 1
        token_at[new] = np.int64(postings[start])
        token_length[new] = length
        prefix = np.uint64(0)
        for i in range(8):
            prefix <<= np.uint64(8)
            if i < length:
                prefix |= np.uint64(text[token_at[new] + i])
        token_prefix[new] = prefix
        merges[header[NUM_MERGES], 0] = a
        merges[header[NUM_MERGES], 1] = b
        merges[header[NUM_MERGES], 2] = count
        pairs[best, 1] = 0
        header[NUM_MERGES] += 1
        header[NUM_TOKENS] += 1
        budget -= 1

        # 2. Add up the weight by neighbour. Two new tokens in a row are counted once, from the right one.
        mask = table.shape[0] - 1
        num_left = 0
        num_right = 0
        for i in range(start, live):
            p = np.int64(postings[i])
            weight = counts[symbols[p] >> 32]
            left = symbols[p - 1] & LOW
            right = symbols[p + length] & LOW
            if left != BOUNDARY:
                if near[0, left, 1] == 0:
                    touched[0, num_left] = left
                    num_left += 1
                    prefetch(table, 2 * _slot((left << 32) | a, mask))
                near[0, left, 0] += weight
                near[0, left, 1] += 1
            if right != BOUNDARY and right != new:
                if near[1, right, 1] == 0:
                    touched[1, num_right] = right
                    num_right += 1
                    prefetch(table, 2 * _slot((b << 32) | right, mask))
                near[1, right, 0] += weight
                near[1, right, 1] += 1

        # 3. Old pairs lose that weight, and new pairs are born with it.
        num_pairs = header[NUM_PAIRS]
        at = header[NUM_POSTINGS]
        for side in range(2):
            for i in range(num_left if side == 0 else num_right):
                other = touched[side, i]
                weight = near[side, other, 0]
                near[side, other, 0] = 0
                if side == 1:
                    _subtract(table, pairs, (b << 32) | other, weight)
                    key = (new << 32) | other
                else:
                    # What stands to the left of one new token as another one was its b before.
                    _subtract(table, pairs, ((b if other == new else other) << 32) | a, weight)
                    key = (other << 32) | new
                if weight < threshold:
                    near[side, other, 1] = -1
                    continue
                slot = _find(table, key)
                table[slot, 0] = key
                table[slot, 1] = num_pairs
                pairs[num_pairs, 0] = key
                pairs[num_pairs, 1] = weight
                pairs[num_pairs, 2] = at
                heap[size, 0] = weight
                heap[size, 1] = num_pairs
                sift_up(heap, size, pairs, tokens)
                size += 1
                occurrences = near[side, other, 1]
                near[side, other, 1] = at
                at += occurrences
                pairs[num_pairs, 3] = at
                num_pairs += 1
        if at == header[NUM_POSTINGS]:
            live = start  # no pair was born
        header[NUM_PAIRS] = num_pairs
        header[NUM_POSTINGS] = at
        header[HEAP_SIZE] = size

        # 4. Write the new pairs' postings.
        for i in range(start, live):
            p = np.int64(postings[i])
            left = symbols[p - 1] & LOW
            right = symbols[p + length] & LOW
            if left != BOUNDARY and near[0, left, 1] >= 0:
                postings[near[0, left, 1]] = p - token_length[left]
                near[0, left, 1] += 1
            if right != BOUNDARY and right != new and near[1, right, 1] >= 0:
                postings[near[1, right, 1]] = p
                near[1, right, 1] += 1
        for i in range(num_left):
            near[0, touched[0, i], 1] = 0
        for i in range(num_right):
            near[1, touched[1, i], 1] = 0
    return ENOUGH


@njit
def _rehash(pairs, num_pairs, table):
    for pair in range(num_pairs):
        slot = _find(table, pairs[pair, 0])
        table[slot, 0] = pairs[pair, 0]
        table[slot, 1] = pair


def _empty_table(rows: int, columns: int) -> np.ndarray:
    table = np.zeros((rows, columns), np.int64)
    table[:, 0] = -1
    return table


def _grown(array: np.ndarray, used: int, needed: int) -> np.ndarray:
    """`array` with room for `needed` rows, at least half as large again; its first `used` rows are kept."""
    if needed <= len(array):
        return array
    larger = np.empty((max(needed, len(array) * 3 // 2), *array.shape[1:]), array.dtype)
    larger[:used] = array[:used]
    return larger


def learn_merges(
    counts: "PretokenCounts", num_merges: int, on_merge: Callable[[int], None] | None = None
) -> list[tuple[bytes, bytes]]:
    """The first `num_merges` merges (fewer when no pair is left), chosen as the head of this file says.

    `on_merge(merges_so_far)` is called every few hundred merges. With this module's logger at DEBUG the most
    frequent pretokens and every chosen pair with its count are logged.
    """
    data, offsets, word_counts = counts.data, counts.offsets, counts.counts
    lengths = np.diff(offsets)
    usable = (lengths >= 2) & (word_counts > 0)
    room = int(lengths[usable].sum()) + int(usable.sum()) + 1
    debug = logger.isEnabledFor(logging.DEBUG)
    if debug:
        for word in np.argsort(-word_counts, kind="stable")[:20]:
            logger.debug(
                "pretoken %r: %d", data[offsets[word] : offsets[word + 1]].tobytes(), word_counts[word]
            )
    if num_merges <= 0 or room == 1:
        return []

    enable_cache(_lay_out, _count_pairs, _track, _merge, _rehash)
    symbols = np.empty(room, np.int64)
    text = np.empty(room + 256, np.uint8)
    _lay_out(data, offsets, word_counts, symbols, text)
    text[room:] = np.arange(256)

    num_tokens = 256 + min(num_merges, room)
    token_at = np.empty(num_tokens, np.int64)
    token_at[:256] = room + np.arange(256)
    token_length = np.ones(num_tokens, np.int64)
    token_prefix = np.zeros(num_tokens, np.uint64)
    token_prefix[:256] = np.arange(256, dtype=np.uint64) << np.uint64(56)
    tokens = (text, token_at, token_length, token_prefix)
    scratch = (np.zeros((2, num_tokens, 2), np.int64), np.empty((2, num_tokens), np.int64))
    merges = np.empty((num_tokens - 256, 3), np.int64)
    wanted = len(merges)

    header = np.zeros(6, np.int64)
    header[NUM_TOKENS] = 256
    rows = 1 << 17
    reason = NO_PAIR
    table = pairs = heap = postings = np.empty((0, 0), np.int64)  # made when pairs are first counted
    while header[NUM_MERGES] < wanted:
        if reason == NO_PAIR:
            if header[THRESHOLD] == 1:
                break
            counted = _empty_table(rows, 3)
            while (distinct := _count_pairs(symbols, word_counts, token_length, counted)) < 0:
                rows *= 4
                counted = _empty_table(rows, 3)
            if distinct == 0:
                break
            # Counts of successive merges fall about as 1/n. A guess that is too high costs another counting
            # (0.15 s on 588,081 pretokens), one that is too low tracks pairs that are never merged: from 1/2
            # to 1/32 of top/n the total changed by 20 %, and 1/12 was the best.
            top = int(counted[:, 1].max())
            guess = top // (12 * wanted) if header[THRESHOLD] == 0 else header[THRESHOLD] // 8
            rows = max(rows, 1 << min(20, room.bit_length()))
            header[THRESHOLD] = max(1, min(guess, top))
            tracked = counted[:, 1] >= header[THRESHOLD]
            num_pairs = int(tracked.sum())
            num_postings = int(counted[tracked, 2].sum())
            table = _empty_table(1 << (4 * num_pairs + 4096).bit_length(), 2)
            pairs = np.empty((2 * num_pairs + 1024, 4), np.int64)
            heap = np.empty((2 * num_pairs + 1024, 2), np.int64)
            postings = np.empty(
                2 * num_postings + 1024, np.uint32 if room <= LARGEST_32_BIT_ROOM else np.int64
            )
            _track(symbols, token_length, counted, header, table, pairs, heap, postings, tokens)
            del counted
        elif reason == NEEDS_ROOM:
            best = heap[0, 1]
            occurrences = int(pairs[best, 3] - pairs[best, 2])
            born = 2 * min(occurrences, int(header[NUM_TOKENS]) + 1)
            num_pairs = int(header[NUM_PAIRS])
            pairs = _grown(pairs, num_pairs, num_pairs + born)
            heap = _grown(heap, int(header[HEAP_SIZE]), int(header[HEAP_SIZE]) + born)
            num_postings = int(header[NUM_POSTINGS])
            postings = _grown(postings, num_postings, num_postings + 2 * occurrences)
            if 2 * (num_pairs + born) > len(table):
                table = _empty_table(1 << (2 * (num_pairs + born)).bit_length(), 2)
                _rehash(pairs, num_pairs, table)
        before = int(header[NUM_MERGES])
        budget = 1 if debug else min(MERGES_PER_CALL, wanted - before)
        reason = _merge(
            header, budget, symbols, word_counts, tokens, table, pairs, heap, postings, scratch, merges
        )
        done = int(header[NUM_MERGES])
        if on_merge is not None and done > before:
            on_merge(done)
        if debug and done > before:
            a, b, count = merges[done - 1].tolist()
            logger.debug("merge %d: %r + %r, %d times", done, *(_bytes_of(tokens, t) for t in (a, b)), count)

    result = []
    vocabulary = [bytes([i]) for i in range(256)]
    for a, b, _ in merges[: header[NUM_MERGES]].tolist():
        result.append((vocabulary[a], vocabulary[b]))
        vocabulary.append(vocabulary[a] + vocabulary[b])
    return result


def _bytes_of(tokens, token: int) -> bytes:
    text, token_at, token_length, _ = tokens
    return text[token_at[token] : token_at[token] + token_length[token]].tobytes()
