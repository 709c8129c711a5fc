"""Scanners compared with `regex`: every code point in many contexts, random strings over difficult alphabets, real text."""

import random

import numpy as np
import pytest

from lmfast.tokenizer.chunks import padded
from lmfast.tokenizer.compiled import scanner
from lmfast.tokenizer.compiled.code_cache import enable_cache
from lmfast.tokenizer.patterns import NAMED, compile_custom, scanner_classes
from tests.tokenizer import sample_text

NAMES = sorted(NAMED)

# Characters that the patterns treat differently, and invalid bytes.
HARD = [
    *(b"'", b"s", b"S", b"t", b"l", b"L", b"ll", b"ve", b"RE", b"d", b"m", b"e"),
    *(b" ", b"  ", b"\n", b"\r", b"\r\n", b"\t", b"\x0b", b"\x1c", b"\x00", b"\x7f"),
    *(b"a", b"B", b"9", b"12", b"!", b"/", b"_", b"abcdefgh", b"ABCDEFGHI", b"x" * 70),
    *(
        c.encode()
        for c in "ſéÉДжǅʰªª漢中²Ⅷ٣龦⺀〇〡ひー・\u3040\u3099$+,。"
        "\u0301\u0903\u00a0\u0085\u2003\u3000\u2028\ufeff😀𝐀𝟘\U0010ffff"
    ),
    *(
        b"\x80",
        b"\xff",
        b"\xc3",
        b"\xc0\x80",
        b"\xe2\x82",
        b"\xed\xa0\x80",
        b"\xf0\x9f",
        b"\xf0\x9f\x98",
        b"\xf4\x90",
    ),
]


def scan(name: str, text: bytes, capacity: int = 1 << 16, spans=()) -> list[int]:
    """All ends, found by the block scanner with a buffer of `capacity`."""
    function = getattr(scanner, f"scan_{name}")
    enable_cache(function)
    data, cursor = padded(text), np.array([0, 0])
    bounds = np.empty(capacity, np.int64)
    ends = []
    while True:
        count = function(data, len(text), np.array(spans, np.int64), cursor, scanner_classes(name), bounds)
        if not count:
            assert cursor[0] == len(text)
            return ends
        ends += bounds[:count].tolist()


def expected(name: str, text: bytes) -> list[int]:
    decoded = text.decode("utf-8", "surrogateescape")
    ends, at = [], 0
    for match in compile_custom(NAMED[name].regex).finditer(decoded):
        at += len(match.group().encode("utf-8", "surrogateescape"))
        ends.append(at)
    assert at == len(text)
    return ends


def random_text(rng: random.Random) -> bytes:
    alphabet = rng.sample(HARD, rng.randint(1, 8))
    return b"".join(rng.choice(alphabet) for _ in range(rng.choice((3, 8, 20, 60))))


def check_random_strings(name: str, count: int, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(count):
        text = random_text(rng)
        assert scan(name, text) == expected(name, text), text


AROUND = ["{}", "a{}", "{}a", "a{}b", "A{}b", "1{}", "{}1", " {}", "{} ", "  {}x", "{}{}", "'{}", "{}'s", "x'{}",
          "!{}", "{}!", "\n{}", "{}\n", "\t{}a", "\u0301{}", "a\u0301{}B", "12{}34"]  # fmt: skip


def check_code_points(name: str, points: list[int]) -> None:
    """Each code point alone and next to letters, digits, spaces, apostrophes, newlines and marks.

    Each context is a separate text, delimited by spans of special tokens, with 256 code points per call."""
    for begin in range(0, len(points), 256):
        pieces = [
            form.replace("{}", chr(point)).encode()
            for point in points[begin : begin + 256]
            if not 0xD800 <= point < 0xE000
            for form in AROUND
        ]
        text, spans, wanted = bytearray(), [], []
        for piece in pieces:
            wanted += [len(text) + end for end in expected(name, piece)]
            text += piece + b"\0"
            spans += [len(text) - 1, len(text)]
            wanted.append(-len(text))
        assert scan(name, bytes(text), spans=spans) == wanted, f"U+{points[begin]:04X} and the 255 after it"


@pytest.mark.parametrize("name", NAMES)
def test_hard_input(name):
    for text in (
        b"", b" ", b"\n" * 10000, b"x" * 1_000_000, b"'s" * 10000, b"today\n \n", b"today\n ",
        b"a \n\n  b", "\x85".encode(),
        "a\u00a0b\u2003\u2003c".encode(), b"a\x1cb", "'ſ".encode(), b"they'LL they'll", b"\x80" * 300, b"a" * 15,
        b"a" * 16, b"a" * 63, b"a" * 64, b"a" * 65, b"a" * 65535, b"a" * 65536,
        b" " * 64, b" " * 65 + b"a", "\u0301abc".encode(),
        b"ab" * 31 + b"'s " * 30, b"word\r\nword\r\n", b"caf\xc3", b"\xe2\x82", b"\xf0\x9f\x98",
    ):  # fmt: skip
        assert scan(name, text) == expected(name, text), text[:80]


@pytest.mark.parametrize("name", NAMES)
def test_random_strings_over_hard_alphabets(name):
    check_random_strings(name, 4000, seed=1)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", NAMES)
def test_200_000_random_strings(name):
    check_random_strings(name, 200_000, seed=2)


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_of_code_points_in_all_contexts(name):
    rng = random.Random(3)
    check_code_points(name, [*range(0x250), 0x17F, 0x2028, 0x3000, *rng.sample(range(0x250, 0x110000), 300)])


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", NAMES)
def test_every_code_point_in_all_contexts(name):
    check_code_points(name, list(range(0x110000)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("position", range(0, 64, 7))
def test_every_alignment_of_untrusted_bytes_in_a_block(name, position):
    for piece in (b"'s ", b"  x", "é'll".encode(), b"\n\n a", b"\x80'd", "\u2003 z".encode()):
        text = b"ab " * 30
        text = text[:position] + piece + text[position:]
        assert scan(name, text) == expected(name, text), text


@pytest.mark.parametrize("name", NAMES)
def test_small_buffers_give_the_same_ends(name):
    rng = random.Random(4)
    text = b" ".join(random_text(rng) for _ in range(200))
    assert scan(name, text, capacity=scanner.MAX_ENDS_PER_STEP) == expected(name, text)


@pytest.mark.parametrize("name", NAMES)
def test_special_tokens_are_boundaries_with_negative_ends(name):
    text = b"a <x><x> b  <x>"
    ends = scan(name, text, spans=[2, 5, 5, 8, 12, 15])
    assert ends == [1, 2, -5, -8, 10, 12, -15]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text_name", sample_text.NAMES)
def test_whole_texts(name, text_name):
    text = sample_text.sample(text_name)[: 1 << 19]
    assert scan(name, text) == expected(name, text)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text_name", sample_text.REAL)
def test_real_texts_to_the_end(name, text_name):
    text = sample_text.sample(text_name)
    assert scan(name, text) == expected(name, text)
