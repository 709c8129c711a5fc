"""Split patterns by name, and the class of every code point according to the `regex` package.

A split pattern divides text into pretokens, the pieces that BPE never merges across. The patterns in `NAMED` have
hand-written scanners (scanner.py); every other pattern is run by `regex` itself,
which is exact and about fifty times slower.

In: a name or a regular expression, or several expressions that split one after another. Out: `Pattern`, and
`scanner_classes`, uint8 of shape (0x110000,).
Rejects an expression that `regex` cannot compile, and a single word that is not a name.
Sources: openai/gpt-2 encoder.py; openai/tiktoken openai_public.py, where `cl100k` here is the classic
spelling (as Hugging Face's GPT-4 and Llama 3 files have it), not today's possessive one that starts with
`\\s++$` and splits `"today\\n "` differently; the tokenizer.json of Qwen 2 (also 2.5 and 3), StarCoder (also SmolLM) and
DeepSeek V3; moonshotai/Kimi-K2 tokenization_kimi.py.
"""

import functools
from collections.abc import Sequence
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
QWEN2 = CL100K.replace(r"\p{N}{1,3}", r"\p{N}")
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
KIMI = r"[\p{Han}]+|" + O200K.replace(r"\p{M}]", r"\p{M}&&[^\p{Han}]]").replace(r"[\r\n/]*", r"[\r\n]*")

# Splits one after another, and one expression with the same pretokens: where a step ends a piece, lookaheads end too.
STARCODER_STEPS = (r"\p{N}", GPT2)
STARCODER = r"""\p{N}|'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"""
_CJK = "一-龥\u3040-ゟ゠-ヿ"
DEEPSEEK_STEPS = (
    r"\p{N}{1,3}",
    f"[{_CJK}]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+""" + "|[^\r\n" + r"\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+" + "[\r\n]*" + r"|\s*" + "[\r\n]+" + r"|\s+(?!\S)|\s+",
)
_IN, _OUT = f"(?=[{_CJK}])", f"(?![{_CJK}])"
DEEPSEEK = "|".join(
    [
        DEEPSEEK_STEPS[0],
        # The third step within a run of the second,
        rf"(?:{_IN}[^\p{{L}}\p{{P}}\p{{S}}])?(?:{_IN}[\p{{L}}\p{{M}}])+",
        rf"(?:{_IN}[\p{{P}}\p{{S}}])+",
        rf"(?:{_IN}[^\p{{L}}\p{{M}}\p{{P}}\p{{S}}])+(?!{_IN}[\p{{L}}\p{{M}}])",  # which it does not match
        # and elsewhere.
        r"[!-/:-@\[-`{-~][A-Za-z]+",
        rf"[^\r\n\p{{L}}\p{{P}}\p{{S}}\p{{N}}{_CJK}]?(?:{_OUT}[\p{{L}}\p{{M}}])+",
        rf" ?(?:{_OUT}[\p{{P}}\p{{S}}])+[\r\n]*",
        r"\s*[\r\n]+",
        rf"\s+(?![^\s\p{{N}}{_CJK}])",
        r"\s+",
        rf"[^\s\p{{L}}\p{{M}}\p{{N}}\p{{P}}\p{{S}}{_CJK}]+(?!{_OUT}[\p{{L}}\p{{M}}])",
    ]
)

