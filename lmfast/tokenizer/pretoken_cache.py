"""The cache from pretokens to their ids, and the loop that encodes with it.

In: text (uint8, readable beyond its end), the ends of its pretokens, the merges (merge_kernels.py). Out: ids, uint32.
Bounded: a bucket that is full forgets its older row, and full arenas empty the whole cache. What each choice costs:
encoding.py.
"""

import numpy as np
from numba import njit

from lmfast.tokenizer.intrinsics import (
    ALL_ONES,
    LONG_MARK,
    MAX_PACKED,
    U0,
    U1,
    U32,
    U56,
    aligned_words,
    key_hash,
    load_u64,
    long_hash,
    packed_key,
    prefetch,
    same_bytes,
    store_u64,
)
from lmfast.tokenizer.merge_kernels import SHORT, merge_long, merge_short

# A row of the cache, four uint64: key (low, high), then up to four ids with their number in the top three
# bits of the second; or the number 5, how many ids, and (offset of the ids | offset of the bytes << 32) in the arenas.
# Two rows are a bucket of one cache line: a lookup touches one line, and the bucket's older row makes room.
LOW, HIGH, IDS, MORE = range(4)
_TAG = np.uint64(61)
_UNTAGGED = np.uint64((1 << 61) - 1)
_LOW_HALF = np.uint64(0xFFFFFFFF)
_IN_ARENA = np.uint64(5)
_MAX_CACHED = 512  # bytes of a pretoken worth remembering
MAX_ROWS = 1 << 19  # 16 MiB a worker
ID_ARENA = 1 << 21
BYTE_ARENA = 1 << 23

# counters: (specials so far, ids in the arena, bytes in the arena)
SPECIALS, _ARENA_IDS, _ARENA_BYTES = range(3)

_GROUP = 64  # pretokens whose cache lines are asked for together


