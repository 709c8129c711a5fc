"""The tokenizer with 1, 2, 4, … workers: `python -m bench.tokenizer_scaling [--megabytes N] [--only ROW …]`.

Rows: training (vocabulary 10,000) and encoding to a file by threads, and by --engine processes, with their start; the
same text cut at documents and encoded by as many processes of one worker each, started and warmed up before. Every
encoding's ids are compared with those of one worker before anything is timed. In: corpus A of bench/corpora.py, built
first if it does not exist (`--prepare` does only that). Measured on the cores that this process may use.
"""

import hashlib
import itertools
import multiprocessing
import statistics
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from bench import corpora, machine
from bench.results import Row
from bench.target_table import attempt, measure, parser_of
from bench.timing import seconds
from lmfast import Tokenizer, train_bpe
from lmfast.sharding.jobs import ExecutionOptions
from lmfast.tokenizer.sharding import ShardedEngine
from lmfast.tokenizer.special_tokens import DOCUMENT_END

VOCABULARY = 10_000
MOST_WORKERS = 128
ROUNDS = 3


def worker_counts(cores: int) -> list[int]:
    """1, 2, 4, … up to the cores, at most MOST_WORKERS, and the cores themselves.

    >>> worker_counts(6), worker_counts(256)
    ([1, 2, 4, 6], [1, 2, 4, 8, 16, 32, 64, 128])
    """
    most = min(cores, MOST_WORKERS)
    return sorted({2**k for k in range(most.bit_length()) if 2**k <= most} | {most})


def parts(text: Path, count: int, folder: Path) -> list[Path]:
    """The text in `count` files of about the same size, cut after <|endoftext|>."""
    data, end = np.memmap(text, mode="r"), DOCUMENT_END.encode()
    cuts = [0]
    for k in range(1, count):
        begin = k * len(data) // count
        found = data[begin : begin + 1_000_000].tobytes().find(end)
        cuts.append(len(data) if found < 0 else begin + found + len(end))
    cuts.append(len(data))
    paths = []
    for k, (begin, stop) in enumerate(itertools.pairwise(cuts)):
        paths.append(folder / f"part-{k:02d}.txt")
        paths[-1].write_bytes(data[begin:stop].tobytes())
    return paths


def encode_part(tokenizer: str, path: str) -> None:
    Tokenizer.load(tokenizer).encode_file(path, f"{path}.npy", num_workers=1)


def digest(paths: list[Path]) -> str:
    """sha256 of the ids in these files, one after another."""
    found = hashlib.sha256()
    for path in paths:
        found.update(np.load(path, mmap_mode="r").tobytes())
    return found.hexdigest()


class Subject:
    """The text, a tokenizer trained on it, a folder for outputs, and the counts of workers."""

    def __init__(self, text: Path, folder: Path, counts: list[int], rounds: int):
        self.text, self.folder, self.counts, self.rounds = text, folder, counts, rounds
        self.megabytes = text.stat().st_size / 1e6
        self.tokenizer = train_bpe(text, VOCABULARY, num_workers=counts[-1])
        self.tokenizer.save(folder / "tokenizer")
        self.encode(1)
        self.ids = digest([self.folder / "ids.npy"])

    def engine(self, name: str, output: str, workers: int) -> ShardedEngine | None:
        """What --engine selects; None for threads."""
        options = ExecutionOptions(name, num_workers=workers)
        return None if name == "threads" else ShardedEngine(self.folder / output, options)

    def train(self, workers: int, engine: str = "threads") -> None:
        train_bpe(self.text, VOCABULARY, num_workers=workers, engine=self.engine(engine, "trained", workers))

    def encode(self, workers: int, engine: str = "threads") -> None:
        ids = self.folder / "ids.npy"
        self.tokenizer.encode_file(self.text, ids, workers, engine=self.engine(engine, "ids.npy", workers))

    def row(self, name: str, times: dict[int, list[float]], wrong: str = "") -> Row:
        """MB/s by workers; the value is how many times as fast as one worker the most workers are."""
        rates = {count: self.megabytes / statistics.median(taken) for count, taken in times.items()}
        first, last = rates[self.counts[0]], rates[self.counts[-1]]
        shown = ", ".join(f"{count}: {rate:,.0f}" for count, rate in rates.items())
        data = {"times": times, "megabytes": self.megabytes}
        shown = f"{shown}; {last / first:.2f} x"
        return Row(f"{name}, MB/s by workers", last / first, shown, wrong=wrong, data=data)


def train_row(engine: str, subject: Subject) -> Row:
    times = {
        n: [seconds(partial(subject.train, n, engine)) for _ in range(subject.rounds)] for n in subject.counts
    }
    return subject.row(f"train 10k on A, {engine}", times)


def encode_row(engine: str, subject: Subject) -> Row:
    times, wrong = {}, ""
    for count in subject.counts:
        subject.encode(count, engine)
        if digest([subject.folder / "ids.npy"]) != subject.ids:
            wrong = f"{count} {engine} give other ids than one worker"
        times[count] = [seconds(partial(subject.encode, count, engine)) for _ in range(subject.rounds)]
    return subject.row(f"encode A to a file, {engine}", times, wrong)


def warm_processes_row(subject: Subject) -> Row:
    times, wrong, tokenizer = {}, "", str(subject.folder / "tokenizer")
    for count in subject.counts:
        paths = parts(subject.text, count, subject.folder)
        with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:

            def run(pool=pool, paths=paths) -> None:
                list(pool.map(partial(encode_part, tokenizer), map(str, paths)))

            run()
            if digest([Path(f"{path}.npy") for path in paths]) != subject.ids:
                wrong = f"{count} processes give other ids than one worker"
            times[count] = [seconds(run) for _ in range(subject.rounds)]
    return subject.row("encode A to files, warm processes", times, wrong)


MAKERS = {
    "threads": partial(encode_row, "threads"),
    "train": partial(train_row, "threads"),
    "processes": partial(encode_row, "processes"),
    "train-processes": partial(train_row, "processes"),
    "warm-processes": warm_processes_row,
}


def rows(subject: Subject, only: list[str] | None = None) -> Iterator[Row]:
    for name, make in MAKERS.items():
        if only is None or name in only:
            yield attempt(f"tokenizer scaling: {name}", partial(make, subject))


def main() -> int:
    parser = parser_of("tokenizer_scaling", __doc__, MAKERS)
    parser.add_argument("--megabytes", type=int, default=300, help="size of the text")
    parser.add_argument("--prepare", action="store_true", help="only make the text")
    parser.add_argument("--rehearse", action="store_true", help="one megabyte and one round")
    arguments = parser.parse_args()
    megabytes = 1 if arguments.rehearse else arguments.megabytes
    text = corpora.corpus("A", megabytes * 1_000_000)
    if arguments.prepare:
        return 0
    counts = worker_counts(machine.num_cores())
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(text, Path(folder), counts, 1 if arguments.rehearse else ROUNDS)
        found = rows(subject, arguments.only)
        return measure("tokenizer_scaling", found, arguments.output, megabytes=megabytes)


if __name__ == "__main__":
    raise SystemExit(main())
