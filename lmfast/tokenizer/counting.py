"""Counts the distinct pretokens of files: the first half of training.

In: plain text files (bytes, any encoding) and documents from other files, special tokens (boundaries that are never
counted), a pattern. Out: `PretokenCounts`, sorted by bytes, so that it does not depend on the number of workers. Rejects
missing files, files that change while they are read, and empty special tokens.

About 740 MB/s per core; what was tried and measured: docs/tokenizer.md.
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
    PieceReader,
    SpecialTokens,
    Splitter,
    map_in_order,
    padded,
)
from lmfast.tokenizer.compiled.count_table import FIRST_ROWS, ROW_BYTES, CountTable
from lmfast.tokenizer.patterns import Pattern
from lmfast.tokenizer.special_tokens import DOCUMENT_END
from lmfast.tokenizer.text_file import CHUNK_BYTES, Documents, TextFile


@dataclass
class PretokenCounts:
    """Distinct pretokens, sorted by their bytes.

    data: uint8, their concatenated bytes; offsets: int64 (n + 1,); counts: int64 (n,); total_bytes: of the input."""

    data: np.ndarray
    offsets: np.ndarray
    counts: np.ndarray
    total_bytes: int

    def __len__(self) -> int:
        return len(self.counts)

    def pretoken(self, i: int) -> bytes:
        """The bytes of the i-th pretoken."""
        return self.data[self.offsets[i] : self.offsets[i + 1]].tobytes()


class _Piece(NamedTuple):
    """A worker's unit of text: its bytes, or (file, begin, end). specials: its boundaries; size: bytes of text;
    done: bytes of its source that have been read after it."""

    text: bytes | tuple[TextFile, int, int]
    specials: SpecialTokens
    size: int
    done: int


class _Totals:
    """The counts of all workers so far; above `limit` bytes they spill to sorted runs on disk."""

    def __init__(self, limit: int | None, folder: Path | None):
        self._limit = limit
        self._folder = folder
        self._lock = threading.Lock()
        self._table: CountTable | None = None
        self._runs: list[Path] = []

    def absorb(self, table: CountTable, keep: bool) -> None:
        """Adds a worker's counts; with `keep` the worker's table is emptied for reuse."""
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
        """All counts, sorted; from memory, or merged from the runs into unnamed memory-mapped files."""
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
    """Merges sorted runs of (pretoken, count), summing the counts of equal pretokens."""
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
    """One thread's table; added to the totals when it is full."""

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


# A worker's table is added to the totals at this many rows (32 MiB); otherwise 16 workers would store the tail of the
# distribution 16 times.
_WORKER_ROWS = 1 << 19


def count_pretokens(
    paths: Sequence[str | Path | TextFile | Documents],
    special_tokens: Sequence[str],
    pattern: Pattern,
    num_workers: int | None = None,
    max_memory: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PretokenCounts:
    """Counts the pretokens of plain text files, read in pieces, and of documents from other files.

    `max_memory` (bytes) bounds the tables of pretokens: half for the totals, which spill to sorted runs
    in the temporary directory and are merged exactly, and half for the workers. `progress(bytes_done, bytes_total)`
    is called from the calling thread, with bytes of the files."""
    sources = [TextFile(path) if isinstance(path, str | Path) else path for path in paths]
    total = sum(len(source) if isinstance(source, TextFile) else source.size for source in sources)
    splitter = Splitter(pattern)
    tasks = _pieces(sources, SpecialTokens.from_text(special_tokens), pattern)
    num_workers = max(1, min(num_workers or default_workers(), -(-total // CHUNK_BYTES) + len(sources)))
    max_rows = _WORKER_ROWS
    if max_memory:
        max_rows = max(FIRST_ROWS // 2, min(max_rows, max_memory // (2 * num_workers * 6 * ROW_BYTES)))
    with tempfile.TemporaryDirectory(prefix="lmfast-count-") as folder:
        totals = _Totals(max_memory // 2 if max_memory else None, Path(folder))
        workers = [_Worker(splitter, totals, max_rows) for _ in range(num_workers)]
        total_bytes = 0
        for piece in map_in_order(_Worker.count, tasks, workers):
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
    """Documents in pieces: many joined by `DOCUMENT_END`; a document that contains it as plain text is its own piece."""
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
