"""The bytes of one pretoken to its ids, by the merges alone: what the encoder does where its cache misses.

In: the pretoken's bytes, the ids of the 256 bytes, and the merges as a hash table from a pair of ids to
(rank, new id). Out: ids (uint32). The merge of lowest rank goes first, the leftmost where ranks are equal.

Up to `SHORT` bytes the least rank is found by scanning (quadratic, but a few dozen cycles for real words);
longer pretokens use a heap, so that a megabyte of one letter costs n log n.
"""

import numpy as np
from numba import njit

from lmfast.tokenizer.intrinsics import ALL_ONES, U1, U32, aligned_words

SHORT = 48  # bytes; beyond this the heap is faster
_MIX = np.uint64(0x9E3779B97F4A7C15)
_LOW_HALF = np.uint64(0xFFFFFFFF)
NO_PAIR = ALL_ONES


@njit(inline="always")
def find_pair(pairs, shift, left, right):
    """rank << 32 | new id of a pair of ids, or NO_PAIR. `pairs` holds rows (left << 32 | right, value)."""
    key = np.uint64(left) << U32 | np.uint64(right)
    mask = np.uint64((pairs.shape[0] >> 1) - 1)
    slot = (key ^ key >> np.uint64(29)) * _MIX >> shift
    while True:
        row = np.int64(slot << U1)
        if pairs[row] == key:
            return pairs[row + 1]
        if pairs[row] == NO_PAIR:
            return NO_PAIR
        slot = (slot + U1) & mask


@njit(nogil=True)
def insert_pairs(pairs, shift, keys, values):
    """Fills an empty table; of equal keys the first counts."""
    mask = np.uint64((pairs.shape[0] >> 1) - 1)
    for i in range(keys.shape[0]):
        key = keys[i]
        slot = (key ^ key >> np.uint64(29)) * _MIX >> shift
        while pairs[np.int64(slot << U1)] != NO_PAIR and pairs[np.int64(slot << U1)] != key:
            slot = (slot + U1) & mask
        row = np.int64(slot << U1)
        if pairs[row] == NO_PAIR:
            pairs[row] = key
            pairs[row + 1] = values[i]


def pair_table(left: np.ndarray, right: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.uint64]:
    """(table, shift) for merges in the order of their ranks, each three ids; at most a quarter full, since
    most lookups find nothing and should end at the first row."""
    rows = 1 << max(8, (4 * len(left) - 1).bit_length())
    pairs = aligned_words(2 * rows)
    pairs[:] = NO_PAIR
    shift = np.uint64(64 - (rows.bit_length() - 1))
    keys = left.astype(np.uint64) << U32 | right.astype(np.uint64)
    insert_pairs(pairs, shift, keys, np.arange(len(left), dtype=np.uint64) << U32 | new.astype(np.uint64))
    return pairs, shift


@njit
def merge_short(data, start, length, byte_ids, pairs, shift, ranks, out, at):
    """Writes the ids of data[start:start+length] to out[at:]; returns how many. `ranks`: uint64 scratch."""
    for i in range(length):
        out[at + i] = byte_ids[data[start + i]]
    n = length
    for i in range(n - 1):
        ranks[i] = find_pair(pairs, shift, out[at + i], out[at + i + 1])
    while n > 1:
        best = NO_PAIR
        where = 0
        for i in range(n - 1):
            if ranks[i] < best:
                best = ranks[i]
                where = i
        if best == NO_PAIR:
            break
        out[at + where] = np.uint32(best & _LOW_HALF)
        n -= 1
        for i in range(where + 1, n):
            out[at + i] = out[at + i + 1]
            ranks[i - 1] = ranks[i]
        if where + 1 < n:
            ranks[where] = find_pair(pairs, shift, out[at + where], out[at + where + 1])
        if where > 0:
            ranks[where - 1] = find_pair(pairs, shift, out[at + where - 1], out[at + where])
    return n


@njit
def _sift_down(heap, size, i):
    item = heap[i]
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= item:
            break
        heap[i] = heap[child]
        i = child
    heap[i] = item


@njit
def _push(heap, size, item):
    i = size
    while i > 0:
        parent = (i - 1) >> 1
        if heap[parent] <= item:
            break
        heap[i] = heap[parent]
        i = parent
    heap[i] = item


@njit
def merge_long(data, start, length, byte_ids, pairs, shift, out, at):
    """The same for any length below 2^32: a heap of rank << 32 | position, a linked list of symbols.

    A heap entry is stale when the pair at its position is no longer the one it was made for: `ranks` holds
    each position's present pair. A merge makes at most two entries, so 3 * length are enough."""
    ids = np.empty(length, np.uint32)
    ranks = np.empty(length, np.uint64)
    after = np.empty(length, np.int64)
    before = np.empty(length, np.int64)
    heap = np.empty(3 * length, np.uint64)
    size = 0
    for i in range(length):
        ids[i] = byte_ids[data[start + i]]
        after[i] = i + 1
        before[i] = i - 1
        ranks[i] = NO_PAIR
    for i in range(length - 1):
        ranks[i] = find_pair(pairs, shift, ids[i], ids[i + 1])
        if ranks[i] != NO_PAIR:
            heap[size] = (ranks[i] >> U32 << U32) | np.uint64(i)
            size += 1
    for i in range((size >> 1) - 1, -1, -1):
        _sift_down(heap, size, i)
    while size > 0:
        item = heap[0]
        size -= 1
        heap[0] = heap[size]
        if size > 0:
            _sift_down(heap, size, 0)
        i = np.int64(item & _LOW_HALF)
        if ranks[i] == NO_PAIR or ranks[i] >> U32 != item >> U32:
            continue
        gone = after[i]
        ids[i] = np.uint32(ranks[i] & _LOW_HALF)
        ranks[gone] = NO_PAIR
        after[i] = after[gone]
        if after[i] < length:
            before[after[i]] = i
            ranks[i] = find_pair(pairs, shift, ids[i], ids[after[i]])
            if ranks[i] != NO_PAIR:
                _push(heap, size, (ranks[i] >> U32 << U32) | np.uint64(i))
                size += 1
        else:
            ranks[i] = NO_PAIR
        left = before[i]
        if left >= 0:
            ranks[left] = find_pair(pairs, shift, ids[left], ids[i])
            if ranks[left] != NO_PAIR:
                _push(heap, size, (ranks[left] >> U32 << U32) | np.uint64(left))
                size += 1
    n = 0
    i = 0
    while i < length:
        out[at + n] = ids[i]
        n += 1
        i = after[i]
    return n
