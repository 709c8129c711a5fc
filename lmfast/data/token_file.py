"""Token files: memory-mapped, checked, and written atomically.

Formats: `.npy` (1-D, any integer dtype; ours are uint16 or uint32), `.bin` (headerless little-endian uint16 or uint32) and
text of ids separated by whitespace, which is converted once, as a stream, to `NAME.npy` in the same folder. `X.npy.json`
next to a file, written by `tokenizer encode`, is its summary: tokens, bytes, tokenizer_sha256, tokenizer (path),
tokenizer_relative (path relative to the folder of the token file), vocab_size, dtype, special_bytes.

Rejects files that are missing, empty, truncated, of another format or shorter than `min_length`; ids outside `vocab_size`;
uint16 files for a vocabulary that needs uint32; summaries of another file. Checks read the map in pieces.
"""

import functools
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmfast.errors import UserError
from lmfast.files import atomic_write
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.npy_header import npy_header

PIECE = 1 << 22  # ids (or bytes of text) per read
UINT16_IDS = 1 << 16
_BLANKS = np.zeros(256, bool)
_BLANKS[list(b" \t\r\n")] = True
_DIGITS = np.zeros(256, bool)
_DIGITS[list(b"0123456789")] = True


@dataclass(frozen=True)
class TokenFile:
    """tokens: 1-D integer memory map. path: the file as given. summary: the content of its .json file, if any."""

    tokens: np.ndarray
    path: Path
    summary: dict | None

    @functools.cached_property
    def tokenizer_path(self) -> str | None:
        """Path of the tokenizer that made the ids, or None without a summary.

        The path in the summary; if files were moved, the relative path, or a tokenizer with the same fingerprint next to
        the token file or its folder; otherwise the path in the summary, which does not exist."""
        summary = self.summary or {}
        named = summary.get("tokenizer")
        if named is None or os.path.exists(named):
            return named
        here = self.path.absolute().parent
        names = dict.fromkeys((Path(named).name, "tokenizer"))
        places = [here / summary["tokenizer_relative"]] if "tokenizer_relative" in summary else []
        places += [folder / name for folder in (here, here.parent) for name in names]
        found = (p for p in places if _is_tokenizer(p, summary.get("tokenizer_sha256")))
        return next((os.path.normpath(place) for place in found), named)

    def sample_sha256(self) -> str:
        """SHA-256 of ids at 64 evenly spaced positions, independent of dtype: identifies a file without reading it all."""
        digest, span = hashlib.sha256(), 4096
        for start in sorted({int(at) for at in np.linspace(0, max(0, len(self.tokens) - span), 64)}):
            digest.update(self.tokens[start : start + span].astype("<u4").tobytes())
        return digest.hexdigest()

    @property
    def tokenizer_sha256(self) -> str | None:
        """Fingerprint of the tokenizer that made the ids; None if the summary does not contain it."""
        return (self.summary or {}).get("tokenizer_sha256")

    def check(self, vocab_size: int | None, min_length: int | None = None) -> None:
        """Raises UserError if the file is shorter than min_length or an id is not below vocab_size; None skips a check."""
        if min_length is not None and len(self) < min_length:
            raise UserError(
                f"{self.path}: has {len(self)} tokens, but one window needs {min_length} (context_length + 1); "
                "use a longer text or a smaller --context-length"
            )
        if vocab_size is not None:
            check_ids(self.tokens, vocab_size, self.path)

    def __len__(self) -> int:
        return len(self.tokens)


def _is_tokenizer(path: Path, sha256: str | None) -> bool:
    """Whether a tokenizer with this fingerprint is at `path`."""
    try:
        return path.exists() and Tokenizer.load(path).fingerprint() == sha256
    except UserError:
        return False


def dtype_for(vocab_size: int) -> np.dtype:
    """uint16 if every id fits, otherwise uint32."""
    return np.dtype(np.uint16 if vocab_size <= UINT16_IDS else np.uint32)


