"""Counts and encodes shards of files in other processes: on this machine, or on a dask cluster.

In: the arguments of `count_pretokens` and `encode_file`, and where to run (engines.py). Out: the same counts and the same
token file, byte for byte. A shard is a range of a file that ends at a safe cut (chunks.py); its result is written to a
work folder next to the output, which all workers share: counts as sorted arrays, whose merge is associative, or ids. A
rerun skips the shards that an interrupted call completed; the work folder is removed on success.

Rejects the same input as the local functions, and a source that changes while it is read.
"""

import shutil
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from lmfast.errors import UserError
from lmfast.files import atomic_write
from lmfast.sharding.jobs import ExecutionOptions, Job, Progress, Shard, run_jobs, work_folder
from lmfast.sharding.workers import default_workers
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.chunks import PieceReader, SpecialTokens
from lmfast.tokenizer.compiled.count_table import CountTable
from lmfast.tokenizer.counting import PretokenCounts, count_pretokens
from lmfast.tokenizer.encode_summary import EncodeSummary
from lmfast.tokenizer.encoding import SpecialFinder
from lmfast.tokenizer.npy_header import HEADER_BYTES, npy_header
from lmfast.tokenizer.patterns import Pattern, get_pattern
from lmfast.tokenizer.text_file import CHUNK_BYTES, TextFile

SHARD_BYTES = 256 << 20
COPY_BYTES = 1 << 20  # 2.2 GB/s; 16 MiB, which do not fit a cache, 1.5, sendfile and copy_file_range 1.5


@dataclass(frozen=True)
class CountRequest:
    shard: Shard
    special_tokens: tuple[str, ...]
    pattern: str
    max_memory: int | None


@dataclass(frozen=True)
class EncodeRequest:
    """tokenizer: its fingerprint; `share_tokenizer` saved it in the work folder."""

    shard: Shard
    tokenizer: str


Request = TypeVar("Request", CountRequest, EncodeRequest)


class Engine(Protocol):
    """Counts and encodes plain text files for `train_bpe` and `Tokenizer.encode_file`, in place of this process's threads.

    The counts and the token file are those of the local functions, byte for byte. progress: called with (bytes done,
    total bytes)."""

    def count_pretokens(
        self,
        paths: Sequence[str | Path],
        special_tokens: Sequence[str],
        pattern: Pattern,
        num_workers: int | None = None,
        max_memory: int | None = None,
        progress: Progress | None = None,
    ) -> PretokenCounts:
        """The distinct pretokens of all files and how often each occurs. max_memory: bytes for a worker's table."""
        ...

    def encode_file(
        self, tokenizer: "Tokenizer", src: str | Path, dst: str | Path, progress: Progress | None = None
    ) -> "EncodeSummary":
        """Writes the ids of `src` to `dst`, a one-dimensional .npy of the tokenizer's dtype (uint16 or uint32)."""
        ...


