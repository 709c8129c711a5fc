"""Files to distinct pretokens and how often each occurs: the first half of training.

In: plain text files (bytes, any encoding) and documents from other files, special tokens (hard boundaries, never counted),
a pattern. Out: `PretokenCounts`, sorted by bytes, so that it does not depend on the number of workers. Refused: missing
files, files that change while they are read, an empty special token.

What it costs (2-core Zen 4 with AVX-512, one thread, stories: 4.2 bytes a pretoken, 7,366 distinct in 300 MB; ns a
pretoken, see docs/LOG.md): page faults of the map 0.4, finding special tokens 0.3, the scanner 1.7, counting 3.3,
together about 6, or 740 MB a second and core. With a heavy tail (740,000 distinct in 200 MB) counting takes 7.5 and
sorting the result, merging tables and growing them another 5: there the tables no longer fit any cache.

What made the difference:

- The scanner and this loop are separate compiled functions with an array of ends between them. That costs a
  store and a load a pretoken and lets every pattern, `regex` included, share one loop.
- Reading tables by `load_u64` instead of Numba's indexing, which first asks whether an index is negative: 4.8 to
  3.7. One multiplication in the hash instead of two, and one comparison that sends long pretokens and special
  tokens away together: 3.7 to 3.2 (heavy tail: 10.2 to 7.5).
- Rows of 32 bytes that begin at a cache line: key, count and place in the arena come with one miss.

Keys are masked without a branch, which made no difference here (encoding, where the branch was guessed wrong, gained).

What lost: fetching rows ahead in groups of 16 to 64 (5 to 6.8 with few distinct pretokens, 13.5 to 11.5 with many,
before the changes above); two rows a bucket, to save the second probe (3.0 to 3.3); batches of 2^12 to 2^17 ends (no
difference); `madvise` of any kind. `pread` into a buffer costs more than mapping (42 ms for 300 MB against 31 ms of
faults), and is used all the same: see text_file.py.
"""

import heapq
import itertools
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lmfast.sharding.workers import default_workers
from lmfast.tokenizer.chunks import (
    ENDS_PER_BATCH,
    SpecialTokens,
    Splitter,
    in_order,
    padded,
)
from lmfast.tokenizer.compiled.count_table import FIRST_ROWS, ROW_BYTES, CountTable
from lmfast.tokenizer.patterns import Pattern
from lmfast.tokenizer.special_tokens import DOCUMENT_END
from lmfast.tokenizer.text_file import CHUNK_BYTES, PieceReader, TextFile


@dataclass
class PretokenCounts:
    """Distinct pretokens, sorted by their bytes.

    data: uint8, all of them end to end; offsets: int64 (n + 1,); counts: int64 (n,); total_bytes: of input."""

    data: np.ndarray
    offsets: np.ndarray
    counts: np.ndarray
    total_bytes: int

    def __len__(self) -> int:
        return len(self.counts)

    def pretoken(self, i: int) -> bytes:
        """The bytes of the i-th pretoken."""
        return self.data[self.offsets[i] : self.offsets[i + 1]].tobytes()


@dataclass(frozen=True)
class Documents:
    """Texts that stand alone, from a file that is not plain text. read: yields (text, bytes of the file read so far); size:
    of the file."""

    read: Callable[[], Iterator[tuple[bytes, int]]]
    size: int


class _Piece(NamedTuple):
    """Text that one worker takes at a time: its bytes, or where they are. specials: its boundaries; size: bytes of text;
    done: bytes of its source that are read by its end."""

    text: bytes | tuple[TextFile, int, int]
    specials: SpecialTokens
    size: int
    done: int


class _Totals:
    """What all workers found so far; beyond `limit` bytes it goes to sorted runs on disk."""

    def __init__(self, limit: int | None, folder: Path | None):
        self._limit = limit
        self._folder = folder
        self._lock = threading.Lock()
        self._table: CountTable | None = None
        self._runs: list[Path] = []

    def absorb(self, table: CountTable, keep: bool) -> None:
        """Takes a worker's counts; with `keep` the worker goes on with its table, emptied."""
        with self._lock:
            if self._table is None:
                self._table = CountTable() if keep else table
                if not keep:
                    return
            if self._limit and self._table.nbytes_with(len(table), int(table.used[1])) > self._limit:
                self._spill(self._table)
                self._table = CountTable()
            self._table.merge(table)
            if keep:
                table.clear()

    def _spill(self, table: CountTable) -> None:
        if not len(table):
            return
        assert self._folder is not None, "a limit needs a folder"
        run = self._folder / f"run_{len(self._runs):06d}"
        run.mkdir()
        for name, array in zip(("data", "offsets", "counts"), table.sorted()):
            np.save(run / f"{name}.npy", array)
        self._runs.append(run)

    def result(self, total_bytes: int) -> PretokenCounts:
        """All counts, sorted; from memory, or merged from the runs into unnamed files that are mapped."""
        if not self._runs:
            table = self._table if self._table is not None else CountTable()
            return PretokenCounts(*table.sorted(), total_bytes)
        if self._table is not None:
            self._spill(self._table)
        self._table = None
        return PretokenCounts(*_merge_runs(self._runs), total_bytes)


def _read_run(run: Path) -> Iterator[tuple[bytes, int]]:
    data, offsets, counts = (
        np.load(run / f"{name}.npy", mmap_mode="r") for name in ("data", "offsets", "counts")
    )
    step = 1 << 14
    for begin in range(0, len(counts), step):
        part = counts[begin : begin + step].tolist()
        at = offsets[begin : begin + step + 1].tolist()
        text = data[at[0] : at[-1]].tobytes()
        for k, count in enumerate(part):
            yield text[at[k] - at[0] : at[k + 1] - at[0]], count


