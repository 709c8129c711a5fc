"""Encodes small texts in plain Python: the ids of encoding.py, without waiting for Numba.

In: text as bytes, a vocabulary (bytes → id), its merges, special tokens, a pattern. Out: ids as a list, or a token file.
It remembers the ids of every pretoken it has seen, so it is for texts whose total size is bounded (compile_cost.py).
"""

import heapq
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from lmfast.files import atomic_write
from lmfast.tokenizer.encode_summary import EncodeSummary
from lmfast.tokenizer.npy_header import npy_header
from lmfast.tokenizer.patterns import Pattern
from lmfast.tokenizer.plain_text import decoded, encoded, split_pretokens, split_specials
from lmfast.tokenizer.text_file import TextFile
from lmfast.tokenizer.text_rules import NO_RULES, TextRules

if TYPE_CHECKING:
    import numpy as np


class PlainEncoder:
    """A vocabulary for encoding in plain Python; the arguments are those of `encoding.Encoder`, with ids by token."""

    def __init__(
        self,
        ids_by_token: Mapping[bytes, int],
        merges: Sequence[tuple[bytes, bytes]],
        special_tokens: Mapping[str, int],
        pattern: Pattern,
        ignore_merges: bool = False,
        rules: TextRules = NO_RULES,
    ):
        self._tokens = ids_by_token.keys()
        self._ids = _PretokenIds(ids_by_token, merges, ignore_merges)
        self._special_tokens = special_tokens
        self._pattern = pattern
        self._rules = rules
        self._finders: dict[frozenset[str], Callable[[bytes], Iterator[tuple[bytes, int | None]]]] = {}

    def encode(
        self, data: "bytes | bytearray | np.ndarray", allowed_special: Collection[str] | str = "all"
    ) -> list[int]:
        """The ids of a byte string. `allowed_special`: the special tokens to recognise, a set of them, "all" or "none"."""
        ids: list[int] = []
        for piece, token in self._finder(allowed_special)(bytes(data)):
            if token is not None:
                ids.append(token)
            else:
                for pretoken in split_pretokens(decoded(piece), self._pattern):
                    ids += self._ids[pretoken]
        return ids

    def _finder(
        self, allowed_special: Collection[str] | str
    ) -> Callable[[bytes], Iterator[tuple[bytes, int | None]]]:
        """What splits a text into pieces and special tokens with their ids."""
        if isinstance(allowed_special, str):
            allowed_special = self._special_tokens if allowed_special == "all" else ()
        key = frozenset(allowed_special)
        if key not in self._finders:
            self._finders[key] = self._make_finder({text: self._special_tokens[text] for text in key})
        return self._finders[key]

    def _make_finder(
        self, special_tokens: Mapping[str, int]
    ) -> Callable[[bytes], Iterator[tuple[bytes, int | None]]]:
        ids = {encoded(text): token for text, token in special_tokens.items()}
        ruled_text = self._rules.ruled_text(special_tokens)

        def find(data: bytes) -> Iterator[tuple[bytes, int | None]]:
            if ruled_text is not None and ruled_text.applies(data):
                return ruled_text.split(data)
            return ((piece, ids[piece] if special else None) for piece, special in split_specials(data, ids))

        return find

    @property
    def looks_up_whole(self) -> bool:
        """Whether some tokens are found only by looking up whole pretokens."""
        return any(self._ids.merged(token) != [token] for token in self._tokens if token)

    def encode_file(
        self,
        text: TextFile,
        dst: str | os.PathLike[str],
        dtype: "np.dtype",
        progress: Callable[[int, int], None] | None = None,
    ) -> EncodeSummary:
        """As `encoding.encode_file`."""
        import numpy as np

        began = time.perf_counter()
        data = text.read()
        ids = self.encode(data)
        specials = [piece for piece, token in self._finder("all")(data) if token is not None]
        with atomic_write(dst) as temporary, temporary.open("wb") as file:
            file.write(npy_header(dtype, len(ids)))
            file.write(np.array(ids, dtype.newbyteorder("<")))
        if progress is not None and data:
            progress(len(data), len(data))
        return EncodeSummary(
            len(ids), len(data), len(specials), sum(map(len, specials)), time.perf_counter() - began
        )


class _PretokenIds(dict[str, list[int]]):
    """Pretoken → ids; a pretoken that is looked up for the first time is merged."""

    def __init__(
        self, ids_by_token: Mapping[bytes, int], merges: Sequence[tuple[bytes, bytes]], ignore_merges: bool
    ):
        super().__init__()
        self._ids = ids_by_token
        self._ranks = {
            pair: rank for rank, pair in reversed([*enumerate(merges)])
        }  # the first of equal merges
        self._ignore_merges = ignore_merges

    def __missing__(self, pretoken: str) -> list[int]:
        text = encoded(pretoken)
        if self._ignore_merges and text in self._ids:
            ids = [self._ids[text]]
        else:
            ids = [self._ids[token] for token in self.merged(text)]
        self[pretoken] = ids
        return ids

    def merged(self, pretoken: bytes) -> list[bytes]:
        return merged(pretoken, self._ranks)


def merged(pretoken: bytes, ranks: Mapping[tuple[bytes, bytes], int]) -> list[bytes]:
    """The pretoken's tokens after all merges: the lowest rank first, the leftmost of equal ranks.

    A heap of pairs by rank and position, and for each token the position of its neighbours: n log n for n bytes.
    """
    size = len(pretoken)
    tokens = [
        pretoken[i : i + 1] for i in range(size)
    ]  # at the position of its first byte; b"" if merged away
    before, after = [*range(-1, size - 1)], [*range(1, size + 1)]
    heap = [(ranks[pair], i) for i, pair in enumerate(pairwise(tokens)) if pair in ranks]
    heapq.heapify(heap)
    while heap:
        rank, i = heapq.heappop(heap)
        j = after[i]
        if j == size or ranks.get((tokens[i], tokens[j])) != rank:
            continue  # one of the two has been merged with another token since
        tokens[i] += tokens[j]
        tokens[j] = b""
        after[i] = after[j]
        if after[i] < size:
            before[after[i]] = i
        for left in (before[i], i):
            right = after[left] if left >= 0 else size
            if right < size and (rank := ranks.get((tokens[left], tokens[right]))) is not None:
                heapq.heappush(heap, (rank, left))
    return [token for token in tokens if token]
