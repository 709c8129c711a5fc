"""Encodes one pretoken with the merges alone; the encoder uses it when its cache misses.

In: the pretoken's bytes, the ids of the 256 bytes, and the merges as tables from a pair of ids to (rank, new id)
(merge_tables.py). Out: ids (uint32). The merge of lowest rank is applied first, the leftmost of equal ranks.

Up to `SHORT` bytes the lowest rank is found by scanning all pairs; longer pretokens use a heap, and from `HUGE` bytes on
one list of positions per rank. Why, and what it costs: docs/tokenizer.md.
"""

import numpy as np
from numba import njit

from lmfast.tokenizer.compiled.intrinsics import (
    ALL_ONES,
    U0,
    U1,
    U32,
    advise_huge_pages,
    leading_zeros,
    load_u64,
    trailing_zeros,
)
from lmfast.tokenizer.compiled.merge_tables import NO_PAIR, find_pair

SHORT = 64  # bytes; up to this length the set of remaining symbols is one word
HUGE = 1 << 13  # bytes; from this length on, allocating the lists of all ranks pays off
NO_RANK = np.uint64(0xFFFFFFFF)
NO_POSITION = 0xFFFFFFFF
_SIX = np.uint64(6)
_POSITION_MASK = np.uint64(63)
_LOW_HALF = np.uint64(0xFFFFFFFF)


@njit(inline="always")
def merge_short(data, start, length, tables, values, out, at):
    """Writes the ids of data[start:start+length] to out[at:]; returns their number. `values`: 128 uint64, scratch.

    `alive` has a bit for each byte where a symbol begins. For each symbol at i, values[i] is rank << 6 | i for the merge
    with its right neighbour, so that the minimum gives the next merge and its position; values[i + 64] is the id that it
    makes."""
    byte_ids, byte_pairs, pair_filter, rows, shifts = tables[:5]
    filter_shift, row_shift = shifts[0], shifts[1]
    last = np.uint64(length - 1)
    base = np.uint64(at)
    for i in range(np.uint64(length)):
        out[base + i] = byte_ids[data[np.uint64(start) + i]]
    for i in range(last):
        value = byte_pairs[load_u64(data, start + np.int64(i)) & np.uint64(0xFFFF)]
        values[i] = value >> U32 << _SIX | i
        values[i + np.uint64(64)] = value & _LOW_HALF
    values[last] = NO_RANK << _SIX
    alive = ALL_ONES >> np.uint64(64 - length)
    while True:
        best = NO_RANK << _SIX
        rest = alive
        while rest != U0:
            best = min(best, values[np.uint64(trailing_zeros(rest))])
            rest &= rest - U1
        if best >= NO_RANK << _SIX:
            break
        here = best & _POSITION_MASK
        new = values[here + np.uint64(64)]
        out[base + here] = np.uint32(new)
        behind = alive & ~(ALL_ONES >> (np.uint64(63) - here))
        alive ^= behind & (~behind + U1)
        behind &= behind - U1
        before = alive & ((U1 << here) - U1)
        if behind != U0:
            right = out[base + np.uint64(trailing_zeros(behind))]
            value = find_pair(pair_filter, rows, filter_shift, row_shift, new, right)
            values[here] = value >> U32 << _SIX | here
            values[here + np.uint64(64)] = value & _LOW_HALF
        else:
            values[here] = NO_RANK << _SIX
        if before != U0:
            before = np.uint64(63 - leading_zeros(before))
            value = find_pair(pair_filter, rows, filter_shift, row_shift, out[base + before], new)
            values[before] = value >> U32 << _SIX | before
            values[before + np.uint64(64)] = value & _LOW_HALF
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
def _append_position(lists, rank, position, size):
    """Appends entry number `size`, a position, to its rank's list; returns whether the list was empty."""
    first, last, positions, following = lists
    positions[size] = position
    following[size] = NO_POSITION
    empty = first[rank] == NO_POSITION
    if empty:
        first[rank] = size
    else:
        following[last[rank]] = size
    last[rank] = size
    return empty


