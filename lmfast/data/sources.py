"""Text of any kind on disk → documents, one after another, with memory bounded by the longest of them.

In: names of files, folders or globs. Kinds, by the file's name: JSON lines (.jsonl, .ndjson; a text field), Parquet (a
text column; needs pyarrow), and text for every other name; .gz and .zst over text and JSON lines. Out: `Shard`s, pieces of
about `shard_bytes` that can be read alone and in any order, and the documents of one as bytes.

Where documents end: at `<|endoftext|>` in text, and at `separator` too where one is given; a text with neither is one
document. A record of JSON lines or a row of Parquet is a document, whatever it holds. Documents of blanks only come out
like all others: who reads them leaves them out. Order is that of the names given, of paths within a folder or glob, and of
the file.

Refused, in one line: names that match nothing, a missing field or column (with those there are), records that are no JSON
or whose text is no string, archives that are damaged, cut short or of other kinds, a missing package.
"""

import glob
import json
import mmap
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lmfast.errors import UserError
from lmfast.tokenizer.documents import DOCUMENT_END

SHARD_BYTES = 64 << 20
PIECE = 4 << 20  # bytes read together
PACKED_PIECE = 128 << 10  # packed bytes unpacked together
TEXT_SUFFIXES = (".txt", ".text", ".md")
RECORD_SUFFIXES = (".jsonl", ".ndjson")
PACKED_SUFFIXES = (".gz", ".zst")
NO_TEXT = (".bz2", ".xz", ".zip", ".tar", ".tgz", ".7z", ".npy", ".npz", ".bin", ".arrow", ".safetensors")
TEXT_COLUMNS = ("string", "large_string", "string_view", "null")  # of Parquet


@dataclass(frozen=True)
class Shard:
    """A part of a file: bytes begin..end of text and JSON lines, row groups of Parquet, all of a packed file (end -1)."""

    path: str
    begin: int
    end: int
    size: int  # of the file, and its modification time (ns): they tell whether it changed since
    changed: int

    @property
    def weight(self) -> int:
        """Bytes on disk, about: for progress, and for putting small files together."""
        return self.end - self.begin if self.end >= 0 and kind_of(Path(self.path)) != "parquet" else self.size


def kind_of(path: Path) -> str:
    """ "text", "records" or "parquet", of the name without .gz or .zst."""
    suffix = (path.with_suffix("") if path.suffix in PACKED_SUFFIXES else path).suffix.lower()
    return "records" if suffix in RECORD_SUFFIXES else "parquet" if suffix == ".parquet" else "text"


def is_plain_text(path: Path) -> bool:
    """Whether a file is text as it stands: no records, no Parquet, not packed."""
    return kind_of(path) == "text" and path.suffix not in PACKED_SUFFIXES


def find_sources(names: Sequence[str | Path]) -> list[Path]:
    """The files that names of files, folders and globs stand for. Folders give what is text, records or Parquet in them,
    at any depth, hidden files left out; of what folders and globs give, empty files are left out too. A file comes once,
    however many names and links lead to it."""
    found: dict[Path, Path] = {}  # the file itself → its name
    for name in names:
        path = Path(name)
        if not str(name):
            raise UserError("--input '': is no name; give files, folders or globs")
        if path.is_dir():
            here = sorted(
                file for file in path.rglob("*") if file.is_file() and _is_source(file, path) and _size(file)
            )
            if not here:
                kinds = ", ".join((*TEXT_SUFFIXES, *RECORD_SUFFIXES, ".parquet"))
                raise UserError(
                    f"{name}: a folder with no text in it ({kinds}, or these with .gz or .zst); name files"
                )
        elif path.exists():
            here = [path]
        else:
            matches = map(Path, _matches(str(name)))
            here = sorted(file for file in matches if file.is_file() and _size(file))
            if not here:
                raise UserError(f"{name}: no such file, and no file matches it; check the path")
        for file in here:
            found.setdefault(file.resolve(), file)
    for file in found.values():
        if not _size(file):
            raise UserError(f"{file}: is empty; leave it out")
        if file.suffix == ".json":
            raise UserError(f"{file}: is JSON; give text, JSON lines (.jsonl) or Parquet")
        if file.suffix.lower() in PACKED_SUFFIXES and file.suffix not in PACKED_SUFFIXES:
            raise UserError(f"{file}: write its ending in small letters ({file.suffix.lower()})")
        if file.suffix.lower() in NO_TEXT or file.with_suffix("").suffix.lower() == ".tar":
            raise UserError(
                f"{file}: is no text by its ending; unpack it, or leave it out (text, .jsonl and .parquet are read)"
            )
        if kind_of(file) == "parquet" and file.suffix in PACKED_SUFFIXES:
            raise UserError(f"{file}: Parquet is packed inside already; unpack the file first")
    return list(found.values())


