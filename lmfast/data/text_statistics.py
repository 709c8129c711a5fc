"""Figures about generated text: how varied it is, how much it repeats itself, how many of its words exist.

In: texts, and the words of the training text. Out: {distinct_1, distinct_2, distinct_3, repetition, known_words},
each a share from 0 to 1; what a text is too short for is left out.

- distinct_n: different n-grams of words ÷ n-grams of words, over all texts together (Li et al. 2016, distinct-n)
- repetition: share of a text's 4-grams of words that it has said before, mean over the texts (Welleck et al. 2020,
  seq-rep-4)
- known_words: share of words that occur in the training text

A word is a run of letters within a pretoken of GPT-2's pattern, case folded; so "don't" is "don" and "t". The words of
a training text come from counted pretokens, so a gigabyte costs seconds, not minutes.
"""

import functools
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lmfast.tokenizer.counting import Documents

PIECE = 1 << 23
"""ids decoded together when a token file's words are collected"""
COUNTED_BYTES = 4 << 20
"""of their text counted together by one worker"""


def text_statistics(texts: Sequence[str], known: Collection[str] | None = None) -> dict[str, float]:
    """The figures above; known_words only where the training text's words are given."""
    said = [words(text) for text in texts]
    figures = {}
    for n in (1, 2, 3):
        grams = [gram for line in said for gram in _grams(line, n)]
        if grams:
            figures[f"distinct_{n}"] = len(set(grams)) / len(grams)
    repeated = [1 - len(set(grams)) / len(grams) for line in said if (grams := list(_grams(line, 4)))]
    if repeated:
        figures["repetition"] = sum(repeated) / len(repeated)
    number = sum(map(len, said))
    if known is not None and number:
        figures["known_words"] = sum(word in known for line in said for word in line) / number
    return figures


def words(text: str) -> list[str]:
    """Its words, in order.

    >>> words("Don't stop, 3 Hände!")
    ['don', 't', 'stop', 'hände']
    """
    pretoken, letters = _expressions()
    return [word.casefold() for piece in pretoken.findall(text) for word in letters.findall(piece)]


def _grams(line: list[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(line[i:] for i in range(n)))


@functools.lru_cache(maxsize=1)
def _expressions():
    import regex

    from lmfast.tokenizer.patterns import GPT2

    return regex.compile(GPT2), regex.compile(r"\p{L}+")


def file_words(path: str | Path, special_tokens: Sequence[str], num_workers: int | None = None) -> set[str]:
    """The words of a text file; special tokens are none. Raises UserError where it cannot be read."""
    return _count_words([path], special_tokens, num_workers)


def token_words(
    tokens: np.ndarray, tokenizer, limit: int | None = None, num_workers: int | None = None
) -> set[str]:
    """The words of the text that ids stand for; of the first `limit` ids where that is set."""
    first = np.zeros(max(tokenizer.vocab) + 1, bool)  # tokens that a word never runs into from the left
    for token, text in tokenizer.vocab.items():
        first[token] = text[:1].isspace()
    first[list(tokenizer.special_tokens.values())] = True
    found: set[str] = set()
    at, end = 0, len(tokens) if limit is None else min(limit, len(tokens))
    while at < end:
        upto = min(at + PIECE, end)
        if upto < end:
            # Cut where no word is cut, unless a word is longer than a thousand tokens.
            starts = np.flatnonzero(first[tokens[max(at + 1, upto - 1000) : upto]])
            if len(starts):
                upto = max(at + 1, upto - 1000) + int(starts[-1])
        text = tokenizer.decode_bytes(np.asarray(tokens[at:upto]))
        if text:
            found |= _count_words([_split_text(text, tokenizer)], list(tokenizer.special_tokens), num_workers)
        at = upto
    return found


def _split_text(text: bytes, tokenizer) -> "Documents":
    """A text in pieces that can be counted alone, by several workers."""
    from lmfast.tokenizer.counting import Documents
    from lmfast.tokenizer.patterns import get_pattern
    from lmfast.tokenizer.streaming import safe_pieces

    specials = [special.encode() for special in tokenizer.special_tokens]
    parts = (text[i : i + COUNTED_BYTES] for i in range(0, len(text), COUNTED_BYTES))
    return Documents(
        lambda: ((piece, 0) for piece in safe_pieces(parts, specials, get_pattern("gpt2"))), len(text)
    )


def _count_words(texts: Sequence, special_tokens: Sequence[str], num_workers: int | None) -> set[str]:
    from lmfast.tokenizer.counting import count_pretokens
    from lmfast.tokenizer.patterns import get_pattern

    counts = count_pretokens(texts, special_tokens, get_pattern("gpt2"), num_workers)
    # Between pretokens goes a byte that is no letter, so that none of them run together.
    at = np.arange(len(counts)) + counts.offsets[1:]
    data = np.zeros(len(counts.data) + len(counts), np.uint8)
    data[np.delete(np.arange(len(data)), at)] = counts.data
    _, letters = _expressions()
    return {word.casefold() for word in letters.findall(data.tobytes().decode("utf-8", errors="replace"))}
