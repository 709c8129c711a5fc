"""patterns.py: names, spellings, errors, and the class of every code point compared with `regex`."""

import random

import numpy as np
import pytest
import regex

from lmfast.errors import UserError
from lmfast.tokenizer import patterns
from lmfast.tokenizer.patterns import get_pattern
from lmfast.tokenizer.plain_text import decoded, split_pretokens
from tests.tokenizer.compiled.test_scanner import random_text


def test_a_name_and_its_expression_are_the_same_pattern():
    for name in patterns.NAMED:
        pattern = get_pattern(name)
        assert pattern.name == name
        assert get_pattern(pattern.regex) == pattern


def test_the_original_gpt2_spelling_is_recognised():
    spelled = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    assert get_pattern(spelled).name == "gpt2"


def test_any_other_expression_is_custom():
    assert get_pattern(r"\w+|\W") == patterns.Pattern("custom", r"\w+|\W")


@pytest.mark.parametrize("wrong", ["gpt3", "(unclosed", "[z-a]"])
def test_a_mistyped_name_or_invalid_expression_is_rejected(wrong):
    with pytest.raises(UserError, match="gpt2, cl100k, o200k") as error:
        get_pattern(wrong)
    assert "\n" not in str(error.value)


def test_every_code_point_has_the_class_of_regex():
    classes = patterns.code_point_classes()
    text = np.arange(0x110000, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
    for expression, members in {
        r"\p{L}": (patterns.UPPER, patterns.LOWER, patterns.LETTER),
        r"\p{Lu}|\p{Lt}": (patterns.UPPER,),
        r"\p{Ll}": (patterns.LOWER,),
        r"\p{M}": (patterns.MARK,),
        r"\p{N}": (patterns.NUMBER,),
        r"\s": (patterns.SPACE,),
        r"[^\s\p{L}\p{N}\p{M}]": (patterns.OTHER,),
    }.items():
        expected = np.zeros(0x110000, bool)
        expected[[match.start() for match in regex.finditer(expression, text)]] = True
        assert np.array_equal(np.isin(classes, members), expected), expression


def test_whitespace_is_25_code_points_without_the_separators_of_re():
    classes = patterns.code_point_classes()
    assert (classes == patterns.SPACE).sum() == 25
    assert classes[0x1C] == patterns.OTHER


@pytest.mark.parametrize("name", ["starcoder", "deepseek"])
def test_one_expression_gives_the_pretokens_of_all_steps(name):
    pattern, rng = patterns.NAMED[name], random.Random(0)
    assert patterns.get_steps(pattern.steps) is pattern
    steps = patterns.Pattern("custom", "", pattern.steps)
    for _ in range(3000):
        text = decoded(random_text(rng))
        assert list(split_pretokens(text, pattern)) == list(split_pretokens(text, steps)), text


def test_han_symbols_are_all_that_kimi_joins_to_a_letter_and_cuts_avoid():
    """A safe cut between a letter and such a character would separate them."""
    classes, kimi = patterns.code_point_classes(), patterns.scanner_classes("kimi")
    joined = np.flatnonzero((classes == patterns.OTHER) & (kimi >= patterns.IN_SCRIPT))
    assert len(joined) and (patterns.cut_classes()[joined] == patterns.MARK).all()
