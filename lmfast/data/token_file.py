"""Token files: opened as a memory map, checked, and written without ever being half there.

Read: `.npy` (1-D, any integer dtype, ours are uint16 or uint32), `.bin` (headerless little-endian uint16 or
uint32), and text files of ids separated by blanks or newlines, which are converted once, as a stream, to
`NAME.npy` beside the source. `X.npy.json` beside a file, written by `tokenizer encode`, is its summary: tokens,
bytes, tokenizer_sha256, tokenizer (path), tokenizer_relative (the path from the token file's folder), vocab_size, dtype,
special_bytes.

Refused, in one line that names the file: a file that is missing, empty, cut short, of another kind or shorter
than `min_length`; ids outside `vocab_size`; a vocabulary that needs uint32 in a uint16 file; a summary that
belongs to another file. Nothing is loaded: checking reads the map in pieces.
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
from lmfast.tokenizer.npy_header import npy_header

PIECE = 1 << 22  # ids (or bytes of text) looked at together
UINT16_IDS = 1 << 16
_BLANKS = np.zeros(256, bool)
_BLANKS[list(b" \t\r\n")] = True
_DIGITS = np.zeros(256, bool)
_DIGITS[list(b"0123456789")] = True


@dataclass(frozen=True)
class TokenFile:
    """tokens: 1-D integer memory map. path: the file that was asked for. summary: its side file, if any."""

    tokens: np.ndarray
    path: Path
    summary: dict | None

    @functools.cached_property
    def tokenizer_path(self) -> str | None:
        """Where the tokenizer is that made the ids: at the path that the summary names; where nothing is there (files were
        moved), at its relative path, or next to the token file or its folder, if it is that tokenizer. Else the path in
        the summary, where nothing is; None without a summary."""
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
        """sha256 of ids from 64 evenly spaced places, whatever their dtype: tells files apart without reading them whole."""
        digest, span = hashlib.sha256(), 4096
        for start in sorted({int(at) for at in np.linspace(0, max(0, len(self.tokens) - span), 64)}):
            digest.update(self.tokens[start : start + span].astype("<u4").tobytes())
        return digest.hexdigest()

    @property
    def tokenizer_sha256(self) -> str | None:
        """Fingerprint of the tokenizer that made the ids; None where the summary does not name it."""
        return (self.summary or {}).get("tokenizer_sha256")

    def check(self, vocab_size: int | None, min_length: int | None = None) -> None:
        """Raises UserError where the file is shorter than min_length or an id is not below vocab_size; None: any."""
        if min_length is not None and len(self) < min_length:
            raise UserError(
                f"{self.path}: {len(self)} tokens are fewer than the {min_length} that one window needs "
                "(context_length + 1); use a longer text or a smaller --context-length"
            )
        if vocab_size is not None:
            check_ids(self.tokens, vocab_size, self.path)

    def __len__(self) -> int:
        return len(self.tokens)


def _is_tokenizer(path: Path, sha256: str | None) -> bool:
    """Whether a tokenizer with this fingerprint is at `path`."""
    from lmfast.tokenizer.bpe import Tokenizer

    try:
        return path.exists() and Tokenizer.load(path).fingerprint() == sha256
    except UserError:
        return False


def dtype_for(vocab_size: int) -> np.dtype:
    """uint16 while every id fits, else uint32."""
    return np.dtype(np.uint16 if vocab_size <= UINT16_IDS else np.uint32)


def open_tokens(
    path: str | Path,
    vocab_size: int | None = None,
    min_length: int | None = None,
    dtype: np.dtype | str | None = None,
) -> TokenFile:
    """Maps a token file into memory and checks it.

    vocab_size: every id must be below it; None leaves ids unchecked. min_length: fewest tokens that are of use
    (context_length + 1). dtype: of a `.bin` file; without it the smallest that holds vocab_size, uint16 when
    that is not known either.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such token file; make one with `python -m lmfast.tokenizer encode`")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a token file (.npy, .bin, or text of ids)")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: is empty; encode a text that is not")
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
        raise UserError(f"{path}: holds no tokens; encode a text that is not empty")
    file = TokenFile(tokens, path, _read_summary(stored_at, len(tokens)))
    file.check(vocab_size, min_length)
    return file


