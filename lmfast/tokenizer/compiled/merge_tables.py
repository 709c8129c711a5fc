"""The lookup tables of merges: from a pair of ids to (rank, new id).

In: merges (n, 3) int64 in the order of their ranks, and the ids of the 256 bytes. Out: `MergeTables`, for the kernels in
merge_kernels.py. Most lookups find nothing; a Bloom filter answers nearly all of those without accessing the table.
"""

import numpy as np
from numba import njit

from lmfast.tokenizer.compiled.code_cache import enable_cache
from lmfast.tokenizer.compiled.intrinsics import ALL_ONES, U1, U32, aligned_words, load_u64

NO_PAIR = ALL_ONES
_MIX = np.uint64(0x9E3779B97F4A7C15)
_SIX = np.uint64(6)
_BIT = np.uint64(63)

# Lookup tables of merges, as a plain tuple (Numba takes ten times as long to recognise a named tuple at each
# call). A merge's value is rank << 32 | new id.
#   byte_ids    uint32 (256,)
#   byte_pairs  uint64 (65536,), the values of pairs of bytes, indexed by their little-endian word
#   filter      uint64, a blocked Bloom filter, two bits per pair in the word that its hash selects
#   rows        uint64, open addressing, two words per row: left << 32 | right, and the value
#   shifts      uint64 (3,): shifts from a hash to a word of the filter and to a row; the number of ranks if each
#               is above the ranks that make its parts, else 0
# The tables of a vocabulary that looks up whole pretokens have two more arrays (whole_pretokens.py).
MergeTables = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@njit(inline="always")
def _hash(left, right):
    key = np.uint64(left) << U32 | np.uint64(right)
    return key, (key ^ key >> np.uint64(29)) * _MIX


@njit(inline="always")
def _filter_bits(hashed):
    return U1 << (hashed & _BIT) | U1 << (hashed >> _SIX & _BIT)


@njit(inline="always")
def find_pair(pair_filter, rows, filter_shift, row_shift, left, right):
    """The value of a pair of ids, or NO_PAIR."""
    key, hashed = _hash(left, right)
    bits = _filter_bits(hashed)
    if pair_filter[hashed >> filter_shift] & bits != bits:
        return NO_PAIR
    mask = np.uint64((rows.shape[0] >> 1) - 1)
    slot = hashed >> row_shift
    while True:
        row = np.int64(slot << U1)
        found = load_u64(rows, row)
        if found == key:
            return load_u64(rows, row + 1)
        if found == NO_PAIR:
            return NO_PAIR
        slot = (slot + U1) & mask


@njit(nogil=True)
def _fill(tables, triples):
    """Inserts all merges (n, 3); of equal pairs the first is used."""
    byte_ids, byte_pairs, pair_filter, rows, shifts = tables
    mask = np.uint64((rows.shape[0] >> 1) - 1)
    for rank in range(triples.shape[0]):
        left, right, new = triples[rank]
        if find_pair(pair_filter, rows, shifts[0], shifts[1], left, right) != NO_PAIR:
            continue
        key, hashed = _hash(left, right)
        pair_filter[hashed >> shifts[0]] |= _filter_bits(hashed)
        slot = hashed >> shifts[1]
        while rows[np.int64(slot << U1)] != NO_PAIR:
            slot = (slot + U1) & mask
        rows[np.int64(slot << U1)] = key
        rows[np.int64(slot << U1) + 1] = np.uint64(rank) << U32 | np.uint64(new)
    for first in range(256):
        for second in range(256):
            found = find_pair(pair_filter, rows, shifts[0], shifts[1], byte_ids[first], byte_ids[second])
            byte_pairs[first | second << 8] = found


def _parts_come_first(triples: np.ndarray) -> bool:
    """Whether the parts of every merge are made by merges of lower rank only, as after training: then no merge creates
    a pair of lower rank than its own."""
    ranks = np.arange(len(triples))
    made_last = np.full(int(triples.max(initial=0)) + 1, -1)
    np.maximum.at(made_last, triples[:, 2], ranks)
    return bool((made_last[triples[:, :2]] < ranks[:, None]).all())


def merge_tables(triples: np.ndarray, byte_ids: np.ndarray) -> MergeTables:
    """Tables for merges (n, 3) int64: ids of left, right and result, in the order of their ranks."""
    enable_cache(_fill)
    row_bits = max(8, (2 * len(triples)).bit_length())
    filter_bits = row_bits - 3  # at least 16 bits per merge
    rows = aligned_words(2 << row_bits)
    rows[:] = NO_PAIR
    ordered = len(triples) if _parts_come_first(triples) else 0
    shifts = np.array([64 - filter_bits, 64 - row_bits, ordered], np.uint64)
    tables = (byte_ids, aligned_words(1 << 16), aligned_words(1 << filter_bits), rows, shifts)
    _fill(tables, triples)
    return tables
