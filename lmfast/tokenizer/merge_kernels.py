"""The bytes of one pretoken to its ids, by the merges alone: what the encoder does where its cache misses.

In: the pretoken's bytes, the ids of the 256 bytes, and the merges as tables from a pair of ids to (rank, new
id). Out: ids (uint32). The merge of lowest rank goes first, the leftmost where ranks are equal.

Up to `SHORT` bytes the least rank is found by looking at all of them; longer pretokens use a heap, so that a
megabyte of one letter costs n log n.

What this costs is cache misses: two lookups a merge, most of which find nothing. So a slot of the hash table is
four bytes, the merge's number beside as many bits of the key's hash as there is room for, and only slots that
agree in those lead to the merge itself (32,000 merges: 256 KiB of slots, where rows of key and value were 2 MiB
and did not stay in the L2 cache).
"""

import numpy as np
from numba import njit

from lmfast.tokenizer.intrinsics import (
    ALL_ONES,
    U0,
    U1,
    U32,
    aligned_words,
    enable_cache,
    leading_zeros,
    load_u64,
    trailing_zeros,
)

SHORT = 64  # bytes; the set of symbols still there is one word
MAX_ID = (1 << 29) - 1
MAX_MERGES = 1 << 26
NO_PAIR = np.uint64(0xFFFFFFFF)
NO_POSITION = 0xFFFFFFFF
_MIX = np.uint64(0x9E3779B97F4A7C15)
_SIX = np.uint64(6)
_POSITION_MASK = np.uint64(63)
_HEAP_POSITION = np.uint64(0xFFFFFFFF)
_HEAP_RANK = np.uint64(32)


# Merges, numbered by rank, compiled for looking up, as a plain tuple (Numba takes ten times as long to recognise a
# named one at each call):
#   byte_ids    uint32 (256,)
#   byte_pairs  uint32 (65536,), the merge of two bytes, indexed by the little-endian word they make
#   slots       uint32, open addressing
#   keys        uint64, left << 32 | right of each merge
#   new         uint32, the result of each merge
#   shift       uint64, how a hash gives a slot
#   low_bits    uint64, how many bits of a slot are the merge's number
MergeTables = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.uint64, np.uint64]


@njit(inline="always")
def _hash(key):
    return (key ^ key >> np.uint64(29)) * _MIX


@njit
def find_pair(slots, keys, shift, low_bits, left, right):
    """The number of the merge of two ids, or NO_PAIR."""
    key = np.uint64(left) << U32 | np.uint64(right)
    hashed = _hash(key)
    mask = np.uint64(slots.shape[0] - 1)
    slot = hashed >> shift
    number_mask = (U1 << low_bits) - U1
    while True:
        entry = np.uint64(slots[slot])
        if entry == NO_PAIR:
            return NO_PAIR
        if (entry ^ hashed) & NO_PAIR & ~number_mask == U0:
            number = entry & number_mask
            if keys[number] == key:
                return number
        slot = (slot + U1) & mask


@njit(nogil=True)
def _fill(tables):
    """Enters all merges; of equal pairs the first counts."""
    byte_ids, byte_pairs, slots, keys, _, shift, low_bits = tables
    mask = np.uint64(slots.shape[0] - 1)
    number_mask = (U1 << low_bits) - U1
    for number in range(keys.shape[0]):
        key = keys[number]
        if find_pair(slots, keys, shift, low_bits, key >> U32, key & NO_PAIR) != NO_PAIR:
            continue
        hashed = _hash(key)
        slot = hashed >> shift
        while np.uint64(slots[slot]) != NO_PAIR:
            slot = (slot + U1) & mask
        slots[slot] = np.uint32(np.uint64(number) | (hashed & NO_PAIR & ~number_mask))
    for first in range(256):
        for second in range(256):
            found = find_pair(slots, keys, shift, low_bits, byte_ids[first], byte_ids[second])
            byte_pairs[first | second << 8] = np.uint32(found)


