"""A slow and simple tokenizer that tests compare the compiled one with.

Text is bytes; an invalid UTF-8 byte is one character, neither letter, number nor space, as with Python's
`surrogateescape`. Special tokens are found leftmost first, and of several at one position the longest.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from lmfast.tokenizer.patterns import compile_custom


def split_specials(data: bytes, special_tokens: Sequence[bytes]) -> Iterator[tuple[bytes, bool]]:
    """(piece, whether it is a special token) in order; text pieces may be empty."""
    at = begin = 0
    longest_first = sorted(special_tokens, key=len, reverse=True)
    while at < len(data):
        found = next((token for token in longest_first if data.startswith(token, at)), None)
        if found is None:
            at += 1
            continue
        yield data[begin:at], False
        yield found, True
        at += len(found)
        begin = at
    yield data[begin:], False


def split_pretokens(text: bytes, expression: str) -> list[bytes]:
    """Pretokens of text without special tokens; unmatched text becomes separate pretokens."""
    decoded = text.decode("utf-8", "surrogateescape")
    pieces, done = [], 0
    for match in compile_custom(expression).finditer(decoded):
        pieces += [decoded[done : match.start()], match.group()]
        done = match.end()
    pieces.append(decoded[done:])
    return [piece.encode("utf-8", "surrogateescape") for piece in pieces if piece]


def count(data: bytes, special_tokens: Sequence[bytes], expression: str) -> Counter[bytes]:
    """{pretoken: count}."""
    counts = Counter()
    for piece, special in split_specials(data, special_tokens):
        if not special:
            counts.update(split_pretokens(piece, expression))
    return counts


def learn_merges(counts: Mapping[bytes, int], num_merges: int) -> list[tuple[bytes, bytes]]:
    """The most frequent pair first, ties to the greater pair of byte strings; ends when no pair is left."""
    words = {word: [word[i : i + 1] for i in range(len(word))] for word in counts}
    merges = []
    while len(merges) < num_merges:
        pairs = Counter()
        for word, symbols in words.items():
            for pair in itertools.pairwise(symbols):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = {word: merge_everywhere(symbols, best) for word, symbols in words.items()}
    return merges


def merge_everywhere(symbols: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    """Merges every occurrence of the pair into one symbol, from left to right."""
    merged, i = [], 0
    while i < len(symbols):
        if tuple(symbols[i : i + 2]) == pair:
            merged.append(symbols[i] + symbols[i + 1])
            i += 2
        else:
            merged.append(symbols[i])
            i += 1
    return merged


def merge_pretoken(pretoken: bytes, ranks: Mapping[tuple[bytes, bytes], int]) -> list[bytes]:
    """Applies one merge at a time: the lowest rank, the leftmost of equal ranks."""
    symbols = [pretoken[i : i + 1] for i in range(len(pretoken))]
    while True:
        pairs = [(ranks.get(pair, math.inf), i) for i, pair in enumerate(itertools.pairwise(symbols))]
        rank, i = min(pairs, default=(math.inf, 0))
        if rank == math.inf:
            return symbols
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]


def encode(
    data: bytes,
    vocab: Mapping[int, bytes],
    merges: Sequence[tuple[bytes, bytes]],
    special_tokens: Mapping[str, int],
    expression: str,
) -> list[int]:
    """The ids of a byte string, with all special tokens allowed."""
    specials = {text.encode("utf-8", "surrogateescape"): number for text, number in special_tokens.items()}
    ids_by_token = {
        text: number
        for number, text in sorted(vocab.items(), reverse=True)
        if number not in specials.values()
    }
    ranks = {}
    for rank, pair in enumerate(merges):
        ranks.setdefault(pair, rank)
    ids = []
    for piece, special in split_specials(data, list(specials)):
        if special:
            ids.append(specials[piece])
        else:
            for pretoken in split_pretokens(piece, expression):
                ids += [ids_by_token[symbol] for symbol in merge_pretoken(pretoken, ranks)]
    return ids
