"""A cache too small for anything still gives the right ids."""

import random

import numpy as np

from lmfast.tokenizer import encoding, pretoken_cache
from lmfast.tokenizer.encoding import Encoder
from lmfast.tokenizer.patterns import get_pattern
from tests.tokenizer.test_encoding import LESSON, encoder, lesson
from tests.tokenizer.test_scanner import HARD


def test_a_cache_that_overflows_all_the_time_changes_nothing(monkeypatch):
    monkeypatch.setattr(encoding, "MAX_ROWS", 1 << 4)
    monkeypatch.setattr(pretoken_cache, "ID_ARENA", 600)
    monkeypatch.setattr(pretoken_cache, "BYTE_ARENA", 700)
    small = Encoder(*lesson("gpt2"), get_pattern("gpt2"))
    rng = random.Random(7)
    text = b"".join(
        rng.choice([*HARD, b" the", b" internationalisation", LESSON[200:300]]) for _ in range(3000)
    )
    assert np.array_equal(small.encode(text), encoder().encode(text))