def merge_tables(triples: np.ndarray, byte_ids: np.ndarray) -> MergeTables:
    """Tables for merges (n, 3): ids of left, right and result, in the order of their ranks."""
    enable_cache(_fill)
    # Numbers end before all ones, so that no entry looks like an empty slot.
    low_bits = (len(triples) + 1).bit_length()
    rows = 1 << max(8, (2 * len(triples)).bit_length())
    slots = aligned_words(rows // 2).view(np.uint32)
    slots[:] = NO_PAIR
    byte_pairs = aligned_words(1 << 15).view(np.uint32)
    left, right, new = (np.ascontiguousarray(column) for column in triples.T)
    keys = left.astype(np.uint64) << U32 | right.astype(np.uint64)
    shift = np.uint64(64 - (rows.bit_length() - 1))
    tables = (byte_ids, byte_pairs, slots, keys, new.astype(np.uint32), shift, np.uint64(low_bits))
    _fill(tables)
    return tables


@njit
def merge_short(data, start, length, tables, values, out, at):
    """Writes the ids of data[start:start+length] to out[at:]; returns how many. `values`: 64 uint64, scratch.

    `alive` has a bit for each byte where a symbol begins; `values` has, for each, the number of the merge with
    its right neighbour, << 6, and the position: the least says which merge is next, and where."""
    byte_ids, byte_pairs, slots, keys, results, shift, low_bits = tables
    last = np.uint64(length - 1)
    base = np.uint64(at)
    for i in range(np.uint64(length)):
        out[base + i] = byte_ids[data[np.uint64(start) + i]]
    for i in range(last):
        pair = load_u64(data, start + np.int64(i)) & np.uint64(0xFFFF)
        values[i] = np.uint64(byte_pairs[pair]) << _SIX | i
    values[last] = NO_PAIR << _SIX
    alive = ALL_ONES >> np.uint64(64 - length)
    while True:
        best = NO_PAIR << _SIX
        rest = alive
        while rest != U0:
            best = min(best, values[np.uint64(trailing_zeros(rest))])
            rest &= rest - U1
        if best >= NO_PAIR << _SIX:
            break
        here = best & _POSITION_MASK
        new = results[best >> _SIX]
        out[base + here] = new
        behind = alive & ~(ALL_ONES >> (np.uint64(63) - here))
        alive ^= behind & (~behind + U1)
        behind &= behind - U1
        before = alive & ((U1 << here) - U1)
        if behind != U0:
            right = out[base + np.uint64(trailing_zeros(behind))]
            values[here] = find_pair(slots, keys, shift, low_bits, new, right) << _SIX | here
        else:
            values[here] = NO_PAIR << _SIX
        if before != U0:
            before = np.uint64(63 - leading_zeros(before))
            values[before] = find_pair(slots, keys, shift, low_bits, out[base + before], new) << _SIX | before
    n = 0
    while alive != U0:
        out[base + np.uint64(n)] = out[base + np.uint64(trailing_zeros(alive))]
        alive &= alive - U1
        n += 1
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
def merge_long(data, start, length, tables, out, at):
    """The same for any length below 2^32: a heap of rank << 32 | position, a linked list of symbols.

    A heap entry is stale when the pair at its position is no longer the one it was made for: `ranks` holds
    each position's present pair. A merge takes one
    and makes at most two, so 2 * length are enough. 32 bits each: what a megabyte of one letter costs is memory."""
    byte_ids, _, slots, keys, results, shift, low_bits = tables
    ids = np.empty(length, np.uint32)
    ranks = np.empty(length, np.uint32)
    after = np.empty(length, np.uint32)
    before = np.empty(length, np.uint32)
    heap = np.empty(2 * length, np.uint64)
    size = 0
    for i in range(length):
        ids[i] = byte_ids[data[start + i]]
        after[i] = i + 1
        before[i] = np.uint32(i - 1)  # of the first: NO_POSITION
        ranks[i] = NO_PAIR
    for i in range(length - 1):
        ranks[i] = find_pair(slots, keys, shift, low_bits, ids[i], ids[i + 1])
        if ranks[i] != NO_PAIR:
            heap[size] = np.uint64(ranks[i]) << _HEAP_RANK | np.uint64(i)
            size += 1
    for i in range((size >> 1) - 1, -1, -1):
        _sift_down(heap, size, i)
    while size > 0:
        item = heap[0]
        size -= 1
        heap[0] = heap[size]
        if size > 0:
            _sift_down(heap, size, 0)
        i = np.int64(item & _HEAP_POSITION)
        if ranks[i] != item >> _HEAP_RANK:
            continue
        gone = np.int64(after[i])
        ids[i] = results[ranks[i]]
        ranks[gone] = NO_PAIR
        after[i] = after[gone]
        ranks[i] = NO_PAIR
        right = np.int64(after[i])
        if right < length:
            before[right] = i
            ranks[i] = find_pair(slots, keys, shift, low_bits, ids[i], ids[right])
            if ranks[i] != NO_PAIR:
                _push(heap, size, np.uint64(ranks[i]) << _HEAP_RANK | np.uint64(i))
                size += 1
        left = np.int64(before[i])
        if left != NO_POSITION:
            ranks[left] = find_pair(slots, keys, shift, low_bits, ids[left], ids[i])
            if ranks[left] != NO_PAIR:
                _push(heap, size, np.uint64(ranks[left]) << _HEAP_RANK | np.uint64(left))
                size += 1
    n = 0
    i = 0
    while i < length:
        out[at + n] = ids[i]
        n += 1
        i = np.int64(after[i])
    return n
