"""The hash table that counts pretokens: open addressing over 16-byte keys.

In: text (uint8, readable after its end) and the ends of its pretokens. Out: distinct pretokens and their counts
(int64), sorted by bytes. A pretoken of up to 15 bytes is its own key; the key of a longer one is a hash, and its
bytes are stored in an arena for comparison. counting.py lists what each choice costs.
"""

import numpy as np
from numba import njit

from lmfast.tokenizer.compiled.code_cache import enable_cache
from lmfast.tokenizer.compiled.intrinsics import (
    LONG_MARK,
    MAX_PACKED,
    PADDING,
    U0,
    U1,
    U56,
    aligned_words,
    key_hash,
    load_u64,
    long_hash,
    packed_key,
    pretoken_key,
    same_bytes,
    store_u64,
)

# A row of a table, four uint64: key (low, high), count, offset in the arena (long pretokens only).
LOW, HIGH, COUNT, OFFSET = range(4)
ROW_BYTES = 32
FIRST_ROWS = 1 << 15  # 1 MiB; grows by itself
FIRST_ARENA = 1 << 18


@njit(nogil=True)
def _add(table, shift, arena, used, low, high, count, data, start):
    """Adds `count` to a key; the bytes of a long pretoken are at data[start:]. `used` is (rows, arena
    bytes) in use. The table must have an empty row, and the arena length + 8 bytes.

    A row found away from its home slot is swapped with the row there once it is the more frequent one, which
    linear probing without deletion allows: frequent pretokens are then found by the first probe."""
    mask = np.uint64((table.shape[0] >> 2) - 1)
    is_long = high >= LONG_MARK
    length = np.int64(high & (LONG_MARK - U1))
    slot = key_hash(low, high) >> shift
    home = np.int64(slot << np.uint64(2))
    while True:
        row = np.int64(slot << np.uint64(2))
        if table[row + HIGH] == U0:
            break
        if (
            table[row + LOW] == low
            and table[row + HIGH] == high
            and (not is_long or same_bytes(arena, np.int64(table[row + OFFSET]), data, start, length))
        ):
            table[row + COUNT] += count
            if table[row + COUNT] > table[home + COUNT]:
                for k in range(4):
                    table[row + k], table[home + k] = table[home + k], table[row + k]
            return
        slot = (slot + U1) & mask
    table[row + LOW] = low
    table[row + HIGH] = high
    table[row + COUNT] = count
    used[0] += 1
    if is_long:
        table[row + OFFSET] = np.uint64(used[1])
        for k in range(length):
            arena[used[1] + k] = data[start + k]
        used[1] += length


@njit(nogil=True)
def _count_batch(data, start, bounds, first, count, table, shift, arena, used):
    """Counts the pretokens that end at `bounds[first:count]`, the first of which begins at `start`. Returns
    `count`, or the index of the first pretoken for which the table is full."""
    row_limit = table.shape[0] >> 3  # half full
    for k in range(first, count):
        end = np.int64(load_u64(bounds, k))
        length = end - start
        if np.uint64(length) <= np.uint64(MAX_PACKED):  # unsigned, so that it is false for negative ends too
            low, high = packed_key(data, start, length)
            row = np.int64((key_hash(low, high) >> shift) << np.uint64(2))
            if (load_u64(table, row + LOW) == low) & (load_u64(table, row + HIGH) == high):
                store_u64(table, row + COUNT, load_u64(table, row + COUNT) + U1)
                start = end
                continue
        elif end < 0:
            start = -end
            continue
        else:
            low = long_hash(data, start, length)
            high = LONG_MARK | np.uint64(length)
        if used[0] >= row_limit or used[1] + length + 8 > arena.shape[0]:
            return k
        _add(table, shift, arena, used, low, high, U1, data, start)
        start = end
    return count


@njit(nogil=True)
def _merge(other, other_arena, table, shift, arena, used):
    """Adds all rows of another table; the capacity must suffice for all of them."""
    for row in range(0, other.shape[0], 4):
        if other[row + HIGH] != U0:
            start = np.int64(other[row + OFFSET])
            _add(
                table, shift, arena, used, other[row + LOW], other[row + HIGH], other[row + COUNT],
                other_arena, start,
            )  # fmt: skip


@njit(nogil=True)
def _add_counted(data, offsets, counts, table, shift, arena, used):
    """Adds pretokens with their counts; the capacity must suffice for all. `data` is readable after its end."""
    for i in range(counts.shape[0]):
        low, high = pretoken_key(data, offsets[i], offsets[i + 1] - offsets[i])
        _add(table, shift, arena, used, low, high, np.uint64(counts[i]), data, offsets[i])


@njit(nogil=True)
def _rehash(old, table, shift):
    """Inserts the rows of one table into another, which is empty and larger."""
    mask = np.uint64((table.shape[0] >> 2) - 1)
    for row in range(0, old.shape[0], 4):
        if old[row + HIGH] != U0:
            slot = key_hash(old[row + LOW], old[row + HIGH]) >> shift
            while table[np.int64(slot << np.uint64(2)) + HIGH] != U0:
                slot = (slot + U1) & mask
            for k in range(4):
                table[np.int64(slot << np.uint64(2)) + k] = old[row + k]


