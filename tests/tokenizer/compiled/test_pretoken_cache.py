"""A table that is far too small still gives the right ids, as does one that many threads write to."""

import multiprocessing
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lmfast.tokenizer import encoding
from lmfast.tokenizer.chunks import padded
from lmfast.tokenizer.compiled import pretoken_cache
from lmfast.tokenizer.compiled.intrinsics import key_hash, long_hash, packed_key
from lmfast.tokenizer.compiled.pretoken_cache import ROWS
from lmfast.tokenizer.encoding import Encoder
from lmfast.tokenizer.patterns import get_pattern
from tests.tokenizer import oracle
from tests.tokenizer.compiled.test_scanner import HARD
from tests.tokenizer.test_encoding import LESSON, encoder, lesson


def wide_lesson():
    """The lesson with an id that needs more than 16 bits, which changes the layout of rows."""
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
def test_an_overflowing_table_gives_the_same_ids(monkeypatch, made_of, limits):
    limit(monkeypatch, **limits)
    small = Encoder(*made_of(), get_pattern("gpt2"))
    first = small._cache
    for seed in range(4):
        text = hard_text(seed)
        assert np.array_equal(small.encode(text), encoder().encode(text))
    assert small._cache is not first


@pytest.mark.parametrize("made_of", [lambda: lesson("gpt2"), wide_lesson])
def test_a_growing_table_keeps_its_rows(made_of):
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
    """More threads than cores, the same words at once, tables that are replaced while in use."""
    limit(monkeypatch, rows=rows)
    shared = Encoder(*lesson("gpt2"), get_pattern("gpt2"))
    texts = [hard_text(seed % 3, 6000) for seed in range(12)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(shared.encode, texts))
    for text, ids in zip(texts, found):
        assert np.array_equal(ids, encoder().encode(text))


def exit_with_ids_that_are_right(shared, text):
    raise SystemExit(0 if np.array_equal(shared.encode(text), encoder().encode(text)) else 1)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_a_child_forked_while_the_table_is_replaced(monkeypatch):
    """A lock held by a thread of the parent is never released in the child, which must not wait for it."""
    limit(monkeypatch, rows=1 << 4)
    shared = Encoder(*lesson("gpt2"), get_pattern("gpt2"))
    text = hard_text(1, 300)
    assert np.array_equal(shared.encode(text), encoder().encode(text))
    child = multiprocessing.get_context("fork").Process(
        target=exit_with_ids_that_are_right, args=(shared, text)
    )
    with shared._cache_lock:
        child.start()
    child.join(20)
    child.kill()
    child.join()
    assert child.exitcode == 0


def colliding_keys() -> tuple[list[bytes], list[bytes]]:
    """40 pretokens of 8 bytes that share a bucket, and 40 of 16 bytes that share a hash, found by inverting it."""
    word, mix = 1 << 64, 0x9E3779B97F4A7C15
    undone = pow(mix, -1, word)
    short = [((k * undone % word) ^ 1 << 24).to_bytes(8, "little") for k in range(40)]

    def first_step(number):
        mixed = ((16 * 0xD6E8FEB86659FD93 ^ number) * mix) % word
        return mixed ^ mixed >> 32

    long = [
        number.to_bytes(8, "little") + (first_step(number) ^ 0x6162636465666768).to_bytes(8, "little")
        for number in range(40)
    ]
    return short, long


@pytest.mark.parametrize("made_of", [lambda: lesson("gpt2"), wide_lesson])
def test_keys_that_collide(made_of):
    short, long = colliding_keys()
    hashes = [key_hash(*map(np.uint64, packed_key(padded(text), 0, 8))) for text in short]
    assert len({int(number) >> 40 for number in hashes}) == 1
    assert len({int(long_hash(padded(text), 0, 16)) for text in long}) == 1
    one_pretoken = get_pattern(r"[\s\S]+")
    compiled = Encoder(*made_of(), one_pretoken)
    for text in [*short, *long] * 2:
        assert compiled.encode(text).tolist() == oracle.encode(text, *made_of(), one_pretoken.regex)


def test_pretokens_that_begin_with_nuls():
    """The first word of their rows is zero, as in an empty row."""
    texts = [b"\0" * i + tail for i in range(1, 40) for tail in (b"", b"!", b"!" * 8, b"?!" * 5)]
    texts += [b"!" * 8 + text for text in texts]
    compiled = Encoder(*lesson("gpt2"), get_pattern("gpt2"))
    for text in texts * 2:
        assert compiled.encode(text).tolist() == oracle.encode(
            text, *lesson("gpt2"), get_pattern("gpt2").regex
        )
