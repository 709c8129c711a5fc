"""Split patterns by name, and the class of every code point according to the `regex` package.

A split pattern divides text into pretokens, the pieces that BPE never merges across. Three patterns have
names and hand-written scanners (scanner.py); every other pattern is run by `regex` itself,
which is exact and about fifty times slower.

In: a name or a regular expression. Out: `Pattern`, and `code_point_classes()`, uint8 of shape (0x110000,).
Rejects an expression that `regex` cannot compile, and a single word that is not a name.
Sources: openai/gpt-2 encoder.py; openai/tiktoken openai_public.py, where `cl100k` here is the classic
spelling (as Hugging Face's GPT-4 and Llama 3 files have it), not today's possessive one that starts with
`\\s++$` and splits `"today\\n "` differently.
"""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import regex

from lmfast.errors import UserError

if TYPE_CHECKING:
    import numpy as np

GPT2 = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
CL100K = (
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"""
    r"""|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
O200K = "|".join(
    [
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
        r"""\p{N}{1,3}""",
        r""" ?[^\s\p{L}\p{N}]+[\r\n/]*""",
        r"""\s*[\r\n]+""",
        r"""\s+(?!\S)""",
        r"""\s+""",
    ]
)

# The same split as other tokenizer files write it.
_SPELLINGS = {r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""": "gpt2"}

# The class of a code point: all that the three patterns distinguish.
OTHER, UPPER, LOWER, LETTER, MARK, NUMBER, SPACE = range(7)
_CLASS_EXPRESSIONS = {
    UPPER: r"[\p{Lu}\p{Lt}]+",
    LOWER: r"\p{Ll}+",
    LETTER: r"[\p{Lm}\p{Lo}]+",
    MARK: r"\p{M}+",
    NUMBER: r"\p{N}+",
    SPACE: r"\s+",
}


@dataclass(frozen=True)
class Pattern:
    """How text is split into pretokens: `name` is gpt2, cl100k, o200k or custom, `regex` the expression."""

    name: str
    regex: str


NAMED = {name: Pattern(name, regex) for name, regex in (("gpt2", GPT2), ("cl100k", CL100K), ("o200k", O200K))}


def get_pattern(name_or_regex: str) -> Pattern:
    """The pattern of that name, or the given expression (an expression that has a name gets it).

    Raises UserError if the string is neither a name nor an expression that splits text."""
    if name_or_regex in NAMED:
        return NAMED[name_or_regex]
    for pattern in NAMED.values():
        if name_or_regex == pattern.regex:
            return pattern
    if name_or_regex in _SPELLINGS:
        return NAMED[_SPELLINGS[name_or_regex]]
    if not name_or_regex:
        raise UserError(
            f"pattern '': is empty; use one of {', '.join(NAMED)}, or a regular expression, such as [\\s\\S]+ for no "
            "split"
        )
    compile_custom(name_or_regex)
    return Pattern("custom", name_or_regex)


@functools.lru_cache(maxsize=8)
def compile_custom(expression: str):
    """The compiled expression; raises UserError if `regex` rejects it."""
    names = ", ".join(NAMED)
    try:
        compiled = regex.compile(expression)
    except regex.error as error:
        raise UserError(
            f"pattern {expression!r}: is not a valid regular expression ({error}); use one of {names} or correct it"
        ) from None
    if expression.isalnum():
        # A single word is far more often a mistyped name than a pattern for that word.
        raise UserError(f"pattern {expression!r}: no such name; use one of {names}, or a regular expression")
    return compiled


@functools.lru_cache(maxsize=1)
def code_point_classes() -> "np.ndarray":
    """uint8 (0x110000,): the class of each code point, by the installed `regex` (whose Unicode version is newer than
    `unicodedata`'s). Built on first use in 0.08 s: one pass over a string of all code points per class."""
    import numpy as np

    points = np.arange(0x110000, dtype=np.uint32)
    text = points.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
    classes = np.full(0x110000, OTHER, np.uint8)
    for code, expression in _CLASS_EXPRESSIONS.items():
        for match in regex.finditer(expression, text):
            classes[match.start() : match.end()] = code
    classes.flags.writeable = False
    return classes
