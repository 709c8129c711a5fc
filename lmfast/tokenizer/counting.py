"""Files to distinct pretokens and how often each occurs: the first half of training.

In: paths of text (bytes, any encoding), special tokens (hard boundaries, never counted), a pattern. Out:
`PretokenCounts`, sorted by bytes, so that it does not depend on the number of workers. Refused: missing
files, an empty special token.

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
difference); `madvise` of any kind, and `pread` into a buffer (42 ms for 300 MB against 31 ms of faults).
"""

import heapq
import itertools
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmfast.tokenizer.chunks import (
    CHUNK_BYTES,
    ENDS_PER_BATCH,
    Chunk,
    SpecialTokens,
    Splitter,
    chunks,
    default_workers,
    in_order,
    open_text,
)
from lmfast.tokenizer.count_table import FIRST_ROWS, ROW_BYTES, CountTable
from lmfast.tokenizer.patterns import Pattern


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

    def __init__(self, splitter: Splitter, specials: SpecialTokens, totals: _Totals, max_rows: int):
        self._splitter = splitter
        self._specials = specials
        self._totals = totals
        self._max_rows = max_rows
        self._bounds = np.empty(ENDS_PER_BATCH, np.int64)
        self.table = CountTable()

    def count(self, chunk: Chunk) -> int:
        """Counts a chunk; returns its bytes."""
        spans, _ = self._specials.find(chunk.data, chunk.begin, chunk.end)
        batches = self._splitter.batches(chunk.data, chunk.begin, chunk.end, spans, self._bounds)
        for start, _, count in batches:
            done = 0
            while True:
                done = self.table.add(chunk.data, start, self._bounds, done, count)
                if done == count:
                    break
                if done:
                    start = abs(int(self._bounds[done - 1]))
                if len(self.table) >= self._max_rows:
                    self._totals.absorb(self.table, keep=True)
                self.table.reserve(len(self.table) + 1, abs(int(self._bounds[done])) - start + 8)
        return chunk.end - chunk.begin


# A worker's table is handed over at this many rows (a table of 32 MiB): with 16 workers the tail of the
# distribution would otherwise be held 16 times.
_WORKER_ROWS = 1 << 19


def count_pretokens(
    paths: Sequence[str | Path | np.ndarray],
    special_tokens: Sequence[str],
    pattern: Pattern,
    num_workers: int | None = None,
    max_memory: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PretokenCounts:
    """Counts the pretokens of one or many files, which are memory-mapped and never loaded, or of texts that are
    mapped already (uint8, read-only).

    `max_memory` (bytes) bounds the tables of pretokens: half of it for the totals, which spill to sorted runs
    in the temporary folder and are merged exactly, the rest for the workers. `progress(bytes_done, bytes_total)`
    is called from the calling thread."""
    texts = [path if isinstance(path, np.ndarray) else open_text(path) for path in paths]
    total_bytes = sum(len(text) for text in texts)
    specials = SpecialTokens.of(special_tokens)
    splitter = Splitter(pattern)
    tasks = (chunk for text in texts for chunk in chunks(text, specials, pattern))
    num_workers = max(1, min(num_workers or default_workers(), -(-total_bytes // CHUNK_BYTES) + len(texts)))
    max_rows = _WORKER_ROWS
    if max_memory:
        max_rows = max(FIRST_ROWS // 2, min(max_rows, max_memory // (2 * num_workers * 6 * ROW_BYTES)))
    with tempfile.TemporaryDirectory(prefix="lmfast-count-") as folder:
        totals = _Totals(max_memory // 2 if max_memory else None, Path(folder))
        workers = [_Worker(splitter, specials, totals, max_rows) for _ in range(num_workers)]
        done = 0
        for counted in in_order(_Worker.count, tasks, workers):
            done += counted
            if progress is not None:
                progress(done, total_bytes)
        for worker in workers:
            totals.absorb(worker.table, keep=False)
        return totals.result(total_bytes)
