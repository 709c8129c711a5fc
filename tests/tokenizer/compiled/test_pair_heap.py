"""pair_heap.py compared with `sorted`: equal counts, shared prefixes, prefixes of each other."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lmfast.tokenizer.compiled.pair_heap import sift_down, sift_up

HARD = [
    b"a",
    b"a\0",
    b"a\0\0",
    b"abcdefgh",
    b"abcdefgh\0",
    b"abcdefghi",
    b"abcdefgi",
    b"\xff",
    b"\0",
    b"\0\0",
]


def token_tables(tokens: list[bytes]):
    text = np.frombuffer(b"".join(tokens), np.uint8)
    length = np.array([len(token) for token in tokens], np.int64)
    prefix = np.array([int.from_bytes(token[:8].ljust(8, b"\0"), "big") for token in tokens], np.uint64)
    return text, np.cumsum(length) - length, length, prefix


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(0, len(HARD) - 1), st.integers(0, len(HARD) - 1)),
        unique_by=lambda row: row[1:],
        max_size=60,
    )
)
def test_leaves_in_order(rows):
    tables = token_tables(HARD)
    pairs = np.zeros((len(rows) + 1, 4), np.int64)
    heap = np.zeros((len(rows) + 1, 2), np.int64)
    for i, (count, a, b) in enumerate(rows):
        pairs[i, 0] = a << 32 | b
        heap[i] = count, i
        sift_up(heap, i, pairs, tables)
    left = []
    for size in range(len(rows), 0, -1):
        left.append(rows[heap[0, 1]])
        heap[0] = heap[size - 1]
        sift_down(heap, size - 1, pairs, tables)
    assert left == sorted(rows, key=lambda row: (row[0], HARD[row[1]], HARD[row[2]]), reverse=True)