@dataclass(frozen=True)
class ShardedEngine:
    """Counts and encodes in processes or on dask, as the options say.

    output: the tokenizer folder or token file that is written; completed shards are kept in a folder next to it."""

    output: Path
    options: ExecutionOptions

    @property
    def folder(self) -> Path:
        """Where completed shards are kept until the output is complete."""
        output = self.output.absolute()
        return output.with_name(f".{output.name}.shards")

    def count_pretokens(
        self,
        paths: Sequence[str | Path],
        special_tokens: Sequence[str],
        pattern: Pattern,
        num_workers: int | None = None,
        max_memory: int | None = None,
        progress: Progress | None = None,
    ) -> PretokenCounts:
        """`counting.count_pretokens` in other processes. `max_memory` bounds each worker's tables, not the local totals."""
        shards = self._shards(paths, SpecialTokens.from_text(special_tokens), pattern)
        jobs = self._jobs(
            [CountRequest(shard, tuple(special_tokens), pattern.regex, max_memory) for shard in shards]
        )
        table = CountTable()
        with work_folder(self.folder):
            for job, _ in run_jobs(count_shard, jobs, self.options, progress):
                with np.load(job.file("counts.npz")) as arrays:
                    table.add_counted(arrays["data"], arrays["offsets"], arrays["counts"])
        return PretokenCounts(*table.sorted(), sum(job.weight for job in jobs))

    def encode_file(
        self, tokenizer: Tokenizer, src: str | Path, dst: str | Path, progress: Progress | None = None
    ) -> EncodeSummary:
        """`encoding.encode_file` in other processes; shards are joined in order while later ones are encoded."""
        began = time.perf_counter()
        finder = SpecialFinder(tokenizer.special_tokens, tokenizer.rules)
        shards = self._shards([src], finder.specials, tokenizer.pattern)
        fingerprint = tokenizer.fingerprint()
        jobs = self._jobs([EncodeRequest(shard, fingerprint) for shard in shards])
        with work_folder(self.folder):
            home = share_tokenizer(tokenizer, self.folder)
            results: dict[str, dict[str, Any]] = {}

            def in_order() -> Iterator[Path]:
                waiting = deque(jobs)
                for job, result in run_jobs(encode_shard, jobs, self.options, progress, [home]):
                    results[job.name] = result
                    while waiting and waiting[0].name in results:
                        yield waiting.popleft().file("ids")

            join_ids(in_order(), dst, tokenizer.dtype)
        return EncodeSummary(
            tokens=sum(result["tokens"] for result in results.values()),
            bytes=sum(job.weight for job in jobs),
            specials=sum(result["specials"] for result in results.values()),
            special_bytes=sum(result["special_bytes"] for result in results.values()),
            seconds=time.perf_counter() - began,
        )

    def _shards(
        self, paths: Sequence[str | Path], specials: SpecialTokens, pattern: Pattern
    ) -> Iterator[Shard]:
        """The files in order, cut at safe positions about every `shard_bytes`."""
        texts = [TextFile(Path(path).absolute()) for path in paths]
        shard_bytes = self.options.shard_bytes or self._default_shard_bytes(sum(map(len, texts)))
        for text in texts:
            begin = 0
            while begin < text.size:
                end = text.next_cut(begin + shard_bytes, specials, pattern)
                yield Shard(str(text.path), begin, end, text.size, text.changed)
                begin = end

    def _default_shard_bytes(self, total: int) -> int:
        """On this machine about four shards per worker, so that all workers end at about the same time."""
        if self.options.engine == "dask":
            return SHARD_BYTES
        num_shards = 4 * (self.options.num_workers or default_workers())
        return min(SHARD_BYTES, max(CHUNK_BYTES, -(-total // num_shards)))

    def _jobs(self, requests: Sequence[Request]) -> list[Job[Request]]:
        return [
            Job(
                f"{number:06d}",
                str(self.folder),
                request,
                (request.shard.path,),
                request.shard.end - request.shard.begin,
            )
            for number, request in enumerate(requests)
        ]


def count_shard(job: Job[CountRequest]) -> dict[str, Any]:
    """Counts a shard's pretokens into `NAME.counts.npz` (data, offsets, counts; see PretokenCounts)."""
    request = job.request
    counts = count_pretokens(
        [_text(request.shard)], request.special_tokens, get_pattern(request.pattern), 1, request.max_memory
    )
    with atomic_write(job.file("counts.npz")) as temporary, temporary.open("wb") as file:
        np.savez(file, data=counts.data, offsets=counts.offsets, counts=counts.counts)
    return job.complete({"distinct": len(counts)})


def encode_shard(job: Job[EncodeRequest]) -> dict[str, Any]:
    """Encodes a shard into `NAME.ids` (without a header, in the tokenizer's dtype); counts its special tokens and their
    bytes."""
    tokenizer = open_shared(job.folder, job.request.tokenizer)
    finder = SpecialFinder(tokenizer.special_tokens, tokenizer.rules)
    tokens = found = special_bytes = 0
    with atomic_write(job.file("ids")) as temporary, temporary.open("wb") as file:
        text, reader = _text(job.request.shard), PieceReader()
        for begin, end in text.spans(finder.specials, tokenizer.pattern):
            data = reader.read(text, begin, end)
            ids = tokenizer.encode_array(data[: end - begin])
            file.write(ids.astype(tokenizer.dtype.newbyteorder("<")))
            tokens += len(ids)
            _, _, spans, special_ids = finder.find(data, end - begin)
            found += len(special_ids)
            special_bytes += int((spans[1::2] - spans[::2]).sum())
    return job.complete({"tokens": tokens, "specials": found, "special_bytes": special_bytes})


def _text(shard: Shard) -> TextFile:
    text = TextFile(shard.path, shard.begin, shard.end)
    if (text.size, text.changed) != (shard.size, shard.changed):
        raise UserError(f"{shard.path}: changed while it was read; rerun when nothing writes to it")
    return text


def join_ids(files: Iterable[Path], dst: str | Path, dtype: np.dtype) -> None:
    """Concatenates files of ids without headers into one .npy."""
    with atomic_write(dst) as temporary, temporary.open("wb") as joined:
        joined.write(npy_header(dtype, 0))
        for path in files:
            with path.open("rb") as file:
                shutil.copyfileobj(file, joined, COPY_BYTES)
        tokens = (joined.tell() - HEADER_BYTES) // dtype.itemsize
        joined.seek(0)
        joined.write(npy_header(dtype, tokens))


def share_tokenizer(tokenizer: Tokenizer, folder: str | Path) -> str:
    """Saves a copy of a tokenizer in a work folder where workers can load it; returns its path."""
    path = Path(folder) / "tokenizer"
    path.mkdir(parents=True, exist_ok=True)
    loaded_from = tokenizer.loaded_from
    tokenizer.save(path)
    tokenizer.loaded_from = loaded_from
    return str(path)


@lru_cache(maxsize=2)
def open_shared(folder: str, fingerprint: str) -> Tokenizer:
    """The tokenizer that `share_tokenizer` saved; cached by a worker between shards."""
    path = Path(folder) / "tokenizer"
    tokenizer = Tokenizer.load(path)
    if tokenizer.fingerprint() != fingerprint:
        raise UserError(
            f"{path}: is not the tokenizer that was saved there; does another command write to the same output?"
        )
    return tokenizer
