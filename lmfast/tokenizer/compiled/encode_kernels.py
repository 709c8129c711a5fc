"""The loops that encode text: find the ends of pretokens, look up their keys in the cache, merge those that are new.

In: text (uint8, readable after its end), the cache of pretokens (pretoken_cache.py), the merges (merge_tables.py); if the
vocabulary needs it, whole pretokens are looked up before merging (whole_pretokens.py).
Out: ids, uint16 or uint32, into a buffer of one element per byte plus four. encoding.py lists what each choice costs.
"""

import numpy as np
from numba import njit

from lmfast.tokenizer.compiled.atomics import same_pair
from lmfast.tokenizer.compiled.intrinsics import (
    ALL_ONES,
    LONG_MARK,
    MAX_PACKED,
    U0,
    U1,
    U56,
    aligned_words,
    key_hash,
    load_u64,
    long_hash,
    packed_key,
    prefetch,
    store_u64,
)
from lmfast.tokenizer.compiled.merge_kernels import SHORT, merge_long, merge_short
from lmfast.tokenizer.compiled.pretoken_cache import (
    IDS,
    IN_ARENA,
    LOW,
    MORE,
    copy_row_ids,
    find_row,
    remember,
    row_tag,
    store_four,
)
from lmfast.tokenizer.compiled.scanner import scan_cl100k, scan_gpt2, scan_o200k
from lmfast.tokenizer.whole_pretokens import whole_token

_GROUP = 64  # pretokens whose cache lines are prefetched together
ENDS = 8192  # pretokens that are scanned before they are encoded: few enough for the ends to stay in the L1 cache

# One thread's buffers, as a plain tuple:
#   bounds    int64, ends of pretokens
#   keys      uint64: low, high, bucket and start of each pretoken of a group
#   values    uint64, for merge_short
#   cursor    int64 (3,): the scanner's position, special tokens before it, special tokens encoded
Scratch = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
SPECIALS = 2


def new_scratch() -> Scratch:
    return (
        np.empty(ENDS, np.int64),
        aligned_words(4 * _GROUP),
        aligned_words(2 * SHORT),
        np.zeros(3, np.int64),
    )


@njit(inline="always")
def _merge(data, start, length, low, high, tables, values, out, at):
    token = whole_token(tables, data, start, length, low, high)
    if token >= 0:
        out[at] = token
        return 1
    if length <= SHORT:
        return merge_short(data, start, length, tables, values, out, at)
    return merge_long(data, start, length, tables, out, at)


@njit(nogil=True)
def encode_batch(data, start, bounds, count, special_ids, cache, scratch, tables, out, n):
    """Writes the ids of the pretokens that end at `bounds[:count]` to out[n:]; returns the new n.

    In groups: first all keys, with a prefetch of each one's cache line, then the lookups."""
    rows, shift, id_arena, byte_arena, used = cache
    _, keys, values, cursor = scratch
    for group in range(0, count, _GROUP):
        size = min(_GROUP, count - group)
        for k in range(size):
            end = np.int64(load_u64(bounds, group + k))
            length = end - start
            if np.uint64(length) <= np.uint64(
                MAX_PACKED
            ):  # unsigned, so that it is false for negative ends too
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
            bucket = np.int64(load_u64(keys, 4 * k + 2))
            # A branch on which of the two rows holds the key would be mispredicted, so the row is computed.
            row = bucket + 4 - 4 * np.int64(same_pair(rows, bucket + LOW, keys, 4 * k))
            known = same_pair(rows, row + LOW, keys, 4 * k)
            ids, more = load_u64(rows, row + IDS), load_u64(rows, row + MORE)
            tag = row_tag(out, ids, more)
            if known & (tag < IN_ARENA):
                store_four(out, n, ids, more)
                n += np.int64(tag)
                continue
            low, high = load_u64(keys, 4 * k), load_u64(keys, 4 * k + 1)
            if high == ALL_ONES:
                out[n] = special_ids[cursor[SPECIALS]]
                cursor[SPECIALS] += 1
                n += 1
                continue
            begin = np.int64(load_u64(keys, 4 * k + 3))
            length = np.int64(high & (LONG_MARK - U1) if high >= LONG_MARK else high >> U56)
            row = find_row(rows, byte_arena, data, begin, length, low, high, bucket, out)
            if row >= 0:
                n = copy_row_ids(rows, id_arena, row, out, n)
                continue
            found = _merge(data, begin, length, low, high, tables, values, out, n)
            remember(rows, id_arena, byte_arena, used, data, begin, length, low, high, bucket, out, n, found)
            n += found
    return n


@njit(inline="always")
def _encode(scan, data, begin, end, spans, classes, special_ids, cache, scratch, tables, out):
    bounds, _, _, cursor = scratch
    cursor[0] = begin
    cursor[1] = 0
    cursor[SPECIALS] = 0
    n = np.int64(0)  # a literal 0 has another type, for which `encode_batch` would be compiled again
    while cursor[0] < end:
        start = cursor[0]
        count = scan(data, end, spans, cursor, classes, bounds)
        n = encode_batch(data, start, bounds, count, special_ids, cache, scratch, tables, out, n)
    return n


@njit(nogil=True)
def encode_gpt2(data, begin, end, spans, classes, special_ids, cache, scratch, tables, out):
    """Writes the ids of data[begin:end] to `out`; returns their number. spans, classes: see scanner.py; special_ids:
    int64, of the special tokens in `spans`."""
    return _encode(scan_gpt2, data, begin, end, spans, classes, special_ids, cache, scratch, tables, out)


@njit(nogil=True)
def encode_cl100k(data, begin, end, spans, classes, special_ids, cache, scratch, tables, out):
    """As `encode_gpt2`."""
    return _encode(scan_cl100k, data, begin, end, spans, classes, special_ids, cache, scratch, tables, out)


@njit(nogil=True)
def encode_o200k(data, begin, end, spans, classes, special_ids, cache, scratch, tables, out):
    """As `encode_gpt2`."""
    return _encode(scan_o200k, data, begin, end, spans, classes, special_ids, cache, scratch, tables, out)


ENCODE = {"gpt2": encode_gpt2, "cl100k": encode_cl100k, "o200k": encode_o200k}