# What one thread needs to encode, as a plain tuple (see MergeTables):
#   rows        uint64, four a row
#   shift       uint64, how a hash gives a bucket
#   id_arena    uint32, ids of pretokens with more than four
#   byte_arena  uint8, bytes of pretokens longer than 15
#   counters    int64 (3,)
#   keys        uint64, scratch: low, high, bucket and start of each pretoken of a group
#   values      uint64, scratch of merge_short
Cache = tuple[np.ndarray, np.uint64, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def new_cache(rows: np.ndarray) -> Cache:
    shift = np.uint64(64 - ((len(rows) // 8).bit_length() - 1))
    return (
        rows, shift, np.empty(ID_ARENA, np.uint32), np.empty(BYTE_ARENA, np.uint8), np.zeros(3, np.int64),
        aligned_words(4 * _GROUP), aligned_words(2 * SHORT),
    )  # fmt: skip


@njit
def _remember(rows, bucket, low, high, ids, more):
    """Writes a row into a bucket: the row in front moves back, the one at the back is forgotten."""
    for k in range(4):
        rows[bucket + 4 + k] = rows[bucket + k]
    rows[bucket + LOW] = low
    rows[bucket + HIGH] = high
    rows[bucket + IDS] = ids
    rows[bucket + MORE] = more


@njit(inline="always")
def _miss(data, start, length, low, high, bucket, cache, tables, out, at):
    """Merges one pretoken into out[at:], remembers it, returns how many ids it has."""
    rows, _, id_arena, byte_arena, counters, _, values = cache
    if length <= SHORT:
        n = merge_short(data, start, length, tables, values, out, at)
    else:
        n = merge_long(data, start, length, tables, out, at)
        if length > _MAX_CACHED:
            return n
    if n <= 4 and length <= MAX_PACKED:
        for k in range(n, 4):
            out[at + k] = 0
        ids = np.uint64(out[at]) | np.uint64(out[at + 1]) << U32 | np.uint64(n) << _TAG
        more = np.uint64(out[at + 2]) | np.uint64(out[at + 3]) << U32
        _remember(rows, bucket, low, high, ids, more)
        return n
    kept = length if length > MAX_PACKED else 0
    if (
        counters[_ARENA_IDS] + n > id_arena.shape[0]
        or counters[_ARENA_BYTES] + kept + 8 > byte_arena.shape[0]
    ):
        rows[:] = U0  # rows point into the arenas: forget everything, which bounds the memory
        counters[_ARENA_IDS] = 0
        counters[_ARENA_BYTES] = 0
    for k in range(n):
        id_arena[counters[_ARENA_IDS] + k] = out[at + k]
    for k in range(kept):
        byte_arena[counters[_ARENA_BYTES] + k] = data[start + k]
    more = np.uint64(counters[_ARENA_IDS]) | np.uint64(counters[_ARENA_BYTES]) << U32
    counters[_ARENA_IDS] += n
    counters[_ARENA_BYTES] += kept
    _remember(rows, bucket, low, high, np.uint64(n) | _IN_ARENA << _TAG, more)
    return n


@njit(inline="always")
def _emit(rows, row, id_arena, out, n):
    """Writes a row's ids to out[n:], four at a time whatever their number; returns the new n."""
    ids = load_u64(rows, row + IDS)
    tag = ids >> _TAG
    if tag < _IN_ARENA:
        store_u64(out, n, ids & _UNTAGGED)
        store_u64(out, n + 2, load_u64(rows, row + MORE))
        return n + np.int64(tag)
    count = np.int64(ids & _LOW_HALF)
    offset = np.int64(rows[row + MORE] & _LOW_HALF)
    for k in range(count):
        out[n + k] = id_arena[offset + k]
    return n + count


@njit(nogil=True)
def encode_batch(data, start, bounds, count, special_ids, cache, tables, out):
    """Writes the ids of the pretokens that `bounds[:count]` ends to `out`; returns how many.

    In groups: first all keys, asking for each one's cache line, then the lookups."""
    n = 0
    rows, shift, id_arena, byte_arena, counters, keys, _ = cache
    for group in range(0, count, _GROUP):
        size = min(_GROUP, count - group)
        for k in range(size):
            end = np.int64(load_u64(bounds, group + k))
            length = end - start
            if np.uint64(length) <= np.uint64(MAX_PACKED):  # as unsigned, so that negative ends fail it too
                low, high = packed_key(data, start, length)
            elif end < 0:
                low, high = U0, ALL_ONES
                end = -end
            else:
                low, high = long_hash(data, start, length), LONG_MARK | np.uint64(length)
            bucket = (key_hash(low, high) >> shift) << np.uint64(3)
            prefetch(rows, np.int64(bucket))
            store_u64(keys, 4 * k, low)
            store_u64(keys, 4 * k + 1, high)
            store_u64(keys, 4 * k + 2, bucket)
            store_u64(keys, 4 * k + 3, np.uint64(start))
            start = end
        for k in range(size):
            low = load_u64(keys, 4 * k)
            high = load_u64(keys, 4 * k + 1)
            bucket = np.int64(load_u64(keys, 4 * k + 2))
            # Which of the two rows is not foreseeable, so it is chosen without a branch.
            first = (load_u64(rows, bucket + LOW) == low) & (load_u64(rows, bucket + HIGH) == high)
            row = bucket + 4 - 4 * np.int64(first)
            known = (load_u64(rows, row + LOW) == low) & (load_u64(rows, row + HIGH) == high)
            if high >= LONG_MARK:
                if high == ALL_ONES:
                    out[n] = special_ids[counters[SPECIALS]]
                    counters[SPECIALS] += 1
                    n += 1
                    continue
                length = np.int64(high & (LONG_MARK - U1))
                if known:
                    kept = np.int64(rows[row + MORE] >> U32)
                    known = same_bytes(byte_arena, kept, data, np.int64(keys[4 * k + 3]), length)
            if known:
                n = _emit(rows, row, id_arena, out, n)
                continue
            length = np.int64(high & (LONG_MARK - U1) if high >= LONG_MARK else high >> U56)
            n += _miss(data, np.int64(keys[4 * k + 3]), length, low, high, bucket, cache, tables, out, n)
    return n
