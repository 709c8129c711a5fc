"""Checks that decoding restores the source of a document or of a whole file.

Input: a tokenizer, ids or a file, and its source if known. Output: one line that confirms it or gives the position of the
first difference. The source of a token file is given or recorded in its summary; without one, its documents are decoded
and encoded again, which must give the same ids.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from lmfast.data.chat import shares_ids
from lmfast.data.finding import find_sources
from lmfast.data.sources import documents, plan_shards
from lmfast.data.token_file import TokenFile, open_tokens
from lmfast.errors import UserError
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.documents import open_text
from lmfast.tokenizer.file_kinds import is_plain_text
from lmfast.tokenizer.special_tokens import DOCUMENT_END

PIECE = 1 << 22  # ids or bytes per read

ROUND_TRIPS = "decoding restores the source: yes"


def first_difference(a, b) -> int | None:
    """Position of the first difference of two sequences, or None."""
    if a == b:
        return None
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def compare_with_source(decoded: bytes, source: bytes, offset: int = 0) -> str:
    """Compares a decoded text with its source. offset: its position in the source file, for the report."""
    at = first_difference(decoded, source)
    if at is None:
        return ROUND_TRIPS
    if at == min(len(decoded), len(source)):
        which = "the source" if at == len(source) else "decoding"
        return f"decoding agrees with the source up to byte {offset + at}, where {which} ends"
    return f"decoding differs from the source at byte {offset + at}"


def compare_reencoded(tokenizer: Tokenizer, ids: np.ndarray, offset: int = 0) -> str:
    """Decodes and encodes ids again and compares. offset: their position in the token file, for the report."""
    again = tokenizer.encode_array(tokenizer.decode_bytes(ids))
    at = first_difference(again.tolist(), ids.tolist())
    if at is None:
        return "decoding and encoding again restores the ids: yes"
    return f"encoding the decoded text gives other ids from position {offset + at}"


def open_matching_tokens(name: str | Path, tokenizer: Tokenizer) -> TokenFile:
    """Opens a token file. Raises UserError if its summary records another tokenizer, which would decode it to nonsense."""
    file = open_tokens(name, tokenizer.vocab_size)
    made_by = (file.summary or {}).get("tokenizer_sha256")
    if made_by is not None and not shares_ids(tokenizer, made_by):
        home = "" if file.tokenizer_path is None else f", {file.tokenizer_path}"
        raise UserError(f"{name}: was encoded with another tokenizer{home}; give that one with --tokenizer")
    return file


def find_source(file: TokenFile, named: str | None) -> np.ndarray | None:
    """The source text of a token file, memory-mapped, or None if it is unknown or its size has changed."""
    if named is not None:
        return open_text(named)
    summary = file.summary or {}
    path = summary.get("source")
    if path is None or not Path(path).is_file() or Path(path).stat().st_size != summary.get("bytes"):
        return None
    return open_text(path)


def source_offset(tokenizer: Tokenizer, tokens: np.ndarray, position: int) -> int:
    """Byte offset in the source of a token position: the bytes of all tokens before it."""
    sizes = tokenizer.token_lengths()
    return sum(int(sizes[tokens[i : min(i + PIECE, position)]].sum()) for i in range(0, position, PIECE))


def verify_tokens(tokenizer: Tokenizer, file: TokenFile, source: np.ndarray | None) -> str:
    """Compares a whole token file with its source, or re-encodes it document by document."""
    tokens = file.tokens
    if source is None:
        for begin, ids in _whole_documents(tokens, tokenizer.special_tokens.get(DOCUMENT_END)):
            verdict = compare_reencoded(tokenizer, ids, begin)
            if "other ids" in verdict:
                return verdict
        return verdict
    pieces = (tokenizer.decode_bytes(np.asarray(tokens[i : i + PIECE])) for i in range(0, len(tokens), PIECE))
    return _against(pieces, source)


def verify_text(tokenizer: Tokenizer, name: str, field: str) -> str:
    """Encodes, decodes and compares a whole text, or all records of a file."""
    path = Path(name)
    if is_plain_text(path):
        text = open_text(name)
        pieces = (text[i : i + PIECE].tobytes() for i in range(0, len(text), PIECE))
        return _against((tokenizer.decode_bytes(ids) for ids in tokenizer.encode_arrays(pieces)), text)
    number = -1
    for shard in plan_shards(find_sources([path])):
        for document in documents(shard, field):
            number += 1
            decoded = tokenizer.decode_bytes(tokenizer.encode_array(document, "none"))
            verdict = compare_with_source(decoded, document)
            if verdict != ROUND_TRIPS:
                return f"document {number}: {verdict}"
    if number < 0:
        raise UserError(f"{name}: contains no documents; give another file")
    return ROUND_TRIPS


def _against(pieces: Iterable[bytes], source: np.ndarray) -> str:
    at = 0
    for piece in pieces:
        here = source[at : at + len(piece)].tobytes()
        verdict = compare_with_source(piece, here, at)
        if verdict != ROUND_TRIPS:
            return verdict
        at += len(piece)
    return compare_with_source(b"", source[at : at + 1].tobytes(), at)


def _whole_documents(tokens: np.ndarray, end: int | None) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (position, ids) in pieces of about `PIECE` ids that end at document boundaries."""
    begin = 0
    nowhere = np.empty(0, np.int64)
    while begin < len(tokens):
        stop = min(begin + PIECE, len(tokens))
        while stop < len(tokens):
            piece = np.asarray(tokens[stop : stop + PIECE])
            ends = nowhere if end is None else np.flatnonzero(piece == end)
            if len(ends):
                stop += int(ends[0]) + 1
                break
            stop = min(stop + PIECE, len(tokens))
        yield begin, np.asarray(tokens[begin:stop])
        begin = stop
