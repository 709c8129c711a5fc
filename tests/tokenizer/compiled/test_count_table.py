"""The count table compared with a Counter: growing, merging, order."""

import itertools
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lmfast.tokenizer.chunks import padded
from lmfast.tokenizer.compiled.count_table import CountTable


def filled(words: list[bytes]) -> CountTable:
    table = CountTable()
    data, bounds = padded(b"".join(words)), np.cumsum([len(word) for word in words], dtype=np.int64)
    done = 0
    while done < len(bounds):
        start = int(bounds[done - 1]) if done else 0
        done = table.add(data, start, bounds, done, len(bounds))
        if done < len(bounds):
            table.reserve(len(table) + 1, len(words[done]) + 8)
    return table


def contents(table: CountTable) -> dict[bytes, int]:
    data, offsets, counts = table.sorted()
    words = [data[a:b].tobytes() for a, b in itertools.pairwise(offsets)]
    assert words == sorted(words)
    return dict(zip(words, counts.tolist()))


words = st.lists(
    st.binary(min_size=1, max_size=40) | st.sampled_from([b"a", b"a\0", b"a" * 15, b"a" * 16]), max_size=80
)


@settings(deadline=None, derandomize=True, max_examples=80)
@given(words, words)
def test_counts_and_merged_counts_equal_a_counters(left, right):
    table = filled(left)
    assert contents(table) == Counter(left)
    table.merge(filled(right))
    assert contents(table) == Counter(left + right)


def test_it_grows_past_its_first_rows_and_arena():
    many = [b"%d" % i for i in range(60_000)] + [b"long pretoken number %d" % i for i in range(30_000)]
    table = filled(many)
    assert contents(table) == Counter(many)
    table.clear()
    assert len(table) == 0 and contents(table) == {}


def test_order_by_bytes_with_15_shared_bytes():
    """Prefixes, zeros, and long pretokens that differ only near the end."""
    words = [
        b"a",
        b"a\0",
        b"",
        b"a" * 15,
        b"a" * 16,
        b"a" * 15 + b"\0",
        b"a" * 40 + b"b",
        b"a" * 40 + b"a",
        b"\xff" * 20,
    ]
    words = [word for word in words if word]
    table = CountTable()
    bounds = np.cumsum([len(word) for word in words])
    table.add(padded(b"".join(words)), 0, bounds, 0, len(bounds))
    data, offsets, counts = table.sorted()
    assert [data[a:b].tobytes() for a, b in itertools.pairwise(offsets)] == sorted(words)
    assert counts.tolist() == [1] * len(words)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(words, words)
def test_sorted_counts_are_added_like_a_table(left, right):
    table, sorted_counts = filled(left), filled(right).sorted()
    table.add_counted(*sorted_counts)
    assert contents(table) == Counter(left + right)
    table.add_counted(*sorted_counts)
    assert contents(table) == Counter(left + right + right)
