"""learn_kernels.py: pairs are counted as by a Counter, and a table that is too small is reported."""

from collections import Counter
from itertools import pairwise

import numpy as np

from lmfast.tokenizer.compiled.code_cache import enable_cache
from lmfast.tokenizer.compiled.learn_kernels import count_pairs, lay_out

WORDS = {b"banana": 3, b"band": 2, b"a": 9, b"ab": 0, b"nana": 4}


def test_pairs_of_bytes_are_counted():
    enable_cache(lay_out, count_pairs)
    data = np.frombuffer(b"".join(WORDS), np.uint8)
    offsets = np.cumsum([0, *map(len, WORDS)])
    counts = np.array(list(WORDS.values()), np.int64)
    symbols, text = np.empty(100, np.int64), np.empty(100, np.uint8)
    symbols = symbols[: lay_out(data, offsets, counts, symbols, text)]
    expected = Counter()
    for word, count in WORDS.items():
        for a, b in pairwise(word):
            expected[a << 32 | b] += count
    token_length = np.ones(256, np.int64)
    small, table = np.zeros((4, 3), np.int64), np.zeros((64, 3), np.int64)
    small[:, 0] = table[:, 0] = -1
    assert count_pairs(symbols, counts, token_length, small) == -1
    assert count_pairs(symbols, counts, token_length, table) == len(+expected)
    assert {key: weight for key, weight, _ in table.tolist() if key != -1} == +expected
