"""Reads documents from text files of all formats, with memory bounded by the longest document.

Input: files (finding.py) of the formats that file_kinds.py recognises by name: text, JSON lines (a text field), Parquet (a
text column; needs pyarrow); text and JSON lines also as .gz and .zst. Output: shards of about `shard_bytes`, which can be
read independently, and the documents of a shard as bytes, in file order.

Documents in text end at `<|endoftext|>`, and at `separator` if given; a text with neither is one document. Each record of
JSON lines or row of Parquet is a document. Blank documents are included; the caller skips them.

Memory: a document is held in memory; decoding and encoding it takes about six times its size per worker.

Rejects: missing fields or columns, invalid JSON, text that is not a string, files that are damaged, truncated or changed
while being read, missing packages.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from lmfast.data.parquet import check_text_column, open_parquet, read_batches, row_group_spans
from lmfast.errors import UserError
from lmfast.sharding.jobs import Shard
from lmfast.tokenizer.file_kinds import HEAD, check_is_text, file_kind
from lmfast.tokenizer.special_tokens import DOCUMENT_END

SHARD_BYTES = 64 << 20
PIECE = 4 << 20  # bytes per read
SEARCH_BYTES = 64 << 10  # bytes per read when searching for the end of a document
PACKED_PIECE = 128 << 10  # compressed bytes per read


def shard_bytes_on_disk(shard: Shard) -> int:
    """Approximate size of a shard in its file, in bytes, for progress and for combining small files."""
    packed = shard.end < 0 or file_kind(shard.path).form == "parquet"
    return shard.size if packed else shard.end - shard.begin


def plan_shards(
    paths: Sequence[Path], shard_bytes: int = SHARD_BYTES, separator: str | None = None
) -> list[Shard]:
    """Splits the files, in order, into shards of about `shard_bytes` that end at document boundaries.

    begin..end are bytes of text and JSON lines, row groups of Parquet, and 0..-1 for a whole compressed file."""
    shards = []
    for path in paths:
        path = path.absolute()
        facts = path.stat()
        size, changed = facts.st_size, facts.st_mtime_ns
        kind = file_kind(path)
        if kind.packing:
            shards.append(Shard(str(path), 0, -1, size, changed))
        elif kind.form == "parquet":
            spans = row_group_spans(path, shard_bytes)
            shards += [Shard(str(path), begin, end, size, changed) for begin, end in spans]
        else:
            marks = separators(path, separator)
            with path.open("rb") as file:
                begin = 0
                while begin < size:
                    end = min(_next_end(file, begin + shard_bytes, marks), size)
                    shards.append(Shard(str(path), begin, end, size, changed))
                    begin = end
    return shards


def _next_end(file: BinaryIO, target: int, marks: Sequence[bytes]) -> int:
    """The end of the first separator that starts at `target` or later, or at least the file size if there is none.

    Skips matches that an earlier match could overlap (of three newlines, the first two are the blank line), so that
    splitting shards gives the same documents as splitting the whole file."""
    pattern, longest = _compiled(marks), max(map(len, marks))
    while True:
        begin = max(0, target - longest)
        file.seek(begin)
        text = file.read(SEARCH_BYTES + 2 * longest)
        while found := pattern.search(text, target - begin):
            target = begin + found.start() + 1
            first = pattern.search(text, max(0, target - begin - longest))
            if first is not None and first.start() == found.start():
                return begin + found.end()
        if len(text) < SEARCH_BYTES + 2 * longest:
            return max(target, begin + len(text))
        target = max(target, begin + len(text) - longest + 1)


def separators(path: Path, separator: str | None) -> list[bytes]:
    """The document separators of a file: newlines in JSON lines, <|endoftext|> and `separator` in text."""
    if file_kind(path).form == "records":
        return [b"\n"]
    mark = DOCUMENT_END.encode()
    own = (separator or "").encode()
    if own and (own in mark or mark in own):
        raise UserError(
            f"--separator {separator!r}: {DOCUMENT_END} always separates documents; remove the option"
        )
    return [mark, own] if own else [mark]


def _compiled(marks: Sequence[bytes]) -> re.Pattern:
    return re.compile(b"|".join(map(re.escape, marks)))


def documents(shard: Shard, field: str = "text", separator: str | None = None) -> Iterator[bytes]:
    """The documents of a shard in order, as bytes without separators."""
    _check_unchanged(shard)
    path = Path(shard.path)
    form = file_kind(path).form
    if form == "parquet":
        yield from _rows(shard, field)
    else:
        texts = split(_pieces(shard), separators(path, separator))
        if form == "text":
            yield from texts
        else:
            for number, line in enumerate(texts):
                if line.strip():
                    yield _text_of_record(shard, number, line, field)
    _check_unchanged(shard)


def _check_unchanged(shard: Shard) -> None:
    """Raises UserError if the file of a shard has changed since `plan_shards`."""
    try:
        facts = Path(shard.path).stat()
    except FileNotFoundError:
        raise UserError(f"{shard.path}: was removed while it was being read; run the command again") from None
    if (facts.st_size, facts.st_mtime_ns) != (shard.size, shard.changed):
        raise UserError(f"{shard.path}: changed while it was being read; run the command again")


def split(pieces: Iterable[bytes], marks: Sequence[bytes]) -> Iterator[bytes]:
    """The texts between the marks, independent of how the input is split into pieces; a mark at the end adds no empty text.

    Takes linear time, also without any mark."""
    pattern, longest = _compiled(marks), max(map(len, marks))
    buffer = bytearray()
    searched = 0
    for piece in pieces:
        buffer += piece
        begin = 0
        for match in pattern.finditer(buffer, searched):
            yield bytes(buffer[begin : match.start()])
            begin = match.end()
        searched = max(begin, len(buffer) - longest + 1) - begin
        del buffer[:begin]
    if buffer:
        yield bytes(buffer)


def _pieces(shard: Shard) -> Iterator[bytes]:
    path = Path(shard.path)
    if file_kind(path).packing:
        with unpacked(path) as file:
            yield from iter(lambda: file.read(PIECE), b"")
        return
    with path.open("rb") as file:
        file.seek(shard.begin)
        for at in range(shard.begin, shard.end, PIECE):
            yield file.read(min(PIECE, shard.end - at))


def unpacked(path: Path) -> "_Unpacked":
    """Opens a .gz or .zst file for reading its content. Damage and binary content are reported while reading."""
    if file_kind(path).packing == ".gz":
        packed = path.open("rb")
        return _Unpacked(path, packed, gzip.GzipFile(fileobj=packed))
    try:
        import zstandard
    except ImportError:
        raise UserError(
            f"{path}: reading .zst needs zstandard, which is not installed; run `pip install zstandard`, or decompress it"
        ) from None
    packed = path.open("rb")
    return _Unpacked(path, packed, _ZstFile(packed, zstandard.ZstdDecompressor()))


class _ZstFile:
    """Reads the frames of a .zst file. (zstandard's own reader does not notice a truncated file.)"""

    def __init__(self, packed: BinaryIO, decompressor):
        self._file, self._new_frame = packed, decompressor.decompressobj
        self._frame, self._packed = None, b""

    def read(self, size: int) -> bytes:
        """The content of about PACKED_PIECE compressed bytes; empty at the end."""
        while True:
            self._packed = self._packed or self._file.read(PACKED_PIECE)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("its last frame has no end")
                return b""
            self._frame = self._frame or self._new_frame()
            piece = self._frame.decompress(self._packed)
            self._packed = b""
            if self._frame.eof:
                self._packed, self._frame = self._frame.unused_data, None
            if piece:
                return piece


class _Unpacked:
    """The content of a compressed file; turns decompression errors into UserError."""

    def __init__(self, path: Path, packed: BinaryIO, file):
        self._path, self._packed, self._file, self._started = path, packed, file, False

    def __enter__(self) -> "_Unpacked":
        return self

    def __exit__(self, *error) -> None:
        self._packed.close()

    @property
    def packed_bytes(self) -> int:
        """Number of compressed bytes read so far."""
        return self._packed.tell()

    def read(self, size: int = -1) -> bytes:
        try:
            piece = self._file.read(size)
        except (EOFError, OSError, zlib.error) as error:
            raise UserError(f"{self._path}: damaged or truncated ({error}); download it again") from None
        except Exception as error:
            if type(error).__name__ != "ZstdError":
                raise
            raise UserError(f"{self._path}: damaged or truncated ({error}); download it again") from None
        if not self._started:
            if not piece:
                raise UserError(f"{self._path}: is empty once decompressed; remove it")
            if file_kind(self._path).form == "text":
                check_is_text(self._path, piece[:HEAD])
        self._started = True
        return piece


def _text_of_record(shard: Shard, number: int, line: bytes, field: str) -> bytes:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{_place(shard, number)}: not valid JSON ({error}); a .jsonl file has one object per line"
        ) from None
    if not isinstance(record, dict) or field not in record:
        there = ", ".join(record) if isinstance(record, dict) else type(record).__name__
        raise UserError(
            f"{_place(shard, number)}: has no field {field!r} (it has {there or 'nothing'}); set --text-field"
        )
    text = record[field]
    if text is None:
        return b""
    if not isinstance(text, str):
        raise UserError(
            f"{_place(shard, number)}: field {field!r} is {type(text).__name__}, not a string; choose another --text-field"
        )
    return text.encode("utf-8", "surrogatepass")


def _place(shard: Shard, number: int) -> str:
    """File and line number (from 1) for an error message."""
    if not shard.begin:  # also for compressed files
        return f"{shard.path}, line {number + 1}"
    with open(shard.path, "rb") as file:
        before = sum(
            file.read(min(PIECE, shard.begin - at)).count(b"\n") for at in range(0, shard.begin, PIECE)
        )
    return f"{shard.path}, line {before + number + 1}"


def _rows(shard: Shard, field: str) -> Iterator[bytes]:
    path = Path(shard.path)
    with open_parquet(path) as file:
        check_text_column(path, file, field)
        for batch in read_batches(path, file, [field], range(shard.begin, shard.end)):
            for text in batch.column(0).cast("large_binary").to_pylist():
                yield text or b""
