"""The table from pretokens to their ids that all threads of an encoder share.

In: the key of a pretoken (its bytes and their number, or a hash where there are more than 15), its ids. Out: the row
that has them. Rows are only ever added, never changed and never moved, so readers need no lock: a writer takes an
empty row by swapping a mark into it, writes the rest, and the key's high word last. Two threads that add the same
pretoken at once leave two equal rows. Bounded: a table that is half full is copied into one four times as large, up to
`MAX_ROWS`; one that is full at that size is left behind for a fresh one. What each choice costs: encoding.py.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from lmfast.tokenizer.compiled.atomics import compare_swap, fetch_add, load_acquire, store_release
from lmfast.tokenizer.compiled.code_cache import enable_cache
from lmfast.tokenizer.compiled.intrinsics import (
    LONG_MARK,
    MAX_PACKED,
    U0,
    U8,
    U32,
    aligned_words,
    key_hash,
    load_u64,
    same_bytes,
    store_u64,
)

# A row, four uint64: key (low, high), then the ids. Up to four of them, where all ids fit 16 bits ("narrow"), are the
# third word, and the tag is in the last byte of the fourth; else ("wide") they are two words, the tag being the top three
# bits of the third. The tag is their number, or IN_ARENA: then the word with the tag has their number too, and
# the other one (offset of the ids | offset of the bytes << 32) in the arenas. Two rows are one cache line.
LOW, HIGH, IDS, MORE = range(4)
IN_ARENA = np.uint64(5)
_TAG = np.uint64(61)  # of wide rows
_UNTAGGED = np.uint64((1 << 61) - 1)
_LOW_HALF = np.uint64(0xFFFFFFFF)
_LOW_BYTE = np.uint64(0xFF)
_U16 = np.uint64(16)
_BUSY = np.uint64(0xFE << 56)  # the high word of a row that is being written; no key's
_WALK = 16  # rows, from the key's own bucket on, where it may lie

_MAX_CACHED = 512  # bytes of a pretoken worth remembering
MAX_ROWS = 1 << 21  # 64 MiB
ID_ARENA = 1 << 21
BYTE_ARENA = 1 << 23

# used: int64, how much of each is taken; beyond an arena's end nothing is remembered that needs it
ROWS, _ARENA_IDS, _ARENA_BYTES = range(3)


# What compiled code takes, as a plain tuple (see MergeTables):
#   rows        uint64, four a row, as many rows as a power of two
#   shift       uint64, how a hash gives a bucket
#   id_arena    uint32, ids of pretokens with more than four, or longer than 15 bytes
#   byte_arena  uint8, bytes of pretokens longer than 15
#   used        int64 (3,)
Cache = tuple[np.ndarray, np.uint64, np.ndarray, np.ndarray, np.ndarray]


class PretokenCache:
    """A table of that many rows, empty; `larger` is one with the same content."""

    def __init__(self, num_rows: int):
        self.num_rows = num_rows
        self._of_arenas(np.empty(ID_ARENA, np.uint32), np.empty(BYTE_ARENA, np.uint8), np.zeros(3, np.int64))

    def _of_arenas(self, id_arena: np.ndarray, byte_arena: np.ndarray, used: np.ndarray) -> None:
        shift = np.uint64(64 - ((self.num_rows // 2).bit_length() - 1))
        self.used = used
        self.compiled: Cache = (aligned_words(4 * self.num_rows), shift, id_arena, byte_arena, used)

    def is_full(self) -> bool:
        """Whether `larger`, or a fresh one, would do better."""
        share = 2 if self.num_rows < MAX_ROWS else 1.3
        return share * self.used[ROWS] > self.num_rows or self._arenas_are_full()

    def _arenas_are_full(self) -> bool:
        _, _, id_arena, byte_arena, used = self.compiled
        return bool(used[_ARENA_IDS] > len(id_arena) or used[_ARENA_BYTES] + 8 > len(byte_arena))

    def larger(self) -> "PretokenCache | None":
        """Four times as large with all rows of this one, which others may go on using (what they add to it is lost);
        None where it cannot grow."""
        if self.num_rows >= MAX_ROWS or self._arenas_are_full():
            return None
        grown = object.__new__(PretokenCache)
        grown.num_rows = min(4 * self.num_rows, MAX_ROWS)
        _, _, id_arena, byte_arena, used = self.compiled
        # The arenas stay the same ones, and so does what is used of them: old rows point there, and both tables add.
        grown._of_arenas(id_arena, byte_arena, used)
        used[ROWS] = 0
        enable_cache(_copy)
        _copy(self.compiled, grown.compiled)
        return grown


@intrinsic
def is_narrow(typingctx, out):
    """Whether an array holds ids of 16 bits; known when it is compiled."""

    def codegen(context, builder, signature, args):
        return ir.Constant(ir.IntType(1), int(out.dtype.bitwidth == 16))

    return types.boolean(out), codegen


@njit(inline="always")
def add_row(rows, used, bucket, low, high, ids, more):
    """Writes a row at the first place that is free; where there is none the pretoken is not remembered."""
    row = bucket
    for _ in range(_WALK):
        if load_acquire(rows, row + HIGH) == U0 and compare_swap(rows, row + HIGH, U0, _BUSY):
            store_u64(rows, row + LOW, low)
            store_u64(rows, row + IDS, ids)
            store_u64(rows, row + MORE, more)
            store_release(rows, row + HIGH, high)
            fetch_add(used, ROWS, 1)
            return
        row = (row + 4) & (rows.shape[0] - 1)


@njit(nogil=True)
def _copy(source, target):
    """Adds all rows of one table to another, which nobody else uses yet."""
    rows = source[0]
    for row in range(0, rows.shape[0], 4):
        high = load_acquire(rows, row + HIGH)
        if high != U0 and high != _BUSY:
            low = load_u64(rows, row + LOW)
            bucket = np.int64((key_hash(low, high) >> target[1]) << np.uint64(3))
            ids, more = load_u64(rows, row + IDS), load_u64(rows, row + MORE)
            add_row(target[0], target[4], bucket, low, high, ids, more)


@njit(inline="always")
def tag_of(out, ids, more):
    """How many ids a row has, or IN_ARENA."""
    return more & _LOW_BYTE if is_narrow(out) else ids >> _TAG


@njit(inline="always")
def store_four(out, n, ids, more):
    """Writes a row's ids to out[n : n + 4], whatever their number."""
    if is_narrow(out):
        store_u64(out, n, ids)
    else:
        store_u64(out, n, ids & _UNTAGGED)
        store_u64(out, n + 2, more)