@njit
def _merge_huge(data, start, length, tables, out, at):
    """Any length below 2^30 in linear time, if ranks are in order (merge_tables.py): a merge only adds positions to the
    lists of ranks above its own, so each rank is processed once.

    All merges of a rank are applied first, from left to right, and then the pairs that they created are listed, so that a
    run of one letter lists no pair that the next merge breaks. Lists are chained in the order in which positions were
    found: increasing, unless several ranks added to one list. The symbols are stored in `out`, and all arrays in one block
    of memory, in huge pages if available: at four million bytes, small pages took half of the time.

    The lookup of a pair and its listing are repeated three times: in a separate function, inlined by Numba or not, with
    a tuple or with arrays, they made this function 2.5 times as slow (docs/LOG.md)."""
    byte_ids, _, pair_filter, rows, shifts = tables[:5]
    filter_shift, row_shift = shifts[0], shifts[1]
    num_ranks = np.int64(shifts[2])
    block = np.empty(10 * length, np.uint32)
    advise_huge_pages(block)
    ranks = block[:length]  # of the pair that begins at each position
    after = block[length : 2 * length]
    before = block[2 * length : 3 * length]
    batch = block[3 * length : 4 * length]
    entries = (block[4 * length : 7 * length], block[7 * length :])  # a merge lists at most two pairs
    first = np.full(num_ranks, NO_POSITION, np.uint32)
    lists = (first, np.empty(num_ranks, np.uint32), *entries)
    heap = np.empty(num_ranks, np.uint64)  # ranks whose list is not empty
    waiting = 0
    listed = 0
    for i in range(length):
        out[at + i] = byte_ids[data[start + i]]
        after[i] = i + 1
        before[i] = np.uint32(i - 1)  # of the first: NO_POSITION
    ranks[length - 1] = NO_RANK
    for i in range(length - 1):
        value = find_pair(pair_filter, rows, filter_shift, row_shift, out[at + i], out[at + i + 1])
        ranks[i] = np.uint32(value >> U32)
        if value != NO_PAIR:
            if _append_position(lists, np.int64(value >> U32), i, listed):
                _push(heap, waiting, value >> U32)
                waiting += 1
            listed += 1
    while waiting > 0:
        rank = np.int64(heap[0])
        waiting -= 1
        heap[0] = heap[waiting]
        if waiting > 0:
            _sift_down(heap, waiting, 0)
        count = 0
        rising = True
        entry = np.int64(first[rank])
        first[rank] = NO_POSITION
        while entry != NO_POSITION:
            here = entries[0][entry]
            if ranks[here] == rank:
                rising &= count == 0 or batch[count - 1] < here
                batch[count] = here
                count += 1
            entry = np.int64(entries[1][entry])
        if count == 0:
            continue
        if not rising:
            batch[:count].sort()
        i = np.int64(batch[0])
        value = find_pair(
            pair_filter, rows, filter_shift, row_shift, out[at + i], out[at + np.int64(after[i])]
        )
        new = np.uint32(value & _LOW_HALF)
        merged = 0
        for k in range(count):
            i = np.int64(batch[k])
            if ranks[i] != rank:
                continue  # the previous merge consumed its first symbol
            gone = np.int64(after[i])
            right = np.int64(after[gone])
            out[at + i] = new
            ranks[i] = NO_RANK
            ranks[gone] = NO_RANK
            after[i] = right
            if right < length:
                before[right] = i
            batch[merged] = i
            merged += 1
        for k in range(merged):
            i = np.int64(batch[k])
            left = np.int64(before[i])
            # A left neighbour made by this rank has listed this pair already.
            if left != NO_POSITION and (k == 0 or left != batch[k - 1]):
                value = find_pair(pair_filter, rows, filter_shift, row_shift, out[at + left], new)
                ranks[left] = np.uint32(value >> U32)
                if value != NO_PAIR:
                    if _append_position(lists, np.int64(value >> U32), left, listed):
                        _push(heap, waiting, value >> U32)
                        waiting += 1
                    listed += 1
            right = np.int64(after[i])
            if right < length:
                value = find_pair(pair_filter, rows, filter_shift, row_shift, new, out[at + right])
                ranks[i] = np.uint32(value >> U32)
                if value != NO_PAIR:
                    if _append_position(lists, np.int64(value >> U32), i, listed):
                        _push(heap, waiting, value >> U32)
                        waiting += 1
                    listed += 1
    n = 0
    i = 0
    while i < length:
        out[at + n] = out[at + i]
        n += 1
        i = np.int64(after[i])
    return n


@njit
def merge_long(data, start, length, tables, out, at):
    """More than `SHORT` bytes: uses lists if the pretoken is long and ranks are in order, else a heap."""
    if length >= HUGE and tables[4][2] > U0:
        return _merge_huge(data, start, length, tables, out, at)
    return _merge_by_heap(data, start, length, tables, out, at)


@njit
def _merge_by_heap(data, start, length, tables, out, at):
    """Any length below 2^32: a heap of rank << 32 | position, and a linked list of symbols.

    A heap entry is stale if the pair at its position has changed: `values` holds the current pair of each position. A
    merge removes one entry and adds at most two, so 2 * length suffice."""
    byte_ids, _, pair_filter, rows, shifts = tables[:5]
    filter_shift, row_shift = shifts[0], shifts[1]
    ids = np.empty(length, np.uint32)
    values = np.empty(length, np.uint64)
    after = np.empty(length, np.uint32)
    before = np.empty(length, np.uint32)
    heap = np.empty(2 * length, np.uint64)
    size = 0
    for i in range(length):
        ids[i] = byte_ids[data[start + i]]
        after[i] = i + 1
        before[i] = np.uint32(i - 1)  # of the first: NO_POSITION
        values[i] = NO_PAIR
    for i in range(length - 1):
        values[i] = find_pair(pair_filter, rows, filter_shift, row_shift, ids[i], ids[i + 1])
        if values[i] != NO_PAIR:
            heap[size] = values[i] >> U32 << U32 | np.uint64(i)
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
        if values[i] >> U32 != item >> U32:
            continue
        gone = np.int64(after[i])
        ids[i] = np.uint32(values[i] & _LOW_HALF)
        values[gone] = NO_PAIR
        after[i] = after[gone]
        values[i] = NO_PAIR
        right = np.int64(after[i])
        if right < length:
            before[right] = i
            values[i] = find_pair(pair_filter, rows, filter_shift, row_shift, ids[i], ids[right])
            if values[i] != NO_PAIR:
                _push(heap, size, values[i] >> U32 << U32 | np.uint64(i))
                size += 1
        left = np.int64(before[i])
        if left != NO_POSITION:
            values[left] = find_pair(pair_filter, rows, filter_shift, row_shift, ids[left], ids[i])
            if values[left] != NO_PAIR:
                _push(heap, size, values[left] >> U32 << U32 | np.uint64(left))
                size += 1
    n = 0
    i = 0
    while i < length:
        out[at + n] = ids[i]
        n += 1
        i = np.int64(after[i])
    return n
