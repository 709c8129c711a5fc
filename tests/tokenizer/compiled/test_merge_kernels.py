"""All ways to merge a pretoken, compared with the oracle, which applies one merge at a time."""

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from lmfast.tokenizer.chunks import padded
from lmfast.tokenizer.compiled.intrinsics import aligned_words
from lmfast.tokenizer.compiled.merge_kernels import (
    HUGE,
    SHORT,
    _merge_by_heap,
    _merge_huge,
    merge_long,
    merge_short,
)
from lmfast.tokenizer.compiled.merge_tables import merge_tables
from tests.tokenizer import oracle


@njit
def _short(data, length, tables, values, out):
    return merge_short(data, 0, length, tables, values, out, 0)


@njit
def _long(data, length, tables, out):
    return merge_long(data, 0, length, tables, out, 0)


def check(word: bytes, merges: list[tuple[bytes, bytes]], vocab: dict[bytes, int], times: int = 1) -> None:
    """`word`, repeated: the oracle, whose time is quadratic, sees it once, so no merge may cross a repetition."""
    triples = np.array([[vocab[a], vocab[b], vocab[a + b]] for a, b in merges], np.int64).reshape(-1, 3)
    tables = merge_tables(triples, np.array([vocab[bytes([byte])] for byte in range(256)], np.uint32))
    ranks = {}
    for rank, pair in enumerate(merges):
        ranks.setdefault(pair, rank)
    expected = [vocab[symbol] for symbol in oracle.merge_pretoken(word, ranks)] * times
    word *= times
    data, out = padded(word), np.zeros(len(word) + 4, np.uint32)
    assert out[: _long(data, len(word), tables, out)].tolist() == expected
    if len(word) <= SHORT:
        assert out[: _short(data, len(word), tables, aligned_words(2 * SHORT), out)].tolist() == expected


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.text(alphabet="ab", min_size=1, max_size=100), st.integers(0, 2**32))
def test_few_letters_and_many_overlapping_merges(text, seed):
    """Ranks independent of lengths, repeated pairs, the same token from two pairs."""
    rng = random.Random(seed)
    symbols, merges = [b"a", b"b"], []
    while len(merges) < 14:
        merges.append((rng.choice(symbols), rng.choice(symbols)))
        symbols.append(b"".join(merges[-1]))
    tokens = list(dict.fromkeys([*(bytes([byte]) for byte in range(256)), *symbols]))
    rng.shuffle(tokens)
    for word in (text.encode(), text.encode()[:SHORT], text.encode()[:1]):
        check(word, merges, {token: number for number, token in enumerate(tokens)})


def test_lengths_around_the_switch_and_no_merges():
    tokens = {bytes([byte]): byte for byte in range(256)}
    for length in (1, 2, 63, 64, 65, 300):
        check(b"ab" * length, [], tokens)
        more = tokens | {b"aa": 256, b"aaaa": 257, b"aaa": 258}
        check(b"a" * length, [(b"a", b"a"), (b"aa", b"aa"), (b"aa", b"a")], more)


def test_thousands_of_merges_are_all_found():
    """More than one word of the filter can represent: pairs of bytes in random order."""
    pairs = [(bytes([a]), bytes([b])) for a in range(256) for b in range(0, 256, 7)]
    random.Random(8).shuffle(pairs)
    tokens = {bytes([byte]): byte for byte in range(256)} | {a + b: 256 + i for i, (a, b) in enumerate(pairs)}
    for word in (bytes(range(256)), bytes(range(0, 256, 7)) * 2, b"\x03\x00\x07\x0e"):
        check(word, pairs, tokens)


@njit
def _by_heap(data, length, tables, out):
    return _merge_by_heap(data, 0, length, tables, out, 0)


@njit
def _by_lists(data, length, tables, out):
    return _merge_huge(data, 0, length, tables, out, 0)


def learnt_tables(rng: random.Random, num_merges: int):
    """Merges over four letters whose parts come before them, as after training."""
    symbols, triples, seen = [b"a", b"b", b"c", b"d"], [], set()
    ids = {bytes([byte]): byte for byte in range(256)}
    while len(triples) < num_merges:
        left, right = rng.choice(symbols), rng.choice(symbols)
        if left + right in ids or (left, right) in seen or len(left + right) > 40:
            continue
        seen.add((left, right))
        ids[left + right] = len(ids)
        symbols.append(left + right)
        triples.append((ids[left], ids[right], ids[left + right]))
    return merge_tables(np.array(triples, np.int64), np.arange(256, dtype=np.uint32))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 120), st.integers(2, 3000))
def test_lists_by_rank_and_the_heap_agree(seed, num_merges, length):
    rng = random.Random(seed)
    tables = learnt_tables(rng, num_merges)
    assert tables[4][2] == num_merges
    kinds = (lambda: rng.choice(b"abcd"), lambda: 0x61, lambda: rng.choice(b"aaab"))
    word = bytes(kinds[seed % 3]() for _ in range(length))
    data = padded(word)
    first, second = np.zeros(length + 4, np.uint32), np.zeros(length + 4, np.uint32)
    n = _by_heap(data, length, tables, first)
    assert _by_lists(data, length, tables, second) == n
    assert first[:n].tolist() == second[:n].tolist()


def test_huge_pretokens_with_merges_of_lower_rank():
    """(ab, a) comes before (a, b): ranks are not in order, so the heap must be used."""
    tokens = {bytes([byte]): byte for byte in range(256)} | {b"aba": 256, b"ab": 257}
    merges = [(b"ab", b"a"), (b"a", b"b")]
    triples = np.array([[tokens[a], tokens[b], tokens[a + b]] for a, b in merges], np.int64)
    assert merge_tables(triples, np.arange(256, dtype=np.uint32))[4][2] == 0
    check(b"abab", merges, tokens, HUGE // 4)
    check(b"aaaa", [(b"a", b"a"), (b"aa", b"aa")], tokens | {b"aa": 256, b"aaaa": 257}, HUGE // 4)
