"""Text of any kind on disk → documents, one after another, with memory bounded by the longest of them.

In: files (finding.py), of the kinds that file_kinds.py tells apart by name: text, JSON lines (a text field), Parquet (a text
column; needs pyarrow); .gz and .zst over text and JSON lines. Out: shards, pieces of about `shard_bytes` that can be read
alone and in any order, and the documents of one as bytes.

Where documents end: at `<|endoftext|>` in text, and at `separator` too where one is given; a text with neither is one
document. A record of JSON lines or a row of Parquet is a document, whatever it holds. Documents of blanks only come out
like all others: who reads them leaves them out. Order is that of the file.

Memory: a document is held whole, and while it is decoded and encoded some six times its size is in use per worker.

Refused, in one line: a missing field or column (with those there are), records that are no JSON or whose text is no string,
columns of lists, files that are damaged, cut short or changed while they are read, a missing package.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from lmfast.data.parquet import batches_of, check_text_column, groups_of_rows, open_parquet
from lmfast.errors import UserError
from lmfast.sharding.jobs import Shard
from lmfast.tokenizer.file_kinds import HEAD, check_is_text, file_kind
from lmfast.tokenizer.special_tokens import DOCUMENT_END

SHARD_BYTES = 64 << 20
PIECE = 4 << 20  # bytes read together
SEARCH_BYTES = 64 << 10  # searched together for the end of a document
PACKED_PIECE = 128 << 10  # packed bytes unpacked together


def shard_bytes_on_disk(shard: Shard) -> int:
    """About how many bytes of its file a shard is, for progress and for putting small files together."""
    packed = shard.end < 0 or file_kind(shard.path).form == "parquet"
    return shard.size if packed else shard.end - shard.begin


def plan_shards(
    paths: Sequence[Path], shard_bytes: int = SHARD_BYTES, separator: str | None = None
) -> list[Shard]:
    """All of the files, in order, in pieces of about `shard_bytes` that end where documents do.

    begin..end are bytes of text and JSON lines, row groups of Parquet, and 0..-1 for all of a packed file."""
    shards = []
    for path in paths:
        path = path.absolute()
        facts = path.stat()
        size, changed = facts.st_size, facts.st_mtime_ns
        kind = file_kind(path)
        if kind.packing:
            shards.append(Shard(str(path), 0, -1, size, changed))
        elif kind.form == "parquet":
            spans = groups_of_rows(path, shard_bytes)
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
    """Where a separator ends that begins at `target` or later; at least the file's size where there is none. One that
    another could overlap from the left is passed by (of three newlines only the first two are a blank line), so that
    shards split like the whole."""
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
    """What stands between documents of the file: newlines in records, marks in text."""
    if file_kind(path).form == "records":
        return [b"\n"]
    mark = DOCUMENT_END.encode()
    own = (separator or "").encode()
    if own and (own in mark or mark in own):
        raise UserError(f"--separator {separator!r}: {DOCUMENT_END} is one already; leave it out")
    return [mark, own] if own else [mark]


def _compiled(marks: Sequence[bytes]) -> re.Pattern:
    return re.compile(b"|".join(map(re.escape, marks)))


def documents(shard: Shard, field: str = "text", separator: str | None = None) -> Iterator[bytes]:
    """The documents of a shard, in order, as bytes without what separates them."""
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
    """Raises UserError where the shard's file is another one than when it was planned."""
    try:
        facts = Path(shard.path).stat()
    except FileNotFoundError:
        raise UserError(f"{shard.path}: is gone since the work was planned; start again") from None
    if (facts.st_size, facts.st_mtime_ns) != (shard.size, shard.changed):
        raise UserError(f"{shard.path}: changed since the work was planned; start again")


def split(pieces: Iterable[bytes], marks: Sequence[bytes]) -> Iterator[bytes]:
    """The texts between the marks, however the pieces are cut; after a mark at the very end comes nothing. Linear in the
    text's length, for a text without marks too."""
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
    """A .gz or .zst file opened for reading what is in it. Damage, and text that is none, show while reading."""
    if file_kind(path).packing == ".gz":
        import gzip

        packed = path.open("rb")
        return _Unpacked(path, packed, gzip.GzipFile(fileobj=packed))
    try:
        import zstandard
    except ImportError:
        raise UserError(
            f"{path}: reading .zst needs zstandard, which is not installed; `pip install zstandard`, or unpack it"
        ) from None
    packed = path.open("rb")
    return _Unpacked(path, packed, _ZstFile(packed, zstandard.ZstdDecompressor()))


class _ZstFile:
    """The frames of a .zst file, one after another. (zstandard's own reader takes a file that is cut short for whole.)"""

    def __init__(self, packed: BinaryIO, decompressor):
        self._file, self._new_frame = packed, decompressor.decompressobj
        self._frame, self._packed = None, b""

    def read(self, size: int) -> bytes:
        """Some bytes, in number about what PACKED_PIECE packed ones hold; none at the end."""
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
    """What is in a packed file; damage is reported in one line."""

    def __init__(self, path: Path, packed: BinaryIO, file):
        self._path, self._packed, self._file, self._started = path, packed, file, False

    def __enter__(self) -> "_Unpacked":
        return self

    def __exit__(self, *error) -> None:
        self._packed.close()

    @property
    def packed_bytes(self) -> int:
        """How much of the packed file was read."""
        return self._packed.tell()

    def read(self, size: int = -1) -> bytes:
        import zlib

        try:
            piece = self._file.read(size)
        except (EOFError, OSError, zlib.error) as error:
            raise UserError(f"{self._path}: damaged or cut short ({error}); fetch it again") from None
        except Exception as error:
            if type(error).__name__ != "ZstdError":
                raise
            raise UserError(f"{self._path}: damaged or cut short ({error}); fetch it again") from None
        if not self._started:
            if not piece:
                raise UserError(f"{self._path}: holds nothing once unpacked; leave it out")
            if file_kind(self._path).form == "text":
                check_is_text(self._path, piece[:HEAD])
        self._started = True
        return piece


def _text_of_record(shard: Shard, number: int, line: bytes, field: str) -> bytes:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{_place(shard, number)}: is no JSON ({error}); a .jsonl file has an object in each line"
        ) from None
    if not isinstance(record, dict) or field not in record:
        there = ", ".join(record) if isinstance(record, dict) else type(record).__name__
        raise UserError(
            f"{_place(shard, number)}: has no field {field!r} (it has {there or 'nothing'}); name it with --text-field"
        )
    text = record[field]
    if text is None:
        return b""
    if not isinstance(text, str):
        raise UserError(
            f"{_place(shard, number)}: field {field!r} is {type(text).__name__} and no text; name another --text-field"
        )
    return text.encode("utf-8", "surrogatepass")


def _place(shard: Shard, number: int) -> str:
    """File and line, counted from 1 in the file, for an error."""
    if not shard.begin:  # as in all packed files
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
        for batch in batches_of(path, file, [field], range(shard.begin, shard.end)):
            for text in batch.column(0).cast("large_binary").to_pylist():
                yield text or b""
