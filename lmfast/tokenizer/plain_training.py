"""Trains on small texts in plain Python: the merges of counting.py and merging.py, without waiting for Numba.

In: plain text files, special tokens, a pattern; a number of merges. Out: pretokens with their counts; the merges in the
order they are chosen. A text of 1 MB takes about two seconds, less than compiling takes at the first call ever.
"""

import heapq
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from lmfast.tokenizer.patterns import Pattern
from lmfast.tokenizer.plain_text import decoded, encoded, split_pretokens, split_specials
from lmfast.tokenizer.text_file import TextFile

logger = logging.getLogger(__name__)

MERGES_PER_REPORT = 512
MOST_WORK = 10_000_000  # sum of squared lengths of pretokens: some 2 s of merging


def count_pretokens(
    texts: Sequence[TextFile],
    special_tokens: Sequence[str],
    pattern: Pattern,
    progress: Callable[[int, int], None] | None = None,
) -> dict[bytes, int]:
    """{pretoken: count}, sorted by bytes. progress: called with (bytes done, bytes in total)."""
    counts: Counter[str] = Counter()
    specials = [encoded(text) for text in special_tokens]
    total, done = sum(map(len, texts)), 0
    for text in texts:
        for piece, is_special in split_specials(text.read(), specials):
            if not is_special:
                counts.update(split_pretokens(decoded(piece), pattern))
        done += len(text)
        if progress is not None:
            progress(done, total)
    return dict(sorted((encoded(pretoken), count) for pretoken, count in counts.items()))


def is_little_work(counts: Mapping[bytes, int]) -> bool:
    """Whether `learn_merges` is quick: each merge rewrites the pretokens that it changes, so long ones are slow."""
    return sum(len(pretoken) ** 2 for pretoken in counts) <= MOST_WORK


def learn_merges(
    counts: Mapping[bytes, int], num_merges: int, on_merge: Callable[[int], None] | None = None
) -> list[tuple[bytes, bytes]]:
    """`merging.learn_merges`: the most frequent pair first, of equal counts the greater pair of byte strings.

    A pretoken is a string with one character per token, its id, so that `str.replace` merges a pair in it. Only the
    pretokens that contain the pair are looked at. Counts of existing pairs only fall, so the heap may hold outdated ones.
    """
    usable = {pretoken: count for pretoken, count in counts.items() if len(pretoken) >= 2 and count > 0}
    words = [pretoken.decode("latin-1") for pretoken in usable]
    weights = list(usable.values())
    tokens = [bytes([byte]) for byte in range(256)]
    order = [_descending(token) for token in tokens]
    pair_counts: defaultdict[str, int] = defaultdict(int)
    where: defaultdict[str, set[int]] = defaultdict(set)  # pair → words that contain it, or did
    for number, word in enumerate(words):
        for pair in map("".join, pairwise(word)):
            pair_counts[pair] += weights[number]
            where[pair].add(number)

    def entry(pair: str) -> tuple[int, str, str, str]:
        return -pair_counts[pair], order[ord(pair[0])], order[ord(pair[1])], pair

    heap = [entry(pair) for pair in pair_counts]
    heapq.heapify(heap)
    debug = logger.isEnabledFor(logging.DEBUG)
    if debug:
        for pretoken, count in sorted(counts.items(), key=lambda item: -item[1])[:20]:
            logger.debug("pretoken %r: %d", pretoken, count)
    merges: list[tuple[bytes, bytes]] = []
    while heap and len(merges) < num_merges:
        count, _, _, pair = heapq.heappop(heap)
        if pair_counts[pair] != -count:
            if pair_counts[pair] > 0:
                heapq.heappush(heap, entry(pair))
            continue
        a, b = tokens[ord(pair[0])], tokens[ord(pair[1])]
        new = chr(len(tokens))
        tokens.append(a + b)
        order.append(_descending(a + b))
        merges.append((a, b))
        changes: defaultdict[str, int] = defaultdict(int)
        for number in where.pop(pair):
            word, weight = words[number], weights[number]
            words[number] = merged = word.replace(pair, new)
            for old in map("".join, pairwise(word)):
                changes[old] -= weight
            for present in map("".join, pairwise(merged)):
                changes[present] += weight
                if new in present:
                    where[present].add(number)
        for changed, change in changes.items():
            if change:
                pair_counts[changed] += change
                if new in changed:
                    heapq.heappush(heap, entry(changed))
        if debug:
            logger.debug("merge %d: %r + %r, %d times", len(merges), a, b, -count)
        if on_merge is not None and len(merges) % MERGES_PER_REPORT == 0:
            on_merge(len(merges))
    if on_merge is not None and merges:
        on_merge(len(merges))
    return merges


def _descending(token: bytes) -> str:
    """A key that sorts byte strings in descending order; a string comes before its own beginnings."""
    return "".join([chr(255 - byte) for byte in token]) + "\u0100"
