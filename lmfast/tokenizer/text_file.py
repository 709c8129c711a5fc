"""A plain text file, read in pieces that can be worked on alone and by several threads.

In: a path. Out: a `TextFile` and the spans it is cut into at safe places (chunks.py); a `PieceReader` for each thread reads
one span after another into the same memory.

Rejects: names that are not those of plain text, missing files, folders, pipes, and a file that changes while it is read.

The file is read, not mapped: the page of a map whose file was cut short ends the process with a bus error, and no check
comes in time, because the file may be cut while a piece is worked on. For 300 MB reading takes 56 ms where mapping takes 41
(docs/LOG.md), of 400 in all.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lmfast.errors import UserError
from lmfast.tokenizer.chunks import SpecialTokens, next_cut
from lmfast.tokenizer.compiled.intrinsics import PADDING
from lmfast.tokenizer.file_kinds import kind_of
from lmfast.tokenizer.patterns import Pattern

CHUNK_BYTES = 4 << 20  # what one worker takes at a time: 6 ms of work, some 20 us of overhead
_SEARCH_BYTES = 64 << 10  # read at first in search of a cut; twice as many each time
_CONTEXT = 8  # bytes on both sides that decide whether a cut is safe, where no special token is near


class TextFile:
    """Bytes begin..end of a plain text file; begin and end are safe cuts. Light: the file is open only while it is read."""

    def __init__(self, path: str | os.PathLike[str], begin: int = 0, end: int | None = None):
        self.path = Path(path)
        check_is_plain(self.path)
        status = _status(self.path)
        self.size, self.changed = status.st_size, status.st_mtime_ns
        self._identity = _identity(status)
        self.begin, self.end = begin, status.st_size if end is None else end

    def __len__(self) -> int:
        return self.end - self.begin

    def fill(self, begin: int, room: np.ndarray) -> None:
        """Reads as many bytes as `room` (uint8) has, from `begin` of the file on."""
        left = memoryview(room)
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(begin)
                while left and (count := file.readinto(left)):
                    left = left[count:]
                unchanged = not left and _identity(os.fstat(file.fileno())) == self._identity
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be read ({error.strerror}); start again when it can"
            ) from None
        if not unchanged:
            raise UserError(f"{self.path}: changed while it was read; start again when nothing writes to it")

    def next_cut(self, target: int, specials: SpecialTokens, pattern: Pattern) -> int:
        """A safe cut at `target` or later; `end` where there is none."""
        around = _CONTEXT + max(map(len, specials.tokens), default=0)
        reach = max(_SEARCH_BYTES, 2 * around)
        while target < self.end:
            begin, end = max(self.begin, target - around), min(self.end, target + reach)
            text = np.empty(end - begin, np.uint8)
            self.fill(begin, text)
            text.flags.writeable = False  # compiled code is compiled for text that is not written to
            cut = begin + next_cut(text, target - begin, specials, pattern)
            if end == self.end or cut + around <= end:
                return cut
            target = max(target, end - around)  # what follows may make cuts closer to the end unsafe
            reach *= 2 if reach < CHUNK_BYTES else 1
        return self.end

    def spans(self, specials: SpecialTokens, pattern: Pattern) -> Iterator[tuple[int, int]]:
        """(begin, end) in order, cut at safe places about every `CHUNK_BYTES`."""
        begin = self.begin
        while begin < self.end:
            end = self.next_cut(begin + CHUNK_BYTES, specials, pattern)
            yield begin, end
            begin = end


class PieceReader:
    """One thread's memory for the pieces it reads."""

    def __init__(self):
        self._room = np.empty(0, np.uint8)

    def read(self, file: TextFile, begin: int, end: int) -> np.ndarray:
        """Bytes begin..end of the file and `PADDING` zeros, uint8, read-only; the next call overwrites them."""
        size = end - begin
        if len(self._room) < size + PADDING:
            self._room = np.empty(size + size // 8 + PADDING, np.uint8)
        room = self._room[: size + PADDING]
        file.fill(begin, room[:size])
        room[size:] = 0
        room.flags.writeable = False
        return room


def check_is_plain(path: Path) -> None:
    """Raises UserError where a file's name says that it is not text as it stands."""
    kind = kind_of(path)
    what = {"records": "JSON lines", "parquet": "Parquet"}.get(kind.form, f"compressed ({kind.packing})")
    if kind.form != "text" or kind.packing:
        raise UserError(
            f"{path}: is {what} by its name, not plain text; `tokenizer train` and `data prepare` read the text in it"
        )


def _status(path: Path) -> os.stat_result:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as text ({error}); give a plain file") from None
    # Before it is opened: a pipe would wait for a writer, and then look like an empty file.
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: is a folder, a pipe or a device; give a plain file")
    return status


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
