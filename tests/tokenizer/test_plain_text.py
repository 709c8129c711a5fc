"""plain_text.py compared with the oracle and with the compiled special tokens, scanners and cuts."""

import random

import pytest

from lmfast.tokenizer.chunks import SpecialTokens
from lmfast.tokenizer.patterns import NAMED, get_pattern
from lmfast.tokenizer.plain_text import (
    Boundaries,
    decoded,
    encoded,
    last_cut,
    split_pretokens,
    split_specials,
    straddles,
)
from tests.tokenizer import oracle, sample_text
from tests.tokenizer.test_chunks import SPECIALS, hard_text, padded, pretokens


def test_specials_are_the_oracles():
    rng = random.Random(8)
    for _ in range(300):
        data, specials = hard_text(rng), rng.sample(SPECIALS, rng.randint(0, len(SPECIALS)))
        assert list(split_specials(data, specials)) == list(oracle.split_specials(data, specials))


@pytest.mark.parametrize("name", [*sorted(NAMED), r"\p{L}+|(\s)", r"[a-z]+"])
def test_pretokens_are_the_oracles(name):
    rng, pattern = random.Random(9), get_pattern(name)
    for text in [hard_text(rng) for _ in range(200)] + [sample_text.sample("scripts")[:50_000]]:
        found = [encoded(pretoken) for pretoken in split_pretokens(decoded(text), pattern)]
        assert found == oracle.split_pretokens(text, pattern.regex)


@pytest.mark.parametrize("name", [*sorted(NAMED), r"\p{L}+|\s"])
def test_a_cut_changes_no_pretoken(name):
    rng, pattern, found = random.Random(10), get_pattern(name), 0
    for _ in range(400):
        data, specials = hard_text(rng), rng.sample(SPECIALS, rng.randint(0, len(SPECIALS)))
        latest = len(data) - max([4, *map(len, specials)])
        cut = last_cut(data, latest, Boundaries(specials), pattern, reach=rng.choice([8, 40, 1000]))
        assert 0 <= cut <= max(0, latest)
        found += cut > 0
        parts = pretokens(data[:cut], specials, pattern) + pretokens(data[cut:], specials, pattern)
        assert parts == pretokens(data, specials, pattern), (data, specials, cut)
    assert found > 100


def test_the_last_cut_is_found():
    for data, cut in (
        (b"hello world again now", 17),
        ("!?!\n漢字漢字漢字".encode(), 4),
        ("漢字漢，漢字漢".encode(), 9),
        (b"x" * 50, 0),
    ):
        assert last_cut(data, len(data) - 4, Boundaries([]), get_pattern("gpt2"), 1000) == cut
    assert last_cut(b"ab<x>cdefgh", 7, Boundaries([b"<x>"]), get_pattern(r"\w+|\W"), 1000) == 2


def test_straddling_is_the_compiled_one_s():
    rng = random.Random(11)
    for _ in range(100):
        data, specials = hard_text(rng) + b".", rng.sample(SPECIALS, 3)
        cut = rng.randrange(len(data))
        assert straddles(data, cut, specials) == SpecialTokens(specials).forbid(padded(data), cut)
