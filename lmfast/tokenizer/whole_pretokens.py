"""The lookup, before merging, of pretokens that are tokens but are not produced by merges.

With tokenizer.json's `ignore_merges` and with .tiktoken ranks, a pretoken that is a token gets that token's id, and only
other pretokens are merged. This changes the result only for tokens that merging their own bytes does not produce (588 of
Llama 3's 128,000), so only those are in the table. A vocabulary without such tokens has no table: its tables are
`MergeTables` alone, for which `whole_token` compiles to nothing. Sources: `BPE::tokenize` in huggingface/tokenizers,
`encode_ordinary` in openai/tiktoken.
"""

import numpy as np
from numba import njit
from numba.extending import overload

from lmfast.tokenizer.chunks import padded
from lmfast.tokenizer.compiled.code_cache import enable_cache
from lmfast.tokenizer.compiled.intrinsics import (
    LONG_MARK,
    U0,
    U32,
    aligned_words,
    key_hash,
    load_u64,
    pretoken_key,
    same_bytes,
)
from lmfast.tokenizer.compiled.merge_kernels import SHORT, merge_long, merge_short
from lmfast.tokenizer.compiled.merge_tables import MergeTables

# MergeTables and two more arrays:
#   whole_rows  uint64, open addressing, four words per row: the pretoken's key (low, high), its id, its offset in the text
#   whole_text  uint8, the concatenated bytes of these pretokens, padded
WholeTables = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
_ROW = 4
NO_TOKEN = -1


@njit(inline="always")
def _find(rows, text, data, start, length, low, high):
    mask = (rows.shape[0] // _ROW) - 1
    slot = np.int64(key_hash(low, high) >> U32) & mask
    while True:
        row = _ROW * slot
        found = load_u64(rows, row + 1)
        if found == U0:
            return np.int64(NO_TOKEN)
        if (
            found == high
            and load_u64(rows, row) == low
            and (high < LONG_MARK or same_bytes(text, np.int64(load_u64(rows, row + 3)), data, start, length))
        ):
            return np.int64(load_u64(rows, row + 2))
        slot = (slot + 1) & mask


def whole_token(tables, data, start, length, low, high):
    """For compiled code: the id of a pretoken that is in the table, or NO_TOKEN. low, high: its key."""
    raise NotImplementedError


@overload(whole_token)
def _compiled_whole_token(tables, data, start, length, low, high):
    if len(tables) == 5:
        return lambda tables, data, start, length, low, high: NO_TOKEN
    return lambda tables, data, start, length, low, high: _find(
        tables[5], tables[6], data, start, length, low, high
    )


@njit
def _fill(rows, text, starts, lengths, ids):
    mask = (rows.shape[0] // _ROW) - 1
    for k in range(len(ids)):
        low, high = pretoken_key(text, starts[k], lengths[k])
        slot = np.int64(key_hash(low, high) >> U32) & mask
        while rows[_ROW * slot + 1] != U0:
            slot = (slot + 1) & mask
        rows[_ROW * slot : _ROW * slot + 4] = low, high, np.uint64(ids[k]), np.uint64(starts[k])


@njit(nogil=True)
def _merges_give(tables, text, starts, lengths, ids, out):
    """bool (n,): whether merging the bytes of each token gives exactly its id."""
    values = np.empty(2 * SHORT, np.uint64)
    given = np.empty(len(ids), np.bool_)
    for k in range(len(ids)):
        if lengths[k] <= SHORT:
            n = merge_short(text, starts[k], lengths[k], tables, values, out, 0)
        else:
            n = merge_long(text, starts[k], lengths[k], tables, out, 0)
        given[k] = n == 1 and out[0] == ids[k]
    return given


def with_whole_pretokens(tables: MergeTables, ids_by_token: dict[bytes, int]) -> MergeTables | WholeTables:
    """The tables, extended by the tokens in `ids_by_token` that the merges do not produce, if there are any."""
    enable_cache(_fill, _merges_give)
    tokens = [token for token in ids_by_token if token]
    text, starts, lengths, ids = _concatenated(tokens, ids_by_token)
    out = np.empty(max(map(len, tokens)) + 4, np.uint32)
    given = _merges_give(tables, text, starts, lengths, ids, out)
    if given.all():
        return tables
    missing = [token for token, is_produced in zip(tokens, given) if not is_produced]
    text, starts, lengths, ids = _concatenated(missing, ids_by_token)
    rows = aligned_words(_ROW << (2 * len(ids)).bit_length())
    _fill(rows, text, starts, lengths, ids)
    return (*tables, rows, text)


def _concatenated(
    tokens: list[bytes], ids_by_token: dict[bytes, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(the bytes of all tokens, padded; the start of each; its length; its id)."""
    lengths = np.array([len(token) for token in tokens], np.int64)
    ids = np.array([ids_by_token[token] for token in tokens], np.int64)
    return padded(b"".join(tokens)), np.cumsum(lengths) - lengths, lengths, ids