def _matches(pattern: str) -> Iterator[str]:
    """Like glob.glob, but `**` goes through no link to a folder, as folders do not: such links may lead in a circle."""
    parts = Path(pattern).parts
    if "**" not in parts:
        yield from glob.glob(pattern)
        return
    at = parts.index("**")
    for top in glob.glob(os.path.join(*parts[:at])) if at else ["."]:
        for folder, names, _ in os.walk(top):
            names[:] = [name for name in names if not name.startswith(".")]
            yield from _matches(os.path.join(glob.escape(folder), *(parts[at + 1 :] or ("*",))))


def _size(file: Path) -> int:
    return file.stat().st_size


def _is_source(file: Path, folder: Path) -> bool:
    if any(part.startswith(".") for part in file.relative_to(folder).parts):
        return False
    bare = file.with_suffix("") if file.suffix in PACKED_SUFFIXES else file
    return bare.suffix.lower() in (*TEXT_SUFFIXES, *RECORD_SUFFIXES, ".parquet")


def plan_shards(
    paths: Sequence[Path], shard_bytes: int = SHARD_BYTES, separator: str | None = None
) -> list[Shard]:
    """All of the files, in order, in pieces of about `shard_bytes` that end where documents do."""
    shards = []
    for path in paths:
        path = path.absolute()
        facts = path.stat()
        size, changed = facts.st_size, facts.st_mtime_ns
        if path.suffix in PACKED_SUFFIXES:
            shards.append(Shard(str(path), 0, -1, size, changed))
        elif kind_of(path) == "parquet":
            spans = _groups_of_rows(path, shard_bytes)
            shards += [Shard(str(path), begin, end, size, changed) for begin, end in spans]
        else:
            marks = separators(path, separator)
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
                begin = 0
                while begin < size:
                    end = _next_end(text, begin + shard_bytes, marks) if begin + shard_bytes < size else size
                    shards.append(Shard(str(path), begin, end, size, changed))
                    begin = end
    return shards


def _next_end(text: mmap.mmap, target: int, marks: Sequence[bytes]) -> int:
    """Where a separator ends that begins at `target` or later, or the text's end. One that another could overlap from the
    left is passed by (of three newlines only the first two are a blank line), so that shards split like the whole."""
    pattern, longest = _compiled(marks), max(map(len, marks))
    while found := pattern.search(text, target):
        target = found.start() + 1
        if pattern.search(text, max(0, target - longest)).start() == found.start():
            return found.end()
    return len(text)


def separators(path: Path, separator: str | None) -> list[bytes]:
    """What stands between documents of the file: newlines in records, marks in text."""
    if kind_of(path) == "records":
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
    path = Path(shard.path)
    try:
        facts = path.stat()
    except FileNotFoundError:
        raise UserError(f"{path}: is gone since the work was planned; start again") from None
    if (facts.st_size, facts.st_mtime_ns) != (shard.size, shard.changed):
        raise UserError(f"{path}: changed since the work was planned; start again")
    kind = kind_of(path)
    if kind == "parquet":
        yield from _rows(shard, field)
        return
    texts = split(_pieces(shard), separators(path, separator))
    if kind == "text":
        yield from texts
        return
    for number, line in enumerate(texts):
        if line.strip():
            yield _text_of_record(shard, number, line, field)


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
    if path.suffix in PACKED_SUFFIXES:
        with unpacked(path) as file:
            yield from iter(lambda: file.read(PIECE), b"")
        return
    with path.open("rb") as file:
        file.seek(shard.begin)
        for at in range(shard.begin, shard.end, PIECE):
            yield file.read(min(PIECE, shard.end - at))