@njit(inline="always")
def four_ids(out, at, n):
    """(IDS, MORE) of a row for the up to four ids that stand in out[at : at + n]; zeros are written behind them."""
    for k in range(n, 4):
        out[at + k] = 0
    if is_narrow(out):
        return load_u64(out, at), np.uint64(n)
    return load_u64(out, at) | np.uint64(n) << _TAG, load_u64(out, at + 2)


@njit(inline="always")
def _in_arena(out, rows, row):
    """(number of ids, where they begin, where the bytes begin) of a row with the tag IN_ARENA."""
    ids, more = load_u64(rows, row + IDS), load_u64(rows, row + MORE)
    if is_narrow(out):
        number, offsets = more >> U8, ids
    else:
        number, offsets = ids & _UNTAGGED, more
    return np.int64(number), np.int64(offsets & _LOW_HALF), np.int64(offsets >> U32)


@njit(inline="always")
def find_row(rows, byte_arena, data, start, length, low, high, bucket, out):
    """The row of a pretoken, wherever it lies, or -1."""
    row = bucket
    for _ in range(_WALK):
        found = load_acquire(rows, row + HIGH)
        if found == U0:
            return -1
        if found == high and load_u64(rows, row + LOW) == low:
            if high < LONG_MARK:
                return row
            if same_bytes(byte_arena, _in_arena(out, rows, row)[2], data, start, length):
                return row
        row = (row + 4) & (rows.shape[0] - 1)
    return -1


@njit(inline="always")
def ids_of_row(rows, id_arena, row, out, n):
    """Writes the ids of any row to out[n:]; returns the new n."""
    ids, more = load_u64(rows, row + IDS), load_u64(rows, row + MORE)
    tag = tag_of(out, ids, more)
    if tag < IN_ARENA:
        store_four(out, n, ids, more)
        return n + np.int64(tag)
    number, offset, _ = _in_arena(out, rows, row)
    for k in range(number):
        out[n + k] = id_arena[offset + k]
    return n + number


@njit(inline="always")
def remember(rows, id_arena, byte_arena, used, data, start, length, low, high, bucket, out, at, n):
    """Adds a row for a pretoken whose ids stand in out[at : at + n]. Where an arena has no room for them, or the
    pretoken is very long, it is not remembered."""
    if n <= 4 and length <= MAX_PACKED:
        ids, more = four_ids(out, at, n)
        add_row(rows, used, bucket, low, high, ids, more)
        return
    kept = length if length > MAX_PACKED else 0
    if kept > _MAX_CACHED:
        return
    offset = fetch_add(used, _ARENA_IDS, n)
    kept_at = fetch_add(used, _ARENA_BYTES, kept)
    if offset + n > id_arena.shape[0] or kept_at + kept + 8 > byte_arena.shape[0]:
        return
    for k in range(n):
        id_arena[offset + k] = out[at + k]
    for k in range(kept):
        byte_arena[kept_at + k] = data[start + k]
    offsets = np.uint64(offset) | np.uint64(kept_at) << U32
    if is_narrow(out):
        add_row(rows, used, bucket, low, high, offsets, np.uint64(n) << U8 | IN_ARENA)
    else:
        add_row(rows, used, bucket, low, high, np.uint64(n) | IN_ARENA << _TAG, offsets)
