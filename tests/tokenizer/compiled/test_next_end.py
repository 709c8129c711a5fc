"""The plain scanners alone, pretoken by pretoken, compared with `regex`."""

import random

import pytest
from numba import njit

from lmfast.tokenizer.chunks import padded
from lmfast.tokenizer.compiled import next_end
from lmfast.tokenizer.patterns import NAMED, code_point_classes, scanner_classes
from tests.tokenizer.compiled.test_scanner import expected, random_text


@njit
def _letters(data, end, classes):
    return next_end.letters_end(data, 0, end, classes)


@pytest.mark.parametrize("name", sorted(NAMED))
def test_one_pretoken_after_another(name):
    function, rng = getattr(next_end, f"next_end_{name}"), random.Random(9)
    for _ in range(1500):
        text = random_text(rng)
        data, at, ends = padded(text), 0, []
        while at < len(text):
            at = function(data, at, len(text), scanner_classes(name))
            ends.append(at)
        assert ends == expected(name, text), text


def test_letter_runs_stop_at_the_end_of_the_text():
    """Eight bytes are tested together: letters after the end must not count."""
    for length in range(40):
        data = padded(b"a" * length + b"b" * 20)
        assert _letters(data, length, code_point_classes()) == length


@pytest.mark.parametrize("text, length", [
    (b"\xc3\xa9", 2), (b"\xe6\xbc\xa2", 3), (b"\xf0\x9d\x90\x80", 4),
    (b"\x80", 1), (b"\xc0\xaf", 1), (b"\xc3", 1), (b"\xe0\x80\xaf", 1), (b"\xed\xa0\x80", 1), (b"\xe6\xbc", 1),
    (b"\xf0\x80\x80\xaf", 1), (b"\xf4\x90\x80\x80", 1), (b"\xf5\x80\x80\x80", 1), (b"\xf0\x9d\x90", 1), (b"\xff", 1),
])  # fmt: skip
def test_only_valid_utf8_is_a_multibyte_character(text, length):
    char = next_end.multibyte_at(padded(text), 0, len(text), code_point_classes())
    assert char >> 8 == length
