"""Both ways to merge a pretoken, against the oracle's one merge at a time."""

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from lmfast.tokenizer.chunks import padded
from lmfast.tokenizer.intrinsics import aligned_words
from lmfast.tokenizer.merge_kernels import SHORT, merge_long, merge_short, merge_tables
from tests.tokenizer import oracle


@njit
def _short(data, length, tables, values, out):
    return merge_short(data, 0, length, tables, values, out, 0)


@njit
def _long(data, length, tables, out):
    return merge_long(data, 0, length, tables, out, 0)


def check(word: bytes, merges: list[tuple[bytes, bytes]], vocab: dict[bytes, int]) -> None:
    triples = np.array([[vocab[a], vocab[b], vocab[a + b]] for a, b in merges], np.int64).reshape(-1, 3)
    tables = merge_tables(triples, np.array([vocab[bytes([byte])] for byte in range(256)], np.uint32))
    data, out = padded(word), np.zeros(len(word) + 4, np.uint32)
    ranks = {}
    for rank, pair in enumerate(merges):
        ranks.setdefault(pair, rank)
    expected = [vocab[symbol] for symbol in oracle.merge_pretoken(word, ranks)]
    assert out[: _long(data, len(word), tables, out)].tolist() == expected
    if len(word) <= SHORT:
        assert out[: _short(data, len(word), tables, aligned_words(2 * SHORT), out)].tolist() == expected


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.text(alphabet="ab", min_size=1, max_size=100), st.integers(0, 2**32))
def test_few_letters_and_many_overlapping_merges(text, seed):
    """Ranks that say nothing about lengths, pairs given twice, the same token from two pairs."""
    rng = random.Random(seed)
    symbols, merges = [b"a", b"b"], []
    while len(merges) < 14:
        merges.append((rng.choice(symbols), rng.choice(symbols)))
        symbols.append(b"".join(merges[-1]))
    tokens = list(dict.fromkeys([*(bytes([byte]) for byte in range(256)), *symbols]))
    rng.shuffle(tokens)
    for word in (text.encode(), text.encode()[:SHORT], text.encode()[:1]):
        check(word, merges, {token: number for number, token in enumerate(tokens)})


def test_lengths_around_the_switch_and_no_merges_at_all():
    tokens = {bytes([byte]): byte for byte in range(256)}
    for length in (1, 2, 63, 64, 65, 300):
        check(b"ab" * length, [], tokens)
        more = tokens | {b"aa": 256, b"aaaa": 257, b"aaa": 258}
        check(b"a" * length, [(b"a", b"a"), (b"aa", b"aa"), (b"aa", b"a")], more)


def test_thousands_of_merges_are_all_found():
    """More than a word of the filter holds: pairs of bytes in an order of their own."""
    pairs = [(bytes([a]), bytes([b])) for a in range(256) for b in range(0, 256, 7)]
    random.Random(8).shuffle(pairs)
    tokens = {bytes([byte]): byte for byte in range(256)} | {a + b: 256 + i for i, (a, b) in enumerate(pairs)}
    for word in (bytes(range(256)), bytes(range(0, 256, 7)) * 2, b"\x03\x00\x07\x0e"):
        check(word, pairs, tokens)