# The same split as other tokenizer files write it.
_SPELLINGS = {r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""": "gpt2"}

# The class of a code point: all that gpt2, cl100k, o200k, qwen2 and starcoder distinguish.
OTHER, UPPER, LOWER, LETTER, MARK, NUMBER, SPACE = range(7)
_CLASS_EXPRESSIONS = {
    UPPER: r"[\p{Lu}\p{Lt}]+",
    LOWER: r"\p{Ll}+",
    LETTER: r"[\p{Lm}\p{Lo}]+",
    MARK: r"\p{M}+",
    NUMBER: r"\p{N}+",
    SPACE: r"\s+",
}
CLASS = 7  # mask
IN_SCRIPT = 8  # added to the class: for kimi of the characters of Han script, for deepseek of its second step
PUNCTUATION = 7  # deepseek: also symbols; its letters and marks are both LETTER


@dataclass(frozen=True)
class Pattern:
    """How text is split into pretokens. name: a key of NAMED, or custom; regex: one expression, or for a custom sequence
    all steps; steps: expressions that split one after another, if a tokenizer.json needs several."""

    name: str
    regex: str
    steps: tuple[str, ...] = ()

    @property
    def expressions(self) -> tuple[str, ...]:
        """What a tokenizer.json contains: the steps, or the one expression."""
        return self.steps or (self.regex,)


NAMED = {
    pattern.name: pattern
    for pattern in (
        Pattern("gpt2", GPT2),
        Pattern("cl100k", CL100K),
        Pattern("o200k", O200K),
        Pattern("qwen2", QWEN2),
        Pattern("kimi", KIMI),
        Pattern("starcoder", STARCODER, STARCODER_STEPS),
        Pattern("deepseek", DEEPSEEK, DEEPSEEK_STEPS),
    )
}


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


def get_steps(expressions: Sequence[str]) -> Pattern:
    """The pattern of expressions that each split the pieces of the one before; UserError as `get_pattern`."""
    patterns = [get_pattern(expression) for expression in expressions]
    if len(patterns) == 1:
        return patterns[0]
    steps = tuple(expression for pattern in patterns for expression in pattern.expressions)
    same = [pattern for pattern in NAMED.values() if pattern.steps == steps]
    return same[0] if same else Pattern("custom", "\n".join(steps), steps)


@functools.lru_cache(maxsize=8)
def compile_custom(expression: str):
    """The compiled expression; raises UserError if `regex` rejects it."""
    names = ", ".join(NAMED)
    try:
        # Only version 1 has set operations. In all that dialects.py accepts, the versions agree otherwise.
        compiled = regex.compile(expression, regex.VERSION1 if "&&[" in expression else 0)
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

    classes = np.full(0x110000, OTHER, np.uint8)
    for code, expression in _CLASS_EXPRESSIONS.items():
        _fill(classes, expression, code)
    classes.flags.writeable = False
    return classes


@functools.lru_cache(maxsize=2)
def scanner_classes(name: str) -> "np.ndarray":
    """uint8 (0x110000,): the classes that the scanner of a named pattern distinguishes."""
    if name not in ("kimi", "deepseek"):
        return code_point_classes()
    classes = code_point_classes().copy()
    if name == "deepseek":
        classes[(classes == UPPER) | (classes == LOWER) | (classes == MARK)] = LETTER
        _fill(classes, r"[\p{P}\p{S}]+", PUNCTUATION)
    in_script = classes & 0
    _fill(in_script, r"\p{Han}+" if name == "kimi" else DEEPSEEK_STEPS[1], IN_SCRIPT)
    classes |= in_script
    classes.flags.writeable = False
    return classes


@functools.lru_cache(maxsize=1)
def cut_classes() -> "np.ndarray":
    """`code_point_classes`, with MARK for the characters that kimi joins to a letter before them."""
    classes = code_point_classes().copy()
    for first, last in HAN_SYMBOLS:
        block = classes[first : last + 1]
        block[block == OTHER] = MARK
    classes.flags.writeable = False
    return classes


HAN_SYMBOLS = ((0x2E80, 0x2FDF), (0x16FE2, 0x16FE2))
"""ranges of code points: those of Han script that are neither letters, marks nor numbers"""


def _fill(classes: "np.ndarray", expression: str, code: int) -> None:
    for match in regex.finditer(expression, _all_characters()):
        classes[match.start() : match.end()] = code


@functools.lru_cache(maxsize=1)
def _all_characters() -> str:
    import numpy as np

    return np.arange(0x110000, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
