"""Loads, bit scans, byte classes, keys: compared with Python's arithmetic."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from lmfast.tokenizer.chunks import padded
from lmfast.tokenizer.compiled import intrinsics

SETTINGS = settings(deadline=None, derandomize=True, max_examples=50)


@njit
def _load(data, i):
    return intrinsics.load_u64(data, i)


@njit
def _classes(data, i):
    return intrinsics.byte_classes(data, i)


@njit
def _matches(data, i, byte):
    return intrinsics.byte_matches(data, i, byte)


@njit
def _bits(word):
    return intrinsics.trailing_zeros(word), intrinsics.leading_zeros(word), intrinsics.count_ones(word)


@njit
def _key(data, i, length):
    return intrinsics.packed_key(data, i, length)


@njit
def _store(words, i, word):
    intrinsics.store_u64(words, i, word)


@SETTINGS
@given(st.binary(min_size=1, max_size=80), st.integers(0, 60))
def test_loads_are_little_endian_at_any_address(text, i):
    data = padded(text)
    assert _load(data, i) == int.from_bytes(data[i : i + 8].tobytes(), "little")


@SETTINGS
@given(st.integers(0, 2**64 - 1))
def test_bit_counts(word):
    binary = f"{word:064b}"
    trailing = 64 - len(binary.rstrip("0")) if word else 64
    assert _bits(np.uint64(word)) == (trailing, 64 - word.bit_length(), binary.count("1"))


def _mask(data, wanted) -> int:
    return sum(1 << k for k, byte in enumerate(data.tolist()) if wanted(byte))


@SETTINGS
@given(st.binary(min_size=64, max_size=64))
def test_byte_classes_bit_by_bit(text):
    data = padded(text)
    masks = _classes(data, 0)
    for mask, wanted in zip(
        masks,
        (
            lambda b: chr(b).isalpha() and b < 128,
            lambda b: b in b"0123456789",
            lambda b: b in b" \t\n\r\x0b\x0c",
            lambda b: b == 32,
            lambda b: b >= 128,
            lambda b: b == ord("'"),
        ),
    ):
        assert mask == _mask(data[:64], wanted)
    assert _matches(data, 0, np.uint8(text[5])) == _mask(data[:64], lambda b: b == text[5])


def test_every_byte_has_its_class():
    data = padded(bytes(range(256)))
    for begin in range(0, 256, 64):
        letters, digits, spaces, *_ = _classes(data, begin)
        part = data[begin : begin + 64]
        assert letters == _mask(part, lambda b: chr(b).isalpha() and b < 128)
        assert digits == _mask(part, lambda b: chr(b).isdigit() and b < 128)
        assert spaces == _mask(part, lambda b: b in b" \t\n\r\x0b\x0c")


@SETTINGS
@given(st.binary(max_size=15), st.binary(max_size=15), st.binary(max_size=9))
def test_keys_are_equal_exactly_if_pretokens_are(left, right, after):
    """Including `a` and `a\\0`, whatever follows in memory."""
    data = padded(left + after)
    other = padded(right + b"\xff" * 9)
    assert (_key(data, 0, len(left)) == _key(other, 0, len(right))) == (left == right)


def test_a_store_writes_exactly_eight_bytes():
    words = np.arange(6, dtype=np.uint32)
    _store(words, 1, np.uint64(7 | 9 << 32))
    assert words.tolist() == [0, 7, 9, 3, 4, 5]


def test_aligned_words_are_aligned_and_zero():
    for count in (1, 9, 1000):
        words = intrinsics.aligned_words(count)
        assert words.ctypes.data % 64 == 0 and len(words) == count and not words.any()