@njit(nogil=True)
def _gather(rows, arena, offsets, data):
    """Writes the bytes of each row's pretoken to data[offsets[i]:]."""
    for i in range(rows.shape[0]):
        at = offsets[i]
        length = offsets[i + 1] - at
        if length > MAX_PACKED:
            start = np.int64(rows[i, OFFSET])
            for k in range(length):
                data[at + k] = arena[start + k]
        else:
            for k in range(length):
                word = rows[i, k >> 3]
                data[at + k] = np.uint8((word >> np.uint64((k & 7) << 3)) & np.uint64(0xFF))


class CountTable:
    """Distinct pretokens and their counts: open addressing, at most half full, growing as needed."""

    def __init__(self):
        enable_cache(_count_batch, _merge, _rehash, _gather)
        self.arena = np.zeros(FIRST_ARENA, np.uint8)
        self.used = np.zeros(2, np.int64)  # rows, arena bytes
        self._allocate(FIRST_ROWS)

    def _allocate(self, rows: int) -> None:
        self.table = aligned_words(4 * rows)
        self.shift = np.uint64(64 - (rows.bit_length() - 1))

    def __len__(self) -> int:
        return int(self.used[0])

    @property
    def nbytes(self) -> int:
        return self.table.nbytes + self.arena.nbytes

    def nbytes_with(self, rows: int, arena_bytes: int) -> int:
        """Peak memory in bytes of growing by that many rows and bytes: the old and the new table."""
        needed = max(2 * (len(self) + rows), FIRST_ROWS)
        return self.nbytes + ROW_BYTES * (1 << (needed - 1).bit_length()) + 2 * arena_bytes

    def reserve(self, rows: int, arena_bytes: int) -> None:
        """Grows the capacity for that many more rows and bytes of long pretokens."""
        needed = 2 * (len(self) + rows)
        if needed > len(self.table) // 4:
            old = self.table
            self._allocate(1 << (needed - 1).bit_length())
            _rehash(old, self.table, self.shift)
        needed = int(self.used[1]) + arena_bytes
        if needed > len(self.arena):
            arena = np.zeros(max(needed, 2 * len(self.arena)), np.uint8)
            arena[: self.used[1]] = self.arena[: self.used[1]]
            self.arena = arena

    def add(self, data: np.ndarray, start: int, bounds: np.ndarray, first: int, count: int) -> int:
        """Counts `bounds[first:count]`; returns `count`, or the index at which the table was full."""
        return _count_batch(data, start, bounds, first, count, self.table, self.shift, self.arena, self.used)

    def merge(self, other: "CountTable") -> None:
        """Adds all of another table's counts."""
        self.reserve(len(other), int(other.used[1]) + 8)
        _merge(other.table, other.arena, self.table, self.shift, self.arena, self.used)

    def add_counted(self, data: np.ndarray, offsets: np.ndarray, counts: np.ndarray) -> None:
        """Adds distinct pretokens and their counts, in the form that `sorted` returns."""
        enable_cache(_add_counted)
        self.reserve(len(counts), int(offsets[-1]) + 8)
        readable = np.concatenate([data, np.zeros(PADDING, np.uint8)])
        _add_counted(readable, offsets, counts, self.table, self.shift, self.arena, self.used)

    def clear(self) -> None:
        """Empties the table and keeps its memory."""
        self.table[:] = 0
        self.used[:] = 0

    def sorted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(data, offsets, counts) in the order of the pretokens' bytes."""
        rows = self.table.reshape(-1, 4)
        rows = rows[rows[:, HIGH] != 0]
        rows = rows[_byte_order(rows, self.arena)]
        top = rows[:, HIGH] >> U56
        lengths = np.where(top == LONG_MARK >> U56, rows[:, HIGH] & (LONG_MARK - U1), top).astype(np.int64)
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        data = np.empty(offsets[-1], np.uint8)
        _gather(rows, self.arena, offsets, data)
        return data, offsets, rows[:, COUNT].astype(np.int64)


def _byte_order(rows: np.ndarray, arena: np.ndarray) -> np.ndarray:
    """The permutation that sorts rows (n, 4) by the bytes of their pretokens.

    Two big-endian words compare like the first 15 bytes and then the length (16 for every long pretoken); only
    long pretokens with the same first 15 bytes are compared in full."""
    first, second = rows[:, LOW].byteswap(), rows[:, HIGH].byteswap()
    is_long = rows[:, HIGH] >= LONG_MARK
    if is_long.any():
        starts = rows[is_long, OFFSET].astype(np.int64)
        heads = arena[starts[:, None] + np.arange(16)].view(">u8")
        first[is_long] = heads[:, 0]
        second[is_long] = heads[:, 1] & np.uint64(0xFFFFFFFFFFFFFF00) | np.uint64(16)
    order = np.argsort(first)
    # Most first words are unique; only runs of equal ones are also sorted by the second word.
    ties = first[order[1:]] == first[order[:-1]]
    tied = np.flatnonzero(np.concatenate(([False], ties)) | np.concatenate((ties, [False])))
    members = order[tied]
    order[tied] = members[np.lexsort((second[members], first[members]))]

    same = (first[order[1:]] == first[order[:-1]]) & (second[order[1:]] == second[order[:-1]])
    at = np.flatnonzero(same)
    for run in np.split(at, np.flatnonzero(np.diff(at) > 1) + 1) if len(at) else []:
        group = order[run[0] : run[-1] + 2]

        def text(i):
            start, length = int(rows[i, OFFSET]), int(rows[i, HIGH] & (LONG_MARK - U1))
            return arena[start : start + length].tobytes()

        order[run[0] : run[-1] + 2] = sorted(group, key=text)
    return order
