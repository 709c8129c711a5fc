r"""Accepts split patterns that mean the same in tokenizer.json, which Oniguruma runs, and in the `regex` package.

The same characters may mean different things: `\p{N}{1,3}+` is repeated in Oniguruma and possessive in `regex`, `\w` has
different members, and `^` and `$` match at lines in Oniguruma. So only constructs that are the same in both are accepted;
others are rejected by name, when a file is read and before one is written. If `tokenizers` is installed, both also run a
pattern to be saved on `SAMPLES`.

A difference remains: characters newer than Oniguruma's Unicode tables are unassigned there.
Sources: Oniguruma's doc/RE (Ruby syntax), the `regex` package; compared on every code point.
"""

import re
from pathlib import Path
from typing import Any

from lmfast.errors import UserError
from lmfast.tokenizer.patterns import NAMED, Pattern, compile_custom

_SCRIPTS = (
    "Arabic|Armenian|Bengali|Cyrillic|Devanagari|Greek|Han|Hangul|Hebrew|Hiragana|Katakana|Latin|Tamil|Thai"
)
_CATEGORIES = "L[ulmot]?|M[nce]?|N[dlo]?|P[cdseifo]?|S[mcko]?|Z[slp]?|C[cfo]"
_CHARACTER = r"\\(?:[rntfv]|u[0-9A-Fa-f]{4}|x[0-7][0-9A-Fa-f]|[!-/:-@\[-`{-~])"
_SET = rf"\\(?:[sSdD]|[pP]\{{(?:{_CATEGORIES}|{_SCRIPTS})\}})"
_MEMBER = rf"(?:{_CHARACTER}|[^\\\[\]\-\ud800-\udfff])"
_MEMBERS = rf"-?(?:(?!&&|\|\||~~)(?:{_MEMBER}-{_MEMBER}|{_SET}|{_MEMBER}))+-?"
_CLASS = rf"\[\^?{_MEMBERS}\]|\[{_MEMBERS}&&\[\^?{_MEMBERS}\]\]"
# Ignoring case, i also matches İ in `regex`, and ss matches ß in Oniguruma (as do ff, fl, st their ligatures).
_ANY_CASE = r"\(\?i:(?!\[*[^)]*?(?:f\]?\[?[fl]|s\]?\[?[st]))(?:[a-hj-z'|]|\[[a-hj-z']+\])+\)"
_GROUP = r"\((?:\?(?:[:=!>]|<[=!]))?(?!\?)"
_QUANTIFIER = r"(?:[?*+][?+]?|\{\d+\}|\{\d+,\d*\}\??)(?![?*+{])"
_LITERAL = r"[^\\\[\](){}?*+^$\ud800-\udfff]"
_SAME = "|".join([_CHARACTER, _SET, _CLASS, f"(?i:{_ANY_CASE})", _GROUP, r"\)", _QUANTIFIER, _LITERAL])

# Rejected constructs (matched where _SAME ends), and how to write them instead.
_HINTS = (
    (r"\{\d+(?:,\d*)?\}\+", "for X{1,3}+ write (?>X{1,3})"),
    (r"\{,\d+\}", "write the lower bound, as in {0,3}"),
    (r"\{\d+\}\?", "remove the ?, or write (?:X{2})?"),
    (r"(?:[?*+][?+]?|\{\d+(?:,\d*)?\})[?*+{]+", "enclose what the first one repeats in (?:…)"),
    (r"\{", r"for the character write \{"),
    (r"\^", r"for the start of the text write (?<![\s\S])"),
    (r"\$", r"for the end of the text write (?![\s\S])"),
    (r"\\w", r"write [\p{L}\p{M}\p{Nd}\p{Pc}]"),
    (r"\\W", r"write [^\p{L}\p{M}\p{Nd}\p{Pc}]"),
    (r"\\b", r"write it with (?<!…) and (?!…)"),
    (r"\\[pP](?:\{[^}]*\}?|.)?", r"write a general category such as \p{L}, in braces"),
    (r"\\\d+", "references to groups are not supported; repeat the group's expression"),
    (r"\\.?", "write the characters themselves, as a class"),
    (r"\[.*?(?:\]+|$)", "write it without nested sets, except [A&&[^B]], and without - next to a class"),
    (r"\(\?P?<\w+>", "write (?:…), without a name"),
    (r"\(\?i[^)]*\)?", "write both cases, as [Ss]"),
    (r"\(\?[^)]*\)?", "remove the flags"),
)

