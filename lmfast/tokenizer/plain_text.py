"""Special tokens, pretokens and safe cuts of a text in plain Python and `regex`, without Numba.

In: text as bytes, special tokens as byte strings, a `Pattern`. Out: pieces, pretokens and cuts as defined in chunks.py,
whose compiled counterparts take 20 to 100 times less per byte, and a second or more to load.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any, AnyStr

import regex

from lmfast.tokenizer.patterns import HAN_SYMBOLS, NAMED, Pattern, compile_custom

# One character or more before a safe cut of the named patterns; the rules of chunks.py in order.
_HAN = "".join(f"{chr(first)}-{chr(last)}" for first, last in HAN_SYMBOLS)
_BEFORE_CUT = regex.compile(
    rf"[A-Za-z0-9](?= [A-Za-z])|\S\n(?=\p{{L}})|\p{{L}}(?=[^\s\p{{L}}\p{{M}}\p{{N}}'{_HAN}])"
)


def decoded(text: bytes) -> str:
    """The text with one character for each invalid byte."""
    return text.decode("utf-8", "surrogateescape")


def encoded(text: str) -> bytes:
    """The inverse of `decoded`."""
    return text.encode("utf-8", "surrogateescape")


def split_specials(text: bytes, special_tokens: Collection[bytes]) -> Iterator[tuple[bytes, bool]]:
    """(piece, whether it is a special token) in order: leftmost first, the longest of those that begin together. Pieces
    of text may be empty."""
    if not special_tokens:
        yield text, False
        return
    longest_first = sorted(special_tokens, key=len, reverse=True)
    for k, piece in enumerate(re.split(b"(" + b"|".join(map(re.escape, longest_first)) + b")", text)):
        yield piece, k % 2 == 1


def split_pretokens(text: str, pattern: Pattern) -> Iterator[str]:
    """The pretokens of text without special tokens. What the expression does not match becomes separate pretokens, so
    that no bytes are lost."""
    if pattern.name in NAMED:  # which match every character
        yield from compile_custom(pattern.regex).findall(text)
        return
    pieces: Iterable[str] = [text]
    for expression in pattern.expressions:
        pieces = _split(pieces, compile_custom(expression))
    yield from pieces


def _split(pieces: Iterable[str], expression: Any) -> Iterator[str]:
    for text in pieces:
        done = 0
        for match in expression.finditer(text):
            for piece in (text[done : match.start()], match.group()):
                if piece:
                    yield piece
            done = match.end()
        if done < len(text):
            yield text[done:]


def straddles(text: AnyStr, cut: int, special_tokens: Collection[AnyStr]) -> bool:
    """Whether an occurrence of one of the tokens begins before `cut` and ends after it."""
    return any(
        text.find(token, max(0, cut - len(token) + 1), cut + len(token) - 1) >= 0 for token in special_tokens
    )


class Boundaries:
    """Where special tokens allow and forbid cuts.

    starts: the special tokens before which a text may be cut, longest first; context: how many bytes on both sides of a
    cut determine whether it is safe."""

    def __init__(self, special_tokens: Collection[bytes]):
        self.starts = sorted(special_tokens, key=len, reverse=True)
        self.context = len(self.starts[0]) if self.starts else 0

    def forbids(self, text: bytes, cut: int) -> bool:
        """Whether the special tokens found in the text depend on this cut."""
        return straddles(text, cut, self.starts)


def last_cut(text: bytes, latest: int, boundaries: Boundaries, pattern: Pattern, reach: int) -> int:
    """A safe cut in the last `reach` bytes before `latest`, which is at least 4 bytes from the end; 0 if none is found."""
    begin = max(0, latest - reach)
    window = decoded(text[begin:])
    cuts = [at for token in boundaries.starts if (at := text.rfind(token, begin, latest)) > 0]
    if pattern.name in NAMED:
        # A character that is cut off at the beginning counts as up to three others.
        ends = [match.end() for match in _BEFORE_CUT.finditer(window) if match.start() >= 3 or not begin]
        cuts += [begin + len(encoded(window[:end])) for end in ends[-8:]]
    for cut in sorted((cut for cut in cuts if cut <= latest), reverse=True):
        low = max(0, cut - boundaries.context)
        if not boundaries.forbids(text[low : cut + boundaries.context], cut - low):
            return cut
    return 0