def unpacked(path: Path):
    """A .gz or .zst file opened for reading what is in it. Damage shows as a `UserError` while reading."""
    if path.suffix == ".gz":
        import gzip

        return _Checked(path, gzip.open(path, "rb"))
    try:
        import zstandard
    except ImportError:
        raise UserError(
            f"{path}: reading .zst needs zstandard, which is not installed; `pip install zstandard`, or unpack it"
        ) from None
    return _Checked(path, _ZstFile(path, zstandard.ZstdDecompressor()))


class _ZstFile:
    """The frames of a .zst file, one after another. (zstandard's own reader takes a file that is cut short for whole.)"""

    def __init__(self, path: Path, decompressor):
        self._file, self._new_frame = path.open("rb"), decompressor.decompressobj
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

    def close(self) -> None:
        self._file.close()


class _Checked:
    """A packed file whose damage is told in one line."""

    def __init__(self, path: Path, file):
        self._path, self._file, self._started = path, file, False

    def __enter__(self) -> "_Checked":
        return self

    def __exit__(self, *error) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        import zlib

        try:
            piece = self._file.read(size)
        except (EOFError, OSError, zlib.error) as error:
            raise UserError(f"{self._path}: damaged or cut short ({error}); fetch it again") from None
        except Exception as error:
            if type(error).__name__ != "ZstdError":
                raise
            raise UserError(f"{self._path}: damaged or cut short ({error}); fetch it again") from None
        if not piece and not self._started:
            raise UserError(f"{self._path}: holds nothing once unpacked; leave it out")
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
    if Path(shard.path).suffix in PACKED_SUFFIXES or not shard.begin:
        return f"{shard.path}, line {number + 1}"
    with open(shard.path, "rb") as file:
        before = sum(
            file.read(min(PIECE, shard.begin - at)).count(b"\n") for at in range(0, shard.begin, PIECE)
        )
    return f"{shard.path}, line {before + number + 1}"


def open_parquet(path: Path):
    """A pyarrow.parquet.ParquetFile."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UserError(
            f"{path}: reading Parquet needs pyarrow, which is not installed; `pip install pyarrow` (the extra `data`)"
        ) from None
    try:
        return parquet.ParquetFile(path, memory_map=True)
    except (ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: no whole Parquet file ({reason}); fetch it again") from None


def _groups_of_rows(path: Path, shard_bytes: int) -> list[tuple[int, int]]:
    """Spans of row groups of about `shard_bytes` each."""
    facts = open_parquet(path).metadata
    spans, begin, gathered = [], 0, 0
    for group in range(facts.num_row_groups):
        gathered += facts.row_group(group).total_byte_size
        if gathered >= shard_bytes or group == facts.num_row_groups - 1:
            spans.append((begin, group + 1))
            begin, gathered = group + 1, 0
    return spans


def _rows(shard: Shard, field: str) -> Iterator[bytes]:
    path = Path(shard.path)
    with open_parquet(path) as file:
        if field not in file.schema_arrow.names:
            raise UserError(
                f"{path}: has no column {field!r} (it has {', '.join(file.schema_arrow.names)}); name it with --text-field"
            )
        kind = file.schema_arrow.field(field).type
        if str(getattr(kind, "value_type", kind)) not in TEXT_COLUMNS:
            raise UserError(f"{path}: column {field!r} is {kind} and no text; name another --text-field")
        for batch in file.iter_batches(1024, row_groups=range(shard.begin, shard.end), columns=[field]):
            for text in batch.column(0).cast("large_binary").to_pylist():
                yield text or b""
