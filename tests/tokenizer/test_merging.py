"""merging.py compared with the definition: count all pairs in each round and take `max` by (count, pair)."""

import logging
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmfast.tokenizer import merging, plain_training
from lmfast.tokenizer.counting import PretokenCounts
from lmfast.tokenizer.merging import learn_merges


def pretoken_counts(words: dict[bytes, int]) -> PretokenCounts:
    ordered = sorted(words)
    offsets = np.zeros(len(ordered) + 1, np.int64)
    np.cumsum([len(word) for word in ordered], out=offsets[1:])
    return PretokenCounts(
        data=np.frombuffer(b"".join(ordered), np.uint8),
        offsets=offsets,
        counts=np.array([words[word] for word in ordered], np.int64),
        total_bytes=int(offsets[-1]),
    )


def naive_merges(words: dict[bytes, int], num_merges: int) -> list[tuple[bytes, bytes]]:
    split = {word: [word[i : i + 1] for i in range(len(word))] for word in words}
    merges = []
    while len(merges) < num_merges:
        count: dict[tuple[bytes, bytes], int] = {}
        for word, tokens in split.items():
            for pair in pairwise(tokens):
                count[pair] = count.get(pair, 0) + words[word]
        if not count:
            break
        best = max(count, key=lambda pair: (count[pair], pair))
        merges.append(best)
        for word, tokens in split.items():
            merged, i = [], 0
            while i < len(tokens):
                if tuple(tokens[i : i + 2]) == best:
                    merged.append(best[0] + best[1])
                    i += 2
                else:
                    merged.append(tokens[i])
                    i += 1
            split[word] = merged
    return merges


def check(words: dict[bytes, int], num_merges: int = 10_000) -> list[tuple[bytes, bytes]]:
    merges = learn_merges(pretoken_counts(words), num_merges)
    assert merges == naive_merges(words, num_merges)
    assert merges == plain_training.learn_merges(dict(sorted(words.items())), num_merges)
    return merges


def word_tables(alphabet: bytes, longest: int, highest: int):
    letter = st.sampled_from([alphabet[i : i + 1] for i in range(len(alphabet))])
    word = st.lists(letter, min_size=1, max_size=longest).map(b"".join)
    return st.dictionaries(word, st.integers(1, highest), max_size=12)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(word_tables(b"ab", 14, 4), st.integers(0, 30))
def test_two_letters_make_runs_overlaps_and_ties(words, num_merges):
    check(words, num_merges)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(word_tables(b"\x00\x01a\xff", 24, 3))
def test_zero_bytes_and_prefixes(words):
    check(words)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(word_tables(b"abcdefgh", 10, 10**13))
def test_counts_beyond_32_bits(words):
    check(words)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.dictionaries(st.binary(min_size=1, max_size=9), st.integers(1, 1000), max_size=60))
def test_any_bytes(words):
    check(words)


def test_ties_go_to_the_greater_pair_of_byte_strings():
    assert check({b"ab": 3, b"ba": 3, b"zz": 2})[:2] == [(b"b", b"a"), (b"a", b"b")]


def test_a_prefix_is_less_than_its_continuation():
    # Equal counts: (a\0, y) is greater than (a, z), for b"a\0" is greater than b"a". Longer ones, too.
    words = {b"a\0": 9, b"a\0y": 5, b"az": 5}
    assert check(words)[1] == (b"a\0", b"y")
    long = b"abcdefgh"
    check(
        {
            long: 100,
            long + b"\0": 50,
            long + b"\0\0": 20,
            long + b"z": 7,
            long + b"\0z": 7,
            long + b"\0\0z": 7,
        }
    )


@pytest.mark.parametrize("length", [2, 3, 4, 5, 6, 7, 8, 9, 31, 32, 33])
def test_runs_of_one_letter(length):
    check({b"a" * length: 2, b"b" + b"a" * length: 1, b"a" * (length - 1) + b"b": 1})


@pytest.mark.parametrize("words", [{}, {b"": 4}, {b"a": 5, b"b": 3}, {b"ab": 0}])
def test_nothing_to_merge(words):
    assert learn_merges(pretoken_counts(words), 10) == [] == plain_training.learn_merges(words, 10)


def test_stops_when_no_pair_is_left():
    assert check({b"abc": 2}, 1000) == [(b"b", b"c"), (b"a", b"bc")]


def zipf_words(seed: int, distinct: int) -> dict[bytes, int]:
    rng = np.random.default_rng(seed)
    lengths = rng.geometric(0.2, distinct)
    letters = 97 + np.minimum(rng.geometric(0.15, lengths.sum()), 26) - 1
    data = letters.astype(np.uint8).tobytes()
    ends = np.cumsum(lengths)
    return {data[end - n : end]: int(2_000_000 / (i + 1)) for i, (end, n) in enumerate(zip(ends, lengths))}


def test_many_words_with_lowered_thresholds_and_growth():
    # Zipf-like counts start the threshold high, so it is lowered several times, and tables grow in between.
    words = zipf_words(seed=7, distinct=2500)
    merges = check(words, 400)
    assert len(merges) == 400
    everything = learn_merges(pretoken_counts(words), 10**6)
    assert everything[:400] == merges
    assert plain_training.learn_merges(words, 10**6) == everything
    tokens = [a + b for a, b in everything]
    assert len(set(tokens)) == len(tokens), "two merges made the same byte string"
    assert {word for word in words if len(word) > 1} <= set(tokens)


def test_fewer_merges_are_a_prefix_of_more():
    counts = pretoken_counts(zipf_words(seed=3, distinct=1500))
    all_merges = learn_merges(counts, 10**6)
    for wanted in (1, 2, 17, 300, 1000):
        assert learn_merges(counts, wanted) == all_merges[:wanted]


def test_64_bit_positions(monkeypatch):
    words = zipf_words(seed=5, distinct=300)
    expected = learn_merges(pretoken_counts(words), 200)
    monkeypatch.setattr(merging, "MAX_32_BIT_LENGTH", 10)
    assert learn_merges(pretoken_counts(words), 200) == expected


@pytest.mark.parametrize("how", ["compiled", "plain"])
def test_progress_and_debug_log(caplog, how):
    learn, given = (
        (learn_merges, pretoken_counts) if how == "compiled" else (plain_training.learn_merges, dict)
    )
    words = zipf_words(seed=1, distinct=800)
    seen: list[int] = []
    merges = learn(given(words), 1200, on_merge=seen.append)
    assert seen == sorted(set(seen)) and seen[-1] == len(merges) and len(seen) >= 2
    with caplog.at_level(logging.DEBUG, logger="lmfast.tokenizer"):
        assert learn(given({b" the": 7, b" then": 2}), 2) == [(b"t", b"h"), (b"th", b"e")]
    assert "pretoken b' the': 7" in caplog.text
    assert "merge 1: b't' + b'h', 9 times" in caplog.text
