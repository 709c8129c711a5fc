"""Statistics of generated text: diversity, repetition and known words.

Input: texts, and the words of the training text. Output: {distinct_1, distinct_2, distinct_3, repetition, known_words},
each between 0 and 1; statistics that the texts are too short for are omitted.

- distinct_n: distinct n-grams of words ÷ all n-grams of words, over all texts (Li et al. 2016, distinct-n)
- repetition: fraction of 4-grams of words that occurred earlier in the same text, mean over texts (Welleck et al. 2020,
  seq-rep-4)
- known_words: fraction of words that occur in the training text

A word is a run of letters within a pretoken of GPT-2's pattern, case-folded, so "don't" is "don" and "t". The words of a
training text come from its counted pretokens, which takes seconds per gigabyte.
"""

import functools
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import regex

from lmfast.tokenizer.patterns import GPT2, get_pattern
from lmfast.tokenizer.plain_text import Boundaries
from lmfast.tokenizer.streaming import safe_pieces
from lmfast.tokenizer.text_file import Documents

PIECE = 1 << 19
"""ids per read when collecting the words of a token file; more need more memory and are slower"""
COUNTED_BYTES = 4 << 20
"""bytes of their text per worker"""


def text_statistics(texts: Sequence[str], known: Collection[str] | None = None) -> dict[str, float]:
    """The statistics above; known_words only if `known`, the words of the training text, is given."""
    word_lists = [words(text) for text in texts]
    figures = {}
    for n in (1, 2, 3):
        grams = [gram for line in word_lists for gram in _grams(line, n)]
        if grams:
            figures[f"distinct_{n}"] = len(set(grams)) / len(grams)
    repeated = [1 - len(set(grams)) / len(grams) for line in word_lists if (grams := list(_grams(line, 4)))]
    if repeated:
        figures["repetition"] = sum(repeated) / len(repeated)
    number = sum(map(len, word_lists))
    if known is not None and number:
        figures["known_words"] = sum(word in known for line in word_lists for word in line) / number
    return figures


def words(text: str) -> list[str]:
    """The words of a text, in order.

    >>> words("Don't stop, 3 Hände!")
    ['don', 't', 'stop', 'hände']
    """
    pretoken, letters = _expressions()
    return [word.casefold() for piece in pretoken.findall(text) for word in letters.findall(piece)]


def _grams(line: list[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(line[i:] for i in range(n)))


@functools.lru_cache(maxsize=1)
def _expressions():
    return regex.compile(GPT2), regex.compile(r"\p{L}+")


def file_words(path: str | Path, special_tokens: Sequence[str], num_workers: int | None = None) -> set[str]:
    """The words of a text file, without special tokens. Raises UserError if it cannot be read."""
    return _count_words([path], special_tokens, num_workers)


def token_words(
    tokens: np.ndarray, tokenizer, limit: int | None = None, num_workers: int | None = None
) -> set[str]:
    """The words of the decoded text of `tokens`, or of its first `limit` ids."""
    first = np.zeros(max(tokenizer.vocab) + 1, bool)  # tokens that never continue a word
    for token, text in tokenizer.vocab.items():
        first[token] = text[:1].isspace()
    first[list(tokenizer.special_tokens.values())] = True
    found: set[str] = set()
    at, end = 0, len(tokens) if limit is None else min(limit, len(tokens))
    while at < end:
        upto = min(at + PIECE, end)
        if upto < end:
            # Cut between words, unless a word is longer than 1000 tokens.
            starts = np.flatnonzero(first[tokens[max(at + 1, upto - 1000) : upto]])
            if len(starts):
                upto = max(at + 1, upto - 1000) + int(starts[-1])
        text = tokenizer.decode_bytes(np.asarray(tokens[at:upto]))
        if text:
            found |= _count_words([_split_text(text, tokenizer)], list(tokenizer.special_tokens), num_workers)
        at = upto
    return found


def _split_text(text: bytes, tokenizer) -> Documents:
    """Splits a text into pieces that several workers can count independently."""
    specials = [special.encode() for special in tokenizer.special_tokens]
    parts = (text[i : i + COUNTED_BYTES] for i in range(0, len(text), COUNTED_BYTES))
    return Documents(
        lambda: ((piece, 0) for piece in safe_pieces(parts, Boundaries(specials), get_pattern("gpt2"))),
        len(text),
    )


def _count_words(texts: Sequence, special_tokens: Sequence[str], num_workers: int | None) -> set[str]:
    from lmfast.tokenizer.counting import count_pretokens

    counts = count_pretokens(texts, special_tokens, get_pattern("gpt2"), num_workers)
    # Separate pretokens by a zero byte, so that words do not run together.
    at = np.arange(len(counts)) + counts.offsets[1:]
    data = np.zeros(len(counts.data) + len(counts), np.uint8)
    data[np.delete(np.arange(len(data)), at)] = counts.data
    _, letters = _expressions()
    return {word.casefold() for word in letters.findall(data.tobytes().decode("utf-8", errors="replace"))}
