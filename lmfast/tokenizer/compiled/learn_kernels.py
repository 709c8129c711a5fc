"""The compiled loops that learn merges: counting pairs, choosing the most frequent one, merging it everywhere.

The arrays are those of merging.py, which explains the algorithm: `symbols` (n,) int64, `counts` int64 of the pretokens,
`table`, an open-addressing hash table from a pair's key (left id << 32 | right id) to its number, `pairs`, `heap` and
`postings`. Nothing here allocates: the caller provides buffers, and larger ones when `merge_pairs` returns
NEEDS_CAPACITY.
"""

import numpy as np
from numba import njit

from lmfast.tokenizer.compiled.intrinsics import prefetch
from lmfast.tokenizer.compiled.pair_heap import LOW, sift_down, sift_up

BOUNDARY = 0xFFFFFFFE  # between pretokens
DEAD = 0xFFFFFFFF  # a byte inside a token, neither its first nor its last
AHEAD = 12  # postings: how early the symbols at a position are prefetched

# The loop's scalars are in one int64 array, so that it can return for larger buffers and resume.
NUM_TOKENS, NUM_PAIRS, NUM_POSTINGS, HEAP_SIZE, THRESHOLD, NUM_MERGES = range(6)
# Why it returned.
ENOUGH, NO_PAIR, NEEDS_CAPACITY = range(3)


@njit(inline="always")
def _slot(key, mask):
    """The home slot of a pair key: multiplicative hashing, the product's high half."""
    return np.int64((np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & mask


@njit
def _find(table, key):
    """The index of the row of `table` (rows: key, pair) that holds `key`, or of the empty row where it belongs."""
    mask = table.shape[0] - 1
    slot = _slot(key, mask)
    while table[slot, 0] != key and table[slot, 0] != -1:
        slot = (slot + 1) & mask
    return slot


@njit
def lay_out(data, offsets, counts, symbols, text):
    """Writes the pretokens of at least two bytes into `symbols` and `text`; returns the length used."""
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
def count_pairs(symbols, counts, token_length, table):
    """Sums the weight of every adjacent pair in `table` (rows: key, weight, occurrences).

    Returns the number of distinct pairs, or -1 if they would fill more than half of the table.
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
def track(symbols, token_length, counted, header, table, pairs, heap, postings, tokens):
    """Starts a round at a new threshold: each pair that reaches it gets a number, a heap entry and postings."""
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
def merge_pairs(header, budget, symbols, counts, tokens, table, pairs, heap, postings, scratch, merges):
    """Makes up to `budget` merges and returns why it stopped.

    pairs (n, 4): key, count, where its postings start and end. heap (n, 2): count, pair. merges (n, 3): ids
    of the pair and its count when chosen. scratch: near (2, tokens, 2), which holds for each left [0] and right [1]
    neighbour of the current merge its weight and its number of occurrences (later, where its next posting goes) and is
    zero between merges; touched (2, tokens), the list of those neighbours.

    Most of the time is spent waiting for memory, hence the prefetches: of the symbols AHEAD postings early, of
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
        created = 2 * min(occurrences, new + 1)
        if (
            new >= token_at.shape[0]
            or 2 * (header[NUM_PAIRS] + created) > table.shape[0]
            or header[NUM_PAIRS] + created > pairs.shape[0]
            or size + created > heap.shape[0]
            or header[NUM_POSTINGS] + 2 * occurrences > postings.shape[0]
        ):
            return NEEDS_CAPACITY

        size -= 1
        heap[0, 0] = heap[size, 0]
        heap[0, 1] = heap[size, 1]
        sift_down(heap, size, pairs, tokens)

        # 1. Merge the occurrences that still exist, left to right, and keep their positions.
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

        # 2. Sum the weights by neighbour. Two new tokens in a row are counted once, from the right one.
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

        # 3. Subtract those weights from the old pairs and create the new pairs with them.
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
                    # A new token on the left ended in b before this merge.
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
            live = start  # no pair was created
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
def rehash(pairs, num_pairs, table):
    for pair in range(num_pairs):
        slot = _find(table, pairs[pair, 0])
        table[slot, 0] = pairs[pair, 0]
        table[slot, 1] = pair
