"""patterns.py: names, spellings, errors, and the class of every code point compared with `regex`."""

import numpy as np
import pytest
import regex

from lmfast.errors import UserError
from lmfast.tokenizer import patterns
from lmfast.tokenizer.patterns import get_pattern


def test_a_name_and_its_expression_are_the_same_pattern():
    for name in ("gpt2", "cl100k", "o200k"):
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
