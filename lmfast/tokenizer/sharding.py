"""Counting and encoding as maps over shards of files, for data that one machine is too slow for.

In: what `count_pretokens` and `encode_file` take, and a dask cluster (engines.py). Out: the same counts and the same token
file, byte for byte. A shard is a range of a file that ends at a safe cut (chunks.py); its result is files in a work folder
beside the output, which all workers share: counts as sorted arrays, whose merge is associative, or ids. A shard that an
earlier, interrupted call finished is left out; the work folder goes when the whole is done.

Refused: what the local functions refuse, and a source that changes while it is read.
"""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lmfast.errors import UserError
from lmfast.files import locked, written_beside
from lmfast.sharding.engines import Stamps, dask_client, run_on_dask
from lmfast.tokenizer.chunks import SpecialTokens
from lmfast.tokenizer.compiled.count_table import CountTable
from lmfast.tokenizer.counting import PretokenCounts, count_pretokens
from lmfast.tokenizer.npy_header import npy_header
from lmfast.tokenizer.patterns import Pattern, get_pattern
from lmfast.tokenizer.text_file import PieceReader, TextFile

if TYPE_CHECKING:
    from lmfast.tokenizer.bpe import Tokenizer
    from lmfast.tokenizer.encoding import EncodeSummary

SHARD_BYTES = 256 << 20
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """A shard and what to do with it. request: all that its result depends on; folder: where the result goes."""

    name: str
    path: str
    begin: int
    end: int
    request: dict
    folder: str

    def text(self) -> TextFile:
        """The shard's part of its file."""
        text = TextFile(self.path, self.begin, self.end)
        if (text.size, text.changed) != (self.request["size"], self.request["changed"]):
            raise UserError(f"{self.path}: changed while it was read; start again")
        return text

    def file(self, kind: str) -> Path:
        return Path(self.folder) / f"{self.name}.{kind}"


def work_folder(output: str | Path) -> Path:
    """Where the shards of an output are kept until it is whole."""
    output = Path(output).absolute()
    return output.with_name(f".{output.name}.shards")


@contextlib.contextmanager
def kept_until_done(folder: Path) -> Iterator[None]:
    """A work folder, one command's at a time: gone after success, and after a failure too where no shard was finished."""
    busy = f"{folder}: another command is at work on the same output; wait for it, or choose another --output"
    with locked(folder, busy):
        try:
            yield
        except BaseException:
            if not any(folder.glob("*.json")):
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class DaskEngine:
    """Counts and encodes on a cluster: `scheduler`'s, or one of `num_workers` processes started for the call.

    output: what is being made, a tokenizer's folder or a token file; the shards are kept beside it."""

    output: Path
    scheduler: str | None = None
    num_workers: int = 1
    shard_bytes: int = SHARD_BYTES

    def count_pretokens(
        self,
        paths: Sequence[str | Path],
        special_tokens: Sequence[str],
        pattern: Pattern,
        num_workers: int | None = None,
        max_memory: int | None = None,
        progress: Progress | None = None,
    ) -> PretokenCounts:
        """`counting.count_pretokens` on the cluster. `max_memory` bounds each worker's tables; the totals are here."""
        specials = SpecialTokens.of(special_tokens)
        what = {
            "special_tokens": list(special_tokens),
            "pattern": pattern.regex,
            "max_memory": max_memory,
        }
        jobs = self._jobs(paths, specials, pattern, what)
        table = CountTable()
        with kept_until_done(work_folder(self.output)):
            for job, _ in self._map(count_shard, jobs, progress):
                with np.load(job.file("counts.npz")) as arrays:
                    table.add_counted(arrays["data"], arrays["offsets"], arrays["counts"])
        return PretokenCounts(*table.sorted(), sum(job.end - job.begin for job in jobs))

    def encode_file(
        self, tokenizer: "Tokenizer", src: str | Path, dst: str | Path, progress: Progress | None = None
    ) -> "EncodeSummary":
        """`encoding.encode_file` on the cluster."""
        from lmfast.tokenizer.encoding import EncodeSummary

        began = time.perf_counter()
        folder = work_folder(self.output)
        specials = SpecialTokens.of(tokenizer.special_tokens)
        what = {"tokenizer": tokenizer.fingerprint(), "home": str(folder / "tokenizer")}
        jobs = self._jobs([src], specials, tokenizer.pattern, what)
        with kept_until_done(folder):
            share_tokenizer(tokenizer, folder / "tokenizer")
            results = {job.name: result for job, result in self._map(encode_shard, jobs, progress)}
            tokens = sum(result["tokens"] for result in results.values())
            join_ids([job.file("ids") for job in jobs], dst, tokenizer.dtype, tokens)
        return EncodeSummary(
            tokens=tokens,
            bytes=sum(job.end - job.begin for job in jobs),
            specials=sum(result["specials"] for result in results.values()),
            special_bytes=sum(result["special_bytes"] for result in results.values()),
            seconds=time.perf_counter() - began,
        )

    def _jobs(
        self, paths: Sequence[str | Path], specials: SpecialTokens, pattern: Pattern, what: dict
    ) -> list[Job]:
        folder = work_folder(self.output)
        jobs: list[Job] = []
        for path in paths:
            text = TextFile(Path(path).absolute())
            begin = 0
            while begin < text.size:
                end = text.next_cut(begin + self.shard_bytes, specials, pattern)
                request = what | {
                    "path": str(text.path),
                    "size": text.size,
                    "changed": text.changed,
                    "begin": begin,
                    "end": end,
                }
                jobs.append(Job(f"{len(jobs):06d}", str(text.path), begin, end, request, str(folder)))
                begin = end
        return jobs

    def _map(
        self, work: Callable[[Job], dict], jobs: list[Job], progress: Progress | None
    ) -> Iterator[tuple[Job, dict]]:
        """(job, result) of all jobs, finished ones first."""
        stamps = Stamps(work_folder(self.output))
        left = []
        for job in jobs:
            result = stamps.read(job.name, job.request)
            if result is None:
                left.append(job)
                continue
            yield job, result
        if not left:
            return
        total, done = sum(job.end - job.begin for job in left), 0
        sees = {job.path for job in left} | {str(stamps.folder)}
        with dask_client(self.scheduler, min(self.num_workers, len(left)), sorted(sees)) as client:
            for job, result in run_on_dask(work, left, client):
                done += job.end - job.begin
                if progress is not None:
                    progress(done, total)
                yield job, result


