r"""Split patterns that mean the same in tokenizer.json, which Oniguruma runs, and here, where `regex` does.

The same characters may mean different things: `[\p{L}&&[^a]]` is an intersection there and literals here, `\p{N}{1,3}+`
is possessive here and repeated there, `\w` has other members, `^` and `$` match at lines there. So only constructs that
are the same in both pass; everything else is rejected by name, when a file is read and before one is written. When
`tokenizers` is installed, a pattern to be saved is run by both on `SAMPLES` too.

Different Unicode versions remain: characters newer than Oniguruma's tables are unassigned there.
Sources: Oniguruma's doc/RE (Ruby syntax), the `regex` package (V0); compared on every code point.
"""

import re
from pathlib import Path

from lmfast.errors import UserError
from lmfast.tokenizer.patterns import NAMED, Pattern, compile_custom

_SCRIPTS = (
    "Arabic|Armenian|Bengali|Cyrillic|Devanagari|Greek|Han|Hangul|Hebrew|Hiragana|Katakana|Latin|Tamil|Thai"
)
_CATEGORIES = "L[ulmot]?|M[nce]?|N[dlo]?|P[cdseifo]?|S[mcko]?|Z[slp]?|C[cfo]"
_CHARACTER = r"\\(?:[rntfv]|u[0-9A-Fa-f]{4}|x[0-7][0-9A-Fa-f]|[!-/:-@\[-`{-~])"
_SET = rf"\\(?:[sSdD]|[pP]\{{(?:{_CATEGORIES}|{_SCRIPTS})\}})"
_MEMBER = rf"(?:{_CHARACTER}|[^\\\[\]\-\ud800-\udfff])"
_CLASS = rf"\[\^?-?(?:(?!&&|\|\||~~)(?:{_MEMBER}-{_MEMBER}|{_SET}|{_MEMBER}))+-?\]"
# Ignoring case, i also matches İ here, and ss matches ß there (and so on: ff, fl, st).
_ANY_CASE = r"\(\?i:(?!\[*[^)]*?(?:f\]?\[?[fl]|s\]?\[?[st]))(?:[a-hj-z'|]|\[[a-hj-z']+\])+\)"
_GROUP = r"\((?:\?(?:[:=!>]|<[=!]))?(?!\?)"
_QUANTIFIER = r"(?:[?*+][?+]?|\{\d+\}|\{\d+,\d*\}\??)(?![?*+{])"
_LITERAL = r"[^\\\[\](){}?*+^$\ud800-\udfff]"
_SAME = re.compile(
    "|".join([_CHARACTER, _SET, _CLASS, f"(?i:{_ANY_CASE})", _GROUP, r"\)", _QUANTIFIER, _LITERAL])
)

# What an expression has that is rejected (matched where _SAME ends), and how to write it instead.
_HINTS = (
    (r"\{\d+(?:,\d*)?\}\+", "for X{1,3}+ write (?>X{1,3})"),
    (r"\{,\d+\}", "write the lower bound, as in {0,3}"),
    (r"\{\d+\}\?", "leave the ? out, or write (?:X{2})?"),
    (r"(?:[?*+][?+]?|\{\d+(?:,\d*)?\})[?*+{]+", "put what the first repeats into (?:…)"),
    (r"\{", r"for the character write \{"),
    (r"\^", r"for the start of the text write (?<![\s\S])"),
    (r"\$", r"for the end of the text write (?![\s\S])"),
    (r"\\w", r"write [\p{L}\p{M}\p{Nd}\p{Pc}]"),
    (r"\\W", r"write [^\p{L}\p{M}\p{Nd}\p{Pc}]"),
    (r"\\b", r"write it with (?<!…) and (?!…)"),
    (r"\\[pP](?:\{[^}]*\}?|.)?", r"write a general category such as \p{L}, in braces"),
    (r"\\\d+", "a group cannot be referred to; repeat what it matches"),
    (r"\\.?", "write the characters themselves, as a class"),
    (r"\[.*?(?:\]+|$)", "write it without sets in sets, && and - next to a class"),
    (r"\(\?P?<\w+>", "write (?:…), without a name"),
    (r"\(\?i[^)]*\)?", "write both cases, as [Ss]"),
    (r"\(\?[^)]*\)?", "leave the flags out"),
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
    """What in the expression the two may read differently, and a way to write it; None where there is nothing."""
    at = 0
    while at < len(expression):
        found = _SAME.match(expression, at)
        if found is None:
            hints = ((re.compile(part).match(expression, at), hint) for part, hint in _HINTS)
            part, hint = next(((m.group(), f"; {hint}") for m, hint in hints if m), (expression[at], ""))
            return f"{part!r} at position {at}{hint}"
        at = found.end()
    if compile_custom(expression).fullmatch("") is not None:
        return "a match of no characters; let each alternative match at least one"
    return None


def check_portable(pattern: Pattern, subject: str) -> None:
    """Raises UserError, beginning with `subject`, where a tokenizer.json with this pattern would split otherwise."""
    found = difference(pattern.regex) if pattern.name not in NAMED else None
    if found is not None:
        raise UserError(f"{subject} means another split in a tokenizer.json than in lmfast: {found}")


def check_saveable(pattern: Pattern, path: str | Path) -> None:
    """Raises UserError where a tokenizer.json cannot hold the pattern, or where `tokenizers`, if it is installed, rejects
    it or splits a sample differently."""
    if pattern.name in NAMED:
        return
    expression = pattern.regex
    check_portable(pattern, f"{path}: the pattern {expression!r}")
    try:
        import tokenizers
    except ImportError:
        return
    try:
        split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(expression), "isolated")
    except Exception as error:  # it has no narrower class
        raise UserError(f"{path}: tokenizers cannot run the split pattern {expression!r} ({error})") from None
    for text in SAMPLES:
        if [piece for piece, _ in split.pre_tokenize_str(text)] != _pieces(expression, text):
            raise UserError(
                f"{path}: tokenizers splits {text[:40]!r}… differently by the pattern {expression!r}; use gpt2, cl100k, "
                "o200k or another expression"
            )


def _pieces(expression: str, text: str) -> list[str]:
    pieces, done = [], 0
    for match in compile_custom(expression).finditer(text):
        pieces += [text[done : match.start()], match.group()]
        done = match.end()
    return [piece for piece in [*pieces, text[done:]] if piece]