def check_ids(tokens: np.ndarray, vocab_size: int, path: str | Path) -> None:
    """Raises UserError at the first id that is negative or not below `vocab_size`."""
    if tokens.dtype == np.uint16 and vocab_size > UINT16_IDS:
        raise UserError(
            f"{path}: its uint16 ids cannot hold a vocabulary of {vocab_size}; encode the text again with that "
            "tokenizer (it writes uint32)"
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
        raise UserError(f"{path}: not a whole .npy file ({reason}); encode the text again") from None
    if not isinstance(tokens, np.ndarray) or tokens.ndim != 1 or tokens.dtype.kind not in "ui":
        raise UserError(
            f"{path}: holds {getattr(tokens, 'dtype', 'an archive')} of shape {getattr(tokens, 'shape', ())}; "
            "a token file is one row of integers (uint16 or uint32)"
        )
    return tokens


def _open_bin(path: Path, vocab_size: int | None, dtype: np.dtype | str | None) -> np.ndarray:
    kind = np.dtype(dtype) if dtype is not None else dtype_for(vocab_size or 0)
    size = path.stat().st_size
    if size % kind.itemsize:
        raise UserError(
            f"{path}: {size} bytes are no whole number of {kind} ids; it is cut short or of another dtype"
        )
    tokens = np.memmap(path, kind.newbyteorder("<"), mode="r")
    head = np.asarray(tokens[:4096])
    if kind == np.uint16 and dtype is None and len(head) >= 64 and not head[1::2].any() and head.any():
        raise UserError(
            f"{path}: every second uint16 is zero, so its ids look like uint32; save it as .npy, which says so"
        )
    return tokens


def _read_summary(path: Path, num_tokens: int) -> dict | None:
    side = path.with_name(path.name + ".json")
    try:
        summary = json.loads(side.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{side}: cannot be read as JSON ({error}); delete it or encode again") from None
    if not isinstance(summary, dict) or summary.get("tokens") != num_tokens:
        told = summary.get("tokens") if isinstance(summary, dict) else summary
        raise UserError(
            f"{side}: tells of {told} tokens, and {path.name} holds {num_tokens}; delete it or encode again"
        )
    return summary


class TokenWriter:
    """Writes a 1-D `.npy` piece by piece; the file appears under its name when the `with` block ends well.

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
        """Appends ids; one that the dtype cannot hold is refused, not wrapped."""
        ids = np.asarray(ids)
        highest = np.iinfo(self.dtype).max
        if len(ids) and (int(ids.max()) > highest or int(ids.min()) < 0):
            position = int(np.flatnonzero((ids > highest) | (ids < 0))[0])
            raise UserError(
                f"{self.path}: id {int(ids[position])} at position {self.num_tokens + position} does not fit "
                f"{self.dtype}; write uint32"
            )
        # Not tofile: on a full disk that raises an error without a reason.
        self._file.write(np.ascontiguousarray(ids, self.dtype))
        self.num_tokens += len(ids)

    def __exit__(self, kind, error, trace) -> bool | None:
        try:
            if error is None:
                self._file.seek(0)
                self._file.write(npy_header(self.dtype, self.num_tokens))
            self._file.close()
        except OSError as failed:  # what was written last did not fit on the disk
            self._guard.__exit__(type(failed), failed, failed.__traceback__)
            raise
        return self._guard.__exit__(kind, error, trace)


def converted_path(path: Path) -> Path:
    return path.with_name(path.name + ".npy")


def _is_converted(source: Path, target: Path) -> bool:
    """Conversion gives the target its source's time stamp: any other means that the source was changed."""
    return target.exists() and target.stat().st_mtime_ns == source.stat().st_mtime_ns


def convert_text(source: Path, target: Path) -> None:
    """Text of ids → `.npy`, as a stream; uint16 if every id fits, else uint32."""
    highest = max((int(ids.max()) for ids in _text_ids(source)), default=0)
    with TokenWriter(target, dtype_for(highest + 1)) as writer:
        for ids in _text_ids(source):
            writer.write(ids)
    stamp = source.stat().st_mtime_ns
    os.utime(target, ns=(stamp, stamp))


def _text_ids(path: Path):
    """Arrays of int64 ids, in order; a number is never cut in two."""
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
                    f"{path}: byte {text[i : i + 1]!r} at position {at + i} is no digit, blank or newline; a token "
                    "file is .npy, .bin or text of ids (to make ids of text: `python -m lmfast.tokenizer encode`)"
                )
            blanks = np.flatnonzero(_BLANKS[codes])
            cut = len(text) if not piece else (int(blanks[-1]) + 1 if len(blanks) else 0)
            if cut - (int(blanks[-1]) + 1 if len(blanks) else 0) > 10 or len(text) - cut > 10:
                raise UserError(
                    f"{path}: a number of more than 10 digits near byte {at + cut} is no token id"
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