def count_shard(job: Job) -> dict:
    """Counts a shard's pretokens into `NAME.counts.npz` (data, offsets, counts; see PretokenCounts)."""
    pattern = get_pattern(job.request["pattern"])
    counts = count_pretokens(
        [job.text()], job.request["special_tokens"], pattern, 1, job.request["max_memory"]
    )
    with written_beside(job.file("counts.npz")) as beside, beside.open("wb") as file:
        np.savez(file, data=counts.data, offsets=counts.offsets, counts=counts.counts)
    result = {"distinct": len(counts)}
    Stamps(job.folder).write(job.name, job.request, result)
    return result


def encode_shard(job: Job) -> dict:
    """Encodes a shard into `NAME.ids` (headless, of the tokenizer's dtype); counts its special tokens and their bytes."""
    tokenizer = open_shared(job.request["home"], job.request["tokenizer"])
    specials = SpecialTokens.of(tokenizer.special_tokens)
    tokens = found = special_bytes = 0
    with written_beside(job.file("ids")) as beside, beside.open("wb") as file:
        text, reader = job.text(), PieceReader()
        for begin, end in text.spans(specials, tokenizer.pattern):
            data = reader.read(text, begin, end)
            ids = tokenizer.encode_array(data[: end - begin])
            file.write(ids.astype(tokenizer.dtype.newbyteorder("<")))
            tokens += len(ids)
            spans, which = specials.find(data, 0, end - begin)
            found += len(which)
            special_bytes += int((spans[1::2] - spans[::2]).sum())
    result = {"tokens": tokens, "specials": found, "special_bytes": special_bytes}
    Stamps(job.folder).write(job.name, job.request, result)
    return result


def join_ids(files: Sequence[Path], dst: str | Path, dtype: np.dtype, tokens: int) -> None:
    """Headless files of ids, end to end, as one .npy of `tokens` ids."""
    with written_beside(dst) as beside, beside.open("wb") as joined:
        joined.write(npy_header(dtype, tokens))
        for path in files:
            with path.open("rb") as file:
                shutil.copyfileobj(file, joined, 16 << 20)


def share_tokenizer(tokenizer: "Tokenizer", home: Path) -> None:
    """Saves a tokenizer in a folder where workers can load it."""
    home.mkdir(parents=True, exist_ok=True)
    loaded_from = tokenizer._loaded_from
    tokenizer.save(home)
    tokenizer._loaded_from = loaded_from  # a copy, not its new home


@lru_cache(maxsize=2)
def open_shared(home: str, fingerprint: str) -> "Tokenizer":
    """What `share_tokenizer` saved; kept by a worker from shard to shard."""
    from lmfast.tokenizer.bpe import Tokenizer

    tokenizer = Tokenizer.load(home)
    if tokenizer.fingerprint() != fingerprint:
        raise UserError(
            f"{home}: is not the tokenizer that was saved there; does another command write to the same output?"
        )
    return tokenizer
