"""The hash table from pretokens to their ids, shared by all threads of an encoder.

In: the key of a pretoken (its bytes and their number, or a hash if it is longer than 15 bytes), its ids. Out: the row
that holds them. Rows are added but never changed or moved, so readers need no lock: a writer claims an
empty row by swapping a mark into it, then writes the rest, and the key's high word last. Two threads that add the same
pretoken at once leave two equal rows. Memory is bounded: a table that is half full is copied into one four times as
large, up to `MAX_ROWS`; one that is full at that size is replaced by a new one. encoding.py lists what each choice costs.
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

# A row is four uint64: key (low, high), then up to four ids. If all ids fit 16 bits ("narrow"), the ids are the
# third word, and the tag is the last byte of the fourth; else ("wide") the ids are both words, and the tag is the top three
# bits of the third. The tag is the number of ids, or IN_ARENA: then the word with the tag also holds their number, and
# the other word holds offset of the ids | offset of the bytes << 32 in the arenas. Two rows are one cache line.
LOW, HIGH, IDS, MORE = range(4)
IN_ARENA = np.uint64(5)
_TAG = np.uint64(61)  # the shift of the tag in wide rows
_UNTAGGED = np.uint64((1 << 61) - 1)
_LOW_HALF = np.uint64(0xFFFFFFFF)
_LOW_BYTE = np.uint64(0xFF)
_U16 = np.uint64(16)
_BUSY = np.uint64(0xFE << 56)  # the high word of a row that is being written; no key has it
_WALK = 16  # rows, starting at the key's bucket, that may hold it

_MAX_CACHED = 512  # longer pretokens (in bytes) are not cached
MAX_ROWS = 1 << 21  # 64 MiB
ID_ARENA = 1 << 21
BYTE_ARENA = 1 << 23

# used: int64, the number of elements in use; pretokens that do not fit an arena any more are not cached
ROWS, _ARENA_IDS, _ARENA_BYTES = range(3)


# The arguments of compiled code, as a plain tuple (see MergeTables):
#   rows        uint64, four per row; the number of rows is a power of two
#   shift       uint64, from a hash to a bucket
#   id_arena    uint32, ids of pretokens with more than four, or longer than 15 bytes
#   byte_arena  uint8, bytes of pretokens longer than 15
#   used        int64 (3,)
Cache = tuple[np.ndarray, np.uint64, np.ndarray, np.ndarray, np.ndarray]


class PretokenCache:
    """An empty table of `num_rows` rows; `larger` returns a larger one with the same content."""

    def __init__(self, num_rows: int):
        self.num_rows = num_rows
        self._allocate(np.empty(ID_ARENA, np.uint32), np.empty(BYTE_ARENA, np.uint8), np.zeros(3, np.int64))

    def _allocate(self, id_arena: np.ndarray, byte_arena: np.ndarray, used: np.ndarray) -> None:
        shift = np.uint64(64 - ((self.num_rows // 2).bit_length() - 1))
        self.used = used
        self.compiled: Cache = (aligned_words(4 * self.num_rows), shift, id_arena, byte_arena, used)

    def is_full(self) -> bool:
        """Whether the table should be replaced by a larger or a new one."""
        share = 2 if self.num_rows < MAX_ROWS else 1.3
        return share * self.used[ROWS] > self.num_rows or self._arenas_are_full()

    def _arenas_are_full(self) -> bool:
        _, _, id_arena, byte_arena, used = self.compiled
        return bool(used[_ARENA_IDS] > len(id_arena) or used[_ARENA_BYTES] + 8 > len(byte_arena))

    def larger(self) -> "PretokenCache | None":
        """A table four times as large with all rows of this one, which other threads may still use (rows that they add
        are lost); None if it cannot grow."""
        if self.num_rows >= MAX_ROWS or self._arenas_are_full():
            return None
        grown = object.__new__(PretokenCache)
        grown.num_rows = min(4 * self.num_rows, MAX_ROWS)
        _, _, id_arena, byte_arena, used = self.compiled
        # Both tables share the arenas and `used`: old rows point into them, and both add to them.
        grown._allocate(id_arena, byte_arena, used)
        used[ROWS] = 0
        enable_cache(_copy)
        _copy(self.compiled, grown.compiled)
        return grown


@intrinsic
def is_narrow(typingctx, out):
    """Whether an array holds 16-bit ids, as a compile-time constant."""

    def codegen(context, builder, signature, args):
        return ir.Constant(ir.IntType(1), int(out.dtype.bitwidth == 16))

    return types.boolean(out), codegen


@njit(inline="always")
def add_row(rows, used, bucket, low, high, ids, more):
    """Writes a row at the first free position; if there is none, the pretoken is not cached."""
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
    """Adds all rows of one table to another, which no other thread uses yet."""
    rows = source[0]
    for row in range(0, rows.shape[0], 4):
        high = load_acquire(rows, row + HIGH)
        if high != U0 and high != _BUSY:
            low = load_u64(rows, row + LOW)
            bucket = np.int64((key_hash(low, high) >> target[1]) << np.uint64(3))
            ids, more = load_u64(rows, row + IDS), load_u64(rows, row + MORE)
            add_row(target[0], target[4], bucket, low, high, ids, more)


@njit(inline="always")
def row_tag(out, ids, more):
    """The number of ids of a row, or IN_ARENA."""
    return more & _LOW_BYTE if is_narrow(out) else ids >> _TAG


@njit(inline="always")
def store_four(out, n, ids, more):
    """Writes all four id fields of a row to out[n : n + 4], however many ids it has."""
    if is_narrow(out):
        store_u64(out, n, ids)
    else:
        store_u64(out, n, ids & _UNTAGGED)
        store_u64(out, n + 2, more)


@njit(inline="always")
def pack_ids(out, at, n):
    """(IDS, MORE) of a row for the up to four ids in out[at : at + n]; writes zeros after them."""
    for k in range(n, 4):
        out[at + k] = 0
    if is_narrow(out):
        return load_u64(out, at), np.uint64(n)
    return load_u64(out, at) | np.uint64(n) << _TAG, load_u64(out, at + 2)


@njit(inline="always")
def _arena_entry(out, rows, row):
    """(number of ids, their offset, offset of the bytes) of a row with the tag IN_ARENA."""
    ids, more = load_u64(rows, row + IDS), load_u64(rows, row + MORE)
    if is_narrow(out):
        number, offsets = more >> U8, ids
    else:
        number, offsets = ids & _UNTAGGED, more
    return np.int64(number), np.int64(offsets & _LOW_HALF), np.int64(offsets >> U32)


@njit(inline="always")
def find_row(rows, byte_arena, data, start, length, low, high, bucket, out):
    """The row of a pretoken, searched in all its possible positions, or -1."""
    row = bucket
    for _ in range(_WALK):
        found = load_acquire(rows, row + HIGH)
        if found == U0:
            return -1
        if found == high and load_u64(rows, row + LOW) == low:
            if high < LONG_MARK:
                return row
            if same_bytes(byte_arena, _arena_entry(out, rows, row)[2], data, start, length):
                return row
        row = (row + 4) & (rows.shape[0] - 1)
    return -1


@njit(inline="always")
def copy_row_ids(rows, id_arena, row, out, n):
    """Writes the ids of any row to out[n:]; returns the new n."""
    ids, more = load_u64(rows, row + IDS), load_u64(rows, row + MORE)
    tag = row_tag(out, ids, more)
    if tag < IN_ARENA:
        store_four(out, n, ids, more)
        return n + np.int64(tag)
    number, offset, _ = _arena_entry(out, rows, row)
    for k in range(number):
        out[n + k] = id_arena[offset + k]
    return n + number


@njit(inline="always")
def remember(rows, id_arena, byte_arena, used, data, start, length, low, high, bucket, out, at, n):
    """Adds a row for a pretoken whose ids are in out[at : at + n], unless an arena is full or the pretoken is very
    long."""
    if n <= 4 and length <= MAX_PACKED:
        ids, more = pack_ids(out, at, n)
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
