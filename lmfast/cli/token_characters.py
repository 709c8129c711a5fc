"""The text of each token of a sequence, where a character may be spread over several tokens.

In: the bytes of each token. Out: texts that join to the text of the sequence. Such a character is the text of the last of
its tokens. Bytes that are not part of a character are escaped.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Characters(NamedTuple):
    """text: may be empty. shared: characters of which the token holds some bytes, "" if none."""

    text: str
    shared: str = ""


def characters(pieces: Sequence[bytes]) -> list[Characters]:
    """
    >>> characters([b"caf", b"\\xc3", b"\\xa9s", b"\\xff"])
    [Characters(text='caf', shared=''), Characters(text='', shared='é'), Characters(text='és', shared='é'), \
Characters(text='\\\\xff', shared='')]
    """
    found: list[Characters] = []
    split: list[bytes] = []  # consecutive pieces that are not UTF-8 by themselves
    for piece in pieces:
        try:
            text = piece.decode()
        except UnicodeDecodeError:
            text = None
        if text is None or (split and not piece):
            split.append(piece)
            continue
        found += [*_split_characters(split), Characters(text)]
        split = []
    return found + _split_characters(split)


def _split_characters(pieces: list[bytes]) -> list[Characters]:
    data = b"".join(pieces)
    owners = [number for number, piece in enumerate(pieces) for _ in piece]
    texts, shared = [""] * len(pieces), [""] * len(pieces)
    start = 0
    while start < len(data):
        character, length = _first_character(data[start : start + 4])
        first, last = owners[start], owners[start + length - 1]
        texts[last] += character
        if first != last:
            for number in range(first, last + 1):
                shared[number] += character
        start += length
    return [Characters(*both) for both in zip(texts, shared, strict=True)]


def _first_character(data: bytes) -> tuple[str, int]:
    """(text, number of bytes) of the first character, or of a byte that begins none."""
    for length in range(1, len(data) + 1):
        try:
            return data[:length].decode(), length
        except UnicodeDecodeError:
            continue
    return data[:1].decode("utf-8", "backslashreplace"), 1