def _merge_runs(runs: Sequence[Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merges sorted runs of (pretoken, count), adding up equal pretokens."""
    with (
        tempfile.TemporaryFile() as data,
        tempfile.TemporaryFile() as offsets,
        tempfile.TemporaryFile() as counts,
    ):
        at = 0
        offsets.write(np.int64(0).tobytes())
        merged = itertools.groupby(heapq.merge(*map(_read_run, runs)), key=lambda item: item[0])
        for pretoken, group in merged:
            at += len(pretoken)
            data.write(pretoken)
            offsets.write(at.to_bytes(8, sys.byteorder))
            counts.write(sum(count for _, count in group).to_bytes(8, sys.byteorder))
        for file in (data, offsets, counts):
            file.flush()
        return (
            np.memmap(data, np.uint8, "r").view(np.ndarray),
            np.memmap(offsets, np.int64, "r").view(np.ndarray),
            np.memmap(counts, np.int64, "r").view(np.ndarray),
        )


class _Worker:
    """One thread's table; handed to the totals when it is full."""

    def __init__(self, splitter: Splitter, totals: _Totals, max_rows: int):
        self._splitter = splitter
        self._totals = totals
        self._max_rows = max_rows
        self._bounds = np.empty(ENDS_PER_BATCH, np.int64)
        self._reader = PieceReader()
        self.table = CountTable()

    def count(self, piece: _Piece) -> _Piece:
        """Counts a piece; returns it."""
        text = padded(piece.text) if isinstance(piece.text, bytes) else self._reader.read(*piece.text)
        spans, _ = piece.specials.find(text, 0, piece.size)
        for start, _, count in self._splitter.batches(text, 0, piece.size, spans, self._bounds):
            done = 0
            while True:
                done = self.table.add(text, start, self._bounds, done, count)
                if done == count:
                    break
                if done:
                    start = abs(int(self._bounds[done - 1]))
                if len(self.table) >= self._max_rows:
                    self._totals.absorb(self.table, keep=True)
                self.table.reserve(len(self.table) + 1, abs(int(self._bounds[done])) - start + 8)
        return piece


# A worker's table is handed over at this many rows (a table of 32 MiB): with 16 workers the tail of the
# distribution would otherwise be held 16 times.
_WORKER_ROWS = 1 << 19


def count_pretokens(
    paths: Sequence[str | Path | TextFile | Documents],
    special_tokens: Sequence[str],
    pattern: Pattern,
    num_workers: int | None = None,
    max_memory: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PretokenCounts:
    """Counts the pretokens of one or many plain text files, which are never loaded, and of documents of others.

    `max_memory` (bytes) bounds the tables of pretokens: half of it for the totals, which spill to sorted runs
    in the temporary folder and are merged exactly, the rest for the workers. `progress(bytes_done, bytes_total)`
    is called from the calling thread, with bytes of the files."""
    sources = [TextFile(path) if isinstance(path, str | Path) else path for path in paths]
    total = sum(len(source) if isinstance(source, TextFile) else source.size for source in sources)
    splitter = Splitter(pattern)
    tasks = _pieces(sources, SpecialTokens.of(special_tokens), pattern)
    num_workers = max(1, min(num_workers or default_workers(), -(-total // CHUNK_BYTES) + len(sources)))
    max_rows = _WORKER_ROWS
    if max_memory:
        max_rows = max(FIRST_ROWS // 2, min(max_rows, max_memory // (2 * num_workers * 6 * ROW_BYTES)))
    with tempfile.TemporaryDirectory(prefix="lmfast-count-") as folder:
        totals = _Totals(max_memory // 2 if max_memory else None, Path(folder))
        workers = [_Worker(splitter, totals, max_rows) for _ in range(num_workers)]
        total_bytes = 0
        for piece in in_order(_Worker.count, tasks, workers):
            total_bytes += piece.size
            if progress is not None:
                progress(piece.done, total)
        for worker in workers:
            totals.absorb(worker.table, keep=False)
        return totals.result(total_bytes)


def _pieces(
    sources: Sequence[TextFile | Documents], specials: SpecialTokens, pattern: Pattern
) -> Iterator[_Piece]:
    """All texts in pieces, in order."""
    before = 0
    for source in sources:
        if isinstance(source, Documents):
            for piece in _joined(source.read(), specials):
                yield piece._replace(done=before + piece.done)
            before += source.size
        else:
            for begin, end in source.spans(specials, pattern):
                yield _Piece((source, begin, end), specials, end - begin, before + end - source.begin)
            before += len(source)


def _joined(documents: Iterator[tuple[bytes, int]], specials: SpecialTokens) -> Iterator[_Piece]:
    """Documents in pieces: many together, with `DOCUMENT_END` between them; one that holds it as plain text stands alone."""
    mark = DOCUMENT_END.encode()
    is_special = mark in specials.tokens
    with_mark = specials if is_special else SpecialTokens([*specials.tokens, mark])
    waiting: list[bytes] = []
    size = done = 0
    for document, done in documents:
        if mark in document and not is_special:
            yield _Piece(document, specials, len(document), done)
            continue
        waiting.append(document)
        size += len(document) + len(mark)
        if size >= CHUNK_BYTES:
            yield _Piece(mark.join(waiting), with_mark, size - len(mark), done)
            waiting, size = [], 0
    if waiting:
        yield _Piece(mark.join(waiting), with_mark, size - len(mark), done)
