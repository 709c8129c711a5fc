"""Decodes ids to bytes with a compiled gather over a table of the vocabulary.

In: a 1-D integer array of ids. Out: uint8, the concatenated bytes of the tokens. Rejects ids that are not in the
vocabulary, with the position of the first one. The gather takes about 2 ns per id; converting a list to an array takes 5
to 16 ns, and joining tokens in plain Python 50 to 100.

A row of the table is 16 bytes: a token's first eight bytes, and its offset in the text of all tokens.
Nine tokens in ten need only this row and one 8-byte store; the store may write past the token's end, where the
next token goes, so the output has some spare bytes.
"""

from array import array
from collections.abc import Mapping

import numpy as np
from numba import njit

from lmfast.tokenizer.compiled.code_cache import enable_cache
from lmfast.tokenizer.compiled.intrinsics import load_u64, store_u64
from lmfast.tokenizer.plain_decoding import unknown_id

_SPARE = 16


@njit(nogil=True)
def _total_length(ids, lengths):
    """The total number of bytes of the tokens, or -1 - position of the first id that is not a token."""
    total = np.int64(0)
    for i in range(ids.shape[0]):
        token = np.int64(ids[i])
        if token < 0 or token >= lengths.shape[0] or lengths[token] < 0:
            return -1 - i
        total += lengths[token]
    return total


@njit(nogil=True)
def _gather(ids, table, lengths, text, out):
    at = np.int64(0)
    for i in range(ids.shape[0]):
        token = np.int64(ids[i])
        store_u64(out, at, table[2 * token])
        length = np.int64(lengths[token])
        if length > 8:
            start = np.int64(table[2 * token + 1])
            for k in range(8, length, 8):
                store_u64(out, at + k, load_u64(text, start + k))
        at += length


class Decoder:
    """The compiled table of one vocabulary."""

    def __init__(self, vocab: Mapping[int, bytes]):
        size = max(vocab, default=-1) + 1
        tokens = [vocab.get(i) for i in range(size)]
        self._lengths = np.array([-1 if token is None else len(token) for token in tokens], np.int32)
        self._text = np.frombuffer(b"".join(token or b"" for token in tokens) + bytes(_SPARE), np.uint8)
        lengths = np.maximum(self._lengths, 0).astype(np.int64)
        self._table = np.zeros(2 * size, np.uint64)
        self._table[0::2] = [int.from_bytes((token or b"")[:8], "little") for token in tokens]
        self._table[1::2] = (np.cumsum(lengths) - lengths).astype(np.uint64)
        enable_cache(_total_length, _gather)

    def decode(self, ids: "np.ndarray | array[int]") -> np.ndarray:
        """uint8, the bytes of all tokens."""
        given = ids = np.asarray(ids)
        if ids.dtype == np.uint64:
            ids = ids.view(np.int64)  # ids of 2^63 and up become negative and are rejected as such
        elif ids.dtype not in (np.uint16, np.uint32, np.int64):
            ids = ids.astype(np.int64)
        total = _total_length(ids, self._lengths)
        if total < 0:
            raise unknown_id(int(given[-1 - total]), int(-1 - total), len(self._lengths))
        out = np.empty(total + _SPARE, np.uint8)
        _gather(ids, self._table, self._lengths, self._text, out)
        return out[:total]
