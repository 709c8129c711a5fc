"""streaming.py: pieces of a text that arrives in arbitrary chunks encode to the ids of the whole text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmfast.tokenizer import streaming
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.plain_text import Boundaries
from lmfast.tokenizer.streaming import safe_pieces

SPECIAL = ["<|endoftext|>", "<|endoftext|><|pad|>", "<|pad|>", " the "]
MERGES = [
    (b"a", b"a"),
    (b"t", b"h"),
    (b"th", b"e"),
    (b" ", b"the"),
    (b"1", b"2"),
    (b"\n", b"\n"),
    (b"'", b"s"),
]
VOCAB = {i: bytes([i]) for i in range(256)} | {256 + i: a + b for i, (a, b) in enumerate(MERGES)}
PATTERNS = ["gpt2", "cl100k", "o200k", r"[a-z]+|[^a-z]+"]
WORDS = [
    *SPECIAL,
    "<|endof",
    "text|>",
    "a",
    "aa",
    " the",
    "the ",
    "12",
    "'s",
    "\n",
    " ",
    "é",
    "日",
    "\ud800",
    "\r\n",
    ".",
]


@pytest.fixture(scope="module", params=PATTERNS)
def tokenizer(request) -> Tokenizer:
    return Tokenizer(VOCAB, MERGES, SPECIAL, request.param)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(st.lists(st.sampled_from(WORDS), max_size=80), st.integers(1, 40), st.integers(1, 64))
def test_any_chunking_gives_the_same_ids(tokenizer, words, chunk, piece):
    text = "".join(words)
    before = streaming.PIECE_BYTES
    streaming.PIECE_BYTES = piece
    try:
        pieces = [text[i : i + chunk] for i in range(0, len(text), chunk)]
        assert list(tokenizer.encode_iterable(pieces)) == tokenizer.encode(text)
        assert list(tokenizer.encode_iterable(iter(words), "none")) == tokenizer.encode(text, "none")
    finally:
        streaming.PIECE_BYTES = before


def test_memory_is_constant():
    largest, total = 0, 0
    line = "Once upon a time there was a fox.\n"
    pattern = Tokenizer(VOCAB, MERGES, SPECIAL).pattern
    for piece in safe_pieces((line for _ in range(20_000)), Boundaries([]), pattern):
        largest, total = max(largest, len(piece)), total + len(piece)
    assert total == 20_000 * len(line)
    assert largest < 2 * streaming.PIECE_BYTES


def test_a_run_without_cuts_is_one_piece_in_linear_time():
    text = b"x" * 1_000_000
    pattern = Tokenizer(VOCAB, MERGES).pattern
    assert list(
        safe_pieces((text[i : i + 1000] for i in range(0, len(text), 1000)), Boundaries([]), pattern)
    ) == [text]


def test_bytes_that_are_not_text():
    data = np.random.default_rng(0).integers(0, 256, 300_000).astype(np.uint8).tobytes()
    tokenizer = Tokenizer(VOCAB, MERGES, SPECIAL)
    assert list(tokenizer.encode_iterable([data[:7], data[7:70_000], data[70_000:]])) == tokenizer.encode(
        data
    )
