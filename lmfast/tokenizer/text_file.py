"""A plain text file, read in pieces that several threads can process independently.

In: a path. Out: a `TextFile` and its spans between safe cuts (chunks.py); each thread's `PieceReader` reads one span after
another into the same buffer.

Rejects: names that do not mean plain text, missing files, directories, pipes, and a file that changes while it is read.

The file is read, not memory-mapped: if a mapped file is truncated, accessing the missing pages ends the process with a
bus error, and no check can prevent that, because the file may be truncated while a piece is processed. For 300 MB
reading takes 56 ms where mapping takes 41 (docs/LOG.md), of 400 ms for the whole encoding.
"""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lmfast.errors import UserError
from lmfast.tokenizer.file_kinds import file_kind
from lmfast.tokenizer.patterns import Pattern

if TYPE_CHECKING:
    import numpy as np

    from lmfast.tokenizer.chunks import SpecialTokens

CHUNK_BYTES = 4 << 20  # processed by a worker at a time: 6 ms of work, about 20 us of overhead
_SEARCH_BYTES = 64 << 10  # read at first to find a cut; doubled each time
_CONTEXT = 8  # bytes on both sides that determine whether a cut is safe, if no special token is near


class TextFile:
    """Bytes begin..end of a plain text file; begin and end are safe cuts. The file is open only while it is read."""

    def __init__(self, path: str | os.PathLike[str], begin: int = 0, end: int | None = None):
        self.path = Path(path)
        check_is_plain(self.path)
        status = _status(self.path)
        self.size, self.changed = status.st_size, status.st_mtime_ns
        self._identity = _identity(status)
        self.begin, self.end = begin, status.st_size if end is None else end

    def __len__(self) -> int:
        return self.end - self.begin

    def read(self) -> bytes:
        """The whole text."""
        data = bytearray(len(self))
        self.read_into(self.begin, data)
        return bytes(data)

    def read_into(self, begin: int, buffer: "bytearray | np.ndarray") -> None:
        """Fills `buffer` (an array: uint8) with the file's bytes from `begin` on."""
        left = memoryview(buffer)
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(begin)
                while left and (count := file.readinto(left)):
                    left = left[count:]
                unchanged = not left and _identity(os.fstat(file.fileno())) == self._identity
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be read ({error.strerror}); rerun when it can be read"
            ) from None
        if not unchanged:
            raise UserError(f"{self.path}: changed while it was read; rerun when nothing writes to it")

    def next_cut(self, target: int, specials: "SpecialTokens", pattern: Pattern) -> int:
        """A safe cut at `target` or later; `end` if there is none."""
        import numpy as np

        from lmfast.tokenizer.chunks import next_cut

        around = _CONTEXT + specials.boundaries.context
        reach = max(_SEARCH_BYTES, 2 * around)
        while target < self.end:
            begin, end = max(self.begin, target - around), min(self.end, target + reach)
            text = np.empty(end - begin, np.uint8)
            self.read_into(begin, text)
            text.flags.writeable = False  # the compiled code takes read-only text
            cut = begin + next_cut(text, target - begin, specials, pattern)
            if end == self.end or cut + around <= end:
                return cut
            target = max(target, end - around)  # the bytes after `end` may make cuts closer to it unsafe
            reach *= 2 if reach < CHUNK_BYTES else 1
        return self.end

    def spans(self, specials: "SpecialTokens", pattern: Pattern) -> Iterator[tuple[int, int]]:
        """(begin, end) in order, cut at safe positions about every `CHUNK_BYTES`."""
        begin = self.begin
        while begin < self.end:
            end = self.next_cut(begin + CHUNK_BYTES, specials, pattern)
            yield begin, end
            begin = end


@dataclass(frozen=True)
class Documents:
    """Separate texts from a file that is not plain text. read: yields (text, bytes of the file read so far); size:
    of the file, in bytes."""

    read: Callable[[], Iterator[tuple[bytes, int]]]
    size: int


def check_is_plain(path: Path) -> None:
    """Raises UserError if a file's name means records, Parquet or compressed text."""
    kind = file_kind(path)
    what = {"records": "JSON lines", "parquet": "Parquet"}.get(kind.form, f"compressed ({kind.packing})")
    if kind.form != "text" or kind.packing:
        raise UserError(
            f"{path}: is {what} by its name, not plain text; use `tokenizer train` or `data prepare`, which read it"
        )


def _status(path: Path) -> os.stat_result:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as text ({error}); name a regular file") from None
    # Checked before opening: a pipe would wait for a writer, and then look like an empty file.
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: is a directory, a pipe or a device; name a regular file")
    return status


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