SAMPLES = (
    "One day, a little girl named Lily found a needle in her room. It's 12345 o'clock: 3.14159, 1_000_000.\n",
    "today\n \n a \n\n  b\t\tc \r\n\r\n  ",
    "they'LL 'ſ WE'RE i'Ve ß ﬁ İi K² x³ ½ ① Ⅷ ǅ",
    "Größe, naïve, e\u0301 日本語の文字 здравствуй мир, العربية עברית ไทย हिन्दी 한국어 🙂🙂\u200d🙂 \u2028\u0085\u00a0",
    "if (x[0] && y || !z) { return a-b--c ~~ ^d$ \\w+ 'e' \"f\" <g/> #h @i %j; }  // &&k\n",
    "0 12 123 1234 12345 123456 1234567 ١٢٣٤ aaaa aaaaa A-Z [a] ]] --- ... !!! ___ \x1c\x0b\x0c\x00\x7f",
)


def difference(expression: str) -> str | None:
    """The first construct that the two may read differently, and how to write it instead; None if there is none."""
    same = re.compile(_SAME)  # takes 12 ms, and the named patterns do not need it
    at = 0
    while at < len(expression):
        found = same.match(expression, at)
        if found is None:
            hints = ((re.compile(part).match(expression, at), hint) for part, hint in _HINTS)
            part, hint = next(((m.group(), f"; {hint}") for m, hint in hints if m), (expression[at], ""))
            return f"{part!r} at position {at}{hint}"
        at = found.end()
    if compile_custom(expression).fullmatch("") is not None:
        return "it matches the empty string; let each alternative match at least one character"
    return None


def check_portable(pattern: Pattern, subject: str) -> None:
    """Raises UserError, starting with `subject`, if a tokenizer.json with this pattern would split text differently."""
    for expression in pattern.expressions if pattern.name not in NAMED else ():
        if (found := difference(expression)) is not None:
            raise UserError(f"{subject} splits differently in a tokenizer.json than in lmfast: {found}")


def check_saveable(pattern: Pattern, path: str | Path) -> None:
    """Raises UserError if a tokenizer.json cannot represent the pattern, or if `tokenizers`, when installed, rejects
    it or splits a sample differently."""
    if pattern.name in NAMED:
        return
    check_portable(pattern, f"{path}: the pattern {pattern.regex!r}")
    try:
        import tokenizers
    except ImportError:
        return
    for expression in pattern.expressions:
        _compare(tokenizers, expression, path)


def _compare(tokenizers: Any, expression: str, path: str | Path) -> None:
    try:
        split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(expression), "isolated")
    except Exception as error:  # tokenizers raises no narrower class
        raise UserError(
            f"{path}: tokenizers cannot run the split pattern {expression!r} ({error}); use another expression"
        ) from None
    for text in SAMPLES:
        if [piece for piece, _ in split.pre_tokenize_str(text)] != _pieces(expression, text):
            raise UserError(
                f"{path}: tokenizers splits {text[:40]!r}… differently with the pattern {expression!r}; use gpt2, "
                "cl100k, o200k or another expression"
            )


def _pieces(expression: str, text: str) -> list[str]:
    pieces, done = [], 0
    for match in compile_custom(expression).finditer(text):
        pieces += [text[done : match.start()], match.group()]
        done = match.end()
    return [piece for piece in [*pieces, text[done:]] if piece]