def open_tokens(
    path: str | Path,
    vocab_size: int | None = None,
    min_length: int | None = None,
    dtype: np.dtype | str | None = None,
) -> TokenFile:
    """Memory-maps a token file and checks it.

    vocab_size: exclusive upper bound of the ids; None skips the check. min_length: minimum number of tokens
    (context_length + 1). dtype: of a `.bin` file; defaults to the smallest that holds vocab_size, or uint16.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such token file; create it with `lmfast tokenizer encode`")
    if path.is_dir():
        raise UserError(f"{path}: is a directory; give a token file (.npy, .bin, or text of ids)")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: is empty; encode a non-empty text")
    stored_at = path
    if path.suffix.lower() == ".npy":
        tokens = _open_npy(path)
    elif path.suffix.lower() == ".bin":
        tokens = _open_bin(path, vocab_size, dtype)
    else:
        stored_at = converted_path(path)
        if not _is_converted(path, stored_at):
            convert_text(path, stored_at)
        tokens = _open_npy(stored_at)
    if len(tokens) == 0:
        raise UserError(f"{path}: contains no tokens; encode a non-empty text")
    file = TokenFile(tokens, path, _read_summary(stored_at, len(tokens)))
    file.check(vocab_size, min_length)
    return file


def check_ids(tokens: np.ndarray, vocab_size: int, path: str | Path) -> None:
    """Raises UserError at the first id that is negative or not below `vocab_size`."""
    if tokens.dtype == np.uint16 and vocab_size > UINT16_IDS:
        raise UserError(
            f"{path}: uint16 ids are too small for a vocabulary of {vocab_size}; encode the text again with that "
            "tokenizer, which writes uint32"
        )
    for start in range(0, len(tokens), PIECE):
        piece = tokens[start : start + PIECE]
        if int(piece.max()) < vocab_size and (piece.dtype.kind == "u" or int(piece.min()) >= 0):
            continue
        position = int(np.flatnonzero((piece >= vocab_size) | (piece < 0))[0])
        raise UserError(
            f"{path}: id {int(piece[position])} at position {start + position} is outside the vocabulary of "
            f"{vocab_size}; was it encoded with another tokenizer?"
        )


def _open_npy(path: Path) -> np.ndarray:
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a complete .npy file ({reason}); encode the text again") from None
    if not isinstance(tokens, np.ndarray) or tokens.ndim != 1 or tokens.dtype.kind not in "ui":
        raise UserError(
            f"{path}: contains {getattr(tokens, 'dtype', 'an archive')} of shape {getattr(tokens, 'shape', ())}; "
            "a token file is a 1-D array of integers (uint16 or uint32)"
        )
    return tokens


def _open_bin(path: Path, vocab_size: int | None, dtype: np.dtype | str | None) -> np.ndarray:
    kind = np.dtype(dtype) if dtype is not None else dtype_for(vocab_size or 0)
    size = path.stat().st_size
    if size % kind.itemsize:
        raise UserError(
            f"{path}: {size} bytes are not a multiple of the size of {kind}; is it truncated, or of another dtype?"
        )
    tokens = np.memmap(path, kind.newbyteorder("<"), mode="r")
    head = np.asarray(tokens[:4096])
    if kind == np.uint16 and dtype is None and len(head) >= 64 and not head[1::2].any() and head.any():
        raise UserError(
            f"{path}: every second uint16 is zero, so the ids seem to be uint32; save them as .npy, which records the type"
        )
    return tokens


def _read_summary(path: Path, num_tokens: int) -> dict | None:
    side = path.with_name(path.name + ".json")
    try:
        summary = json.loads(side.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{side}: not valid JSON ({error}); delete it or encode again") from None
    if not isinstance(summary, dict) or summary.get("tokens") != num_tokens:
        recorded = summary.get("tokens") if isinstance(summary, dict) else summary
        raise UserError(
            f"{side}: records {recorded} tokens, but {path.name} has {num_tokens}; delete it or encode again"
        )
    return summary


class TokenWriter:
    """Writes a 1-D `.npy` file in pieces; the file appears when the `with` block ends without an exception.

    with TokenWriter("ids.npy", np.uint16) as writer:
        writer.write(ids)
    """

    def __init__(self, path: str | Path, dtype: np.dtype | type):
        self.path, self.dtype = Path(path), np.dtype(dtype)
        self.num_tokens = 0
        self._guard = atomic_write(self.path)

    def __enter__(self) -> "TokenWriter":
        temporary = self._guard.__enter__()
        try:
            self._file = temporary.open("wb")
            self._file.write(npy_header(self.dtype, 0))
        except OSError as error:
            self._guard.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def write(self, ids: np.ndarray) -> None:
        """Appends ids. Raises UserError for an id that does not fit the dtype."""
        ids = np.asarray(ids)
        highest = np.iinfo(self.dtype).max
        if len(ids) and (int(ids.max()) > highest or int(ids.min()) < 0):
            position = int(np.flatnonzero((ids > highest) | (ids < 0))[0])
            raise UserError(
                f"{self.path}: id {int(ids[position])} at position {self.num_tokens + position} does not fit "
                f"{self.dtype}; use uint32"
            )
        # Not tofile, whose error on a full disk has no reason.
        self._file.write(np.ascontiguousarray(ids, self.dtype))
        self.num_tokens += len(ids)

    def __exit__(self, kind, error, trace) -> bool | None:
        try:
            if error is None:
                self._file.seek(0)
                self._file.write(npy_header(self.dtype, self.num_tokens))
            self._file.close()
        except OSError as failed:  # a full disk
            self._guard.__exit__(type(failed), failed, failed.__traceback__)
            raise
        return self._guard.__exit__(kind, error, trace)


def converted_path(path: Path) -> Path:
    return path.with_name(path.name + ".npy")


def _is_converted(source: Path, target: Path) -> bool:
    """Whether `target` is up to date: conversion gives it the modification time of its source."""
    return target.exists() and target.stat().st_mtime_ns == source.stat().st_mtime_ns


def convert_text(source: Path, target: Path) -> None:
    """Converts text of ids to `.npy` as a stream: uint16 if every id fits, otherwise uint32."""
    highest = max((int(ids.max()) for ids in _text_ids(source)), default=0)
    with TokenWriter(target, dtype_for(highest + 1)) as writer:
        for ids in _text_ids(source):
            writer.write(ids)
    stamp = source.stat().st_mtime_ns
    os.utime(target, ns=(stamp, stamp))


def _text_ids(path: Path):
    """Yields arrays of int64 ids in order, without splitting a number."""
    at, tail = 0, b""
    with path.open("rb") as file:
        while True:
            piece = file.read(PIECE)
            text = tail + piece
            codes = np.frombuffer(text, np.uint8)
            strange = ~(_DIGITS[codes] | _BLANKS[codes])
            if strange.any():
                i = int(np.flatnonzero(strange)[0])
                raise UserError(
                    f"{path}: byte {text[i : i + 1]!r} at position {at + i} is not a digit or whitespace; give a token "
                    "file (.npy, .bin or text of ids), or encode the text with `lmfast tokenizer encode`"
                )
            blanks = np.flatnonzero(_BLANKS[codes])
            cut = len(text) if not piece else (int(blanks[-1]) + 1 if len(blanks) else 0)
            if cut - (int(blanks[-1]) + 1 if len(blanks) else 0) > 10 or len(text) - cut > 10:
                raise UserError(
                    f"{path}: a number of more than 10 digits near byte {at + cut} is not a token id; is it a token file?"
                )
            ids = (
                np.fromstring(text[:cut], np.int64, sep=" ") if text[:cut].strip() else np.empty(0, np.int64)
            )
            if len(ids):
                if int(ids.max()) > 0xFFFFFFFF or int(ids.min()) < 0:
                    raise UserError(f"{path}: id {int(ids.max())} does not fit 32 bits; is it a token file?")
                yield ids
            at += cut
            tail = text[cut:]
            if not piece:
                return
