"""A table too small for anything still gives the right ids, and so does one that many threads write."""

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lmfast.tokenizer import encoding, pretoken_cache
from lmfast.tokenizer.encoding import Encoder
from lmfast.tokenizer.patterns import get_pattern
from lmfast.tokenizer.pretoken_cache import ROWS
from tests.tokenizer.test_encoding import LESSON, encoder, lesson
from tests.tokenizer.test_scanner import HARD


def wide_lesson():
    """The lesson with an id that needs more than 16 bits, which changes how rows are laid out."""
    vocab, merges, specials = lesson("gpt2")
    return vocab, merges, {**specials, "<|far|>": 70_000}


def limit(monkeypatch, rows=1 << 21, ids=1 << 21, num_bytes=1 << 23):
    monkeypatch.setattr(encoding, "MAX_ROWS", rows)
    monkeypatch.setattr(pretoken_cache, "MAX_ROWS", rows)
    monkeypatch.setattr(pretoken_cache, "ID_ARENA", ids)
    monkeypatch.setattr(pretoken_cache, "BYTE_ARENA", num_bytes)


def hard_text(seed: int, pieces: int = 3000) -> bytes:
    rng = random.Random(seed)
    return b"".join(
        rng.choice([*HARD, b" the", b" internationalisation", LESSON[200:300]])
        if rng.random() < 0.7
        else b" " + bytes(rng.choices(b"abcdeht", k=rng.randint(1, 25)))
        for _ in range(pieces)
    )


@pytest.mark.parametrize("made_of", [lambda: lesson("gpt2"), wide_lesson])
@pytest.mark.parametrize("limits", [{"rows": 1 << 4}, {"ids": 600}, {"num_bytes": 700}])
def test_a_table_that_overflows_all_the_time_changes_nothing(monkeypatch, made_of, limits):
    limit(monkeypatch, **limits)
    small = Encoder(*made_of(), get_pattern("gpt2"))
    first = small._cache
    for seed in range(4):
        text = hard_text(seed)
        assert np.array_equal(small.encode(text), encoder().encode(text))
    assert small._cache is not first


@pytest.mark.parametrize("made_of", [lambda: lesson("gpt2"), wide_lesson])
def test_a_table_grows_and_keeps_what_it_has(made_of):
    growing = Encoder(*made_of(), get_pattern("gpt2"))
    first = growing._cache
    words = [f" {letter}{number}" for letter in "abc" for number in range(first.num_rows)]
    words = [word.encode() + b"x" for word in words]
    text = b" ".join(words)
    ids = growing.encode(text)
    assert growing._cache.num_rows == 4 * first.num_rows
    kept = int(growing._cache.used[ROWS])
    assert np.array_equal(growing.encode(text), ids)
    again = int(growing._cache.used[ROWS])
    growing.encode(text)
    assert kept <= again == int(growing._cache.used[ROWS])  # all of them are known by now


@pytest.mark.parametrize("rows", [1 << 9, 1 << 21])
def test_threads_that_write_one_table(monkeypatch, rows):
    """More threads than cores, the same words at once, tables that are replaced under them."""
    limit(monkeypatch, rows=rows)
    shared = Encoder(*lesson("gpt2"), get_pattern("gpt2"))
    texts = [hard_text(seed % 3, 6000) for seed in range(12)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(shared.encode, texts))
    for text, ids in zip(texts, found):
        assert np.array_equal(ids, encoder().encode(text))
