"""Compares the tokenizer with its targets: `python -m bench.tokenizer_table [--full] [--only ROW …]`.

One run, one machine, as many threads as it has cores: each row is measured in turns with its peer, after JIT compilation.
Ratios are medians over pairs with their quartiles (timing.py). Outputs are compared before they are timed. --full takes
the real sizes (A 300 MB, B 200 MB, memory at 2 GB; under 8 minutes); without it, small ones, which only prove that it
works. Out: the table, and bench/results/tokenizer_<cpu>.json.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from bench import corpora, machine, process, table, tokenizer_peers
from bench.results import Row
from bench.target_table import compared, measure, parser_of
from bench.timing import in_turns, ratio
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.counting import count_pretokens
from lmfast.tokenizer.patterns import get_pattern
from lmfast.tokenizer.special_tokens import DOCUMENT_END as END
from lmfast.tokenizer.training import train_bpe

PILE_BYTES = 825e9
FULL = {"A": (300_000_000, 10_000), "B": (200_000_000, 32_000)}
SMALL = {"A": (30_000_000, 10_000), "B": (20_000_000, 16_000)}
SLICE_BYTES = 20_000_000  # of a corpus for tiktoken, whose rate does not depend on the length


class Setting:
    """Sizes, threads and tokenizers shared by the rows, created when first needed."""

    def __init__(self, full: bool, folder: Path):
        self.full, self.folder = full, folder
        self.sizes = FULL if full else SMALL
        self.workers = machine.num_cores()
        self._tokenizers: dict[str, Tokenizer] = {}

    def path(self, name: str) -> Path:
        return corpora.corpus(name, self.sizes[name][0])

    def train(self, name: str) -> Tokenizer:
        return train_bpe(self.path(name), self.sizes[name][1], num_workers=self.workers)

    def tokenizer(self, name: str) -> Tokenizer:
        if name not in self._tokenizers:
            self._tokenizers[name] = self.train(name)
        return self._tokenizers[name]

    def encoder(self, name: str, path: Path, package: str) -> tokenizer_peers.EncodingPeer:
        """`package`, ready to encode `path` with the tokenizer of corpus `name`."""
        (peer,) = tokenizer_peers.encoding_peers(
            self.tokenizer(name), path, self.folder, self.workers, {package}
        )
        return peer

    def turns(
        self, functions: Mapping[str, Callable], few: int, many: int, before: Callable | None = None
    ) -> dict:
        """Seconds of each function, in `few` rounds of small sizes or `many` of full ones."""
        return in_turns(functions, many if self.full else few, before=before)


def rate(num_bytes: int, times: list[float]) -> str:
    return table.amount(num_bytes / np.median(times), "B/s")


def training(setting: Setting, name: str, must: float, aim: float) -> Iterator[Row]:
    """The whole call against gigatoken's."""
    path, vocab_size = setting.path(name), setting.sizes[name][1]
    ours = setting.tokenizer(name)
    (peer,) = tokenizer_peers.training_peers(path, vocab_size, {"gigatoken"})
    off = tokenizer_peers.check_learnt(ours, peer, peer.run(), corpora.held_out(name))
    times = setting.turns({"ours": lambda: setting.train(name), "gigatoken": peer.run}, 3, 7)
    shown = f"gigatoken, {rate(path.stat().st_size, times['ours'])}, held-out tokens {off:+.3%}"
    yield compared(
        f"train {vocab_size // 1000}k on {name}, whole call", times, shown, must, aim, held_out=off
    )


def encoding(setting: Setting, name: str, must: tuple, aim: tuple) -> Iterator[Row]:
    """To a new file, against gigatoken's encode_files; and against tiktoken on the first part of the same text.

    Both know the pretokens of the rounds before, as in a program that encodes many files; then with nothing known, as in
    one that encodes a single file. The file of the round before is deleted first: freeing its pages is not part of
    encoding."""
    path, tokenizer, target = setting.path(name), setting.tokenizer(name), setting.folder / "ids.npy"
    size = path.stat().st_size

    def remove() -> None:
        target.unlink(missing_ok=True)

    def ours(source=path):
        return tokenizer.encode_file(source, target, setting.workers)

    ours()
    ids = np.load(target, mmap_mode="r")
    peer = setting.encoder(name, path, "gigatoken")
    tokenizer_peers.check_ids(peer.name, peer.ids(peer.run()), ids)
    data = {"bytes": size, "tokens": len(ids)}

    def against_gigatoken(title: str, times: dict) -> Row:
        return compared(title, times, f"gigatoken, {rate(size, times['ours'])}", must[0], aim[0], **data)

    times = setting.turns({"ours": ours, "gigatoken": peer.run}, 3, 15, remove)
    yield against_gigatoken(f"encode {name} to a file", times)
    fresh = {}

    def start_fresh() -> None:
        remove()
        fresh["ours"] = Tokenizer(
            tokenizer.vocab, tokenizer.merges, tokenizer.special_tokens, tokenizer.pattern
        )
        fresh["ours"].encode_array("")  # compiles the vocabulary, as the peer has by now
        fresh["peer"] = setting.encoder(name, path, "gigatoken")

    functions = {
        "ours": lambda: fresh["ours"].encode_file(path, target, setting.workers),
        "gigatoken": lambda: fresh["peer"].run(),
    }
    times = setting.turns(functions, 2, 9, start_fresh)
    yield against_gigatoken(f"encode {name} to a file, no pretoken known yet", times)
    part = setting.folder / "part.txt"
    with path.open("rb") as file:
        text = file.read(min(size, SLICE_BYTES if setting.full else SLICE_BYTES // 5))
    part.write_bytes(text.decode("utf-8", "ignore").encode())
    peer = setting.encoder(name, part, "tiktoken")
    ours(part)
    tokenizer_peers.check_ids(peer.name, peer.ids(peer.run()), np.load(target))
    times = setting.turns({"ours": ours, "tiktoken": peer.run}, 2, 5, remove)
    title = f"encode {name}, tiktoken on its first {part.stat().st_size / 1e6:.0f} MB"
    shown, share = f"tiktoken (batch, {setting.workers} threads)", part.stat().st_size / size
    yield compared(title, times, shown, must[1], aim[1], share=share)


def short_strings(setting: Setting) -> Iterator[Row]:
    """1 kB each, one call per string."""
    for name in ("A", "B"):
        tokenizer = setting.tokenizer(name)
        text = corpora.held_out(name).read_bytes().decode().replace(END, "")
        texts = [text[i : i + 1000] for i in range(0, 1_000_000, 1000)]
        theirs = tokenizer_peers.tiktoken_encoding(tokenizer)
        for one in texts:
            if theirs.encode_ordinary(one) != tokenizer.encode_array(one).tolist():
                raise tokenizer_peers.Disagreement(f"tiktoken: other ids for {one!r}")
        functions = {
            "ours": lambda texts=texts, tokenizer=tokenizer: [tokenizer.encode_array(t) for t in texts],
            "tiktoken": lambda texts=texts, theirs=theirs: [theirs.encode_ordinary(t) for t in texts],
        }
        times = setting.turns(functions, 5, 25)
        shown = f"tiktoken, {table.duration(np.median(times['ours']) / len(texts))} per string"
        yield compared(f"encode 1 kB strings of {name} one at a time", times, shown, 3, 5)


def decoding(setting: Setting) -> Iterator[Row]:
    """From an array; tiktoken's from a list."""
    for name in ("A", "B"):
        tokenizer = setting.tokenizer(name)
        text = corpora.held_out(name).read_bytes().decode()
        ids = tokenizer.encode_array(text)
        as_list, theirs = ids.tolist(), tokenizer_peers.tiktoken_encoding(tokenizer)
        if not tokenizer.decode(ids) == theirs.decode(as_list) == text:
            raise tokenizer_peers.Disagreement("tiktoken: another text from the same ids")
        functions = {
            "ours": lambda tokenizer=tokenizer, ids=ids: tokenizer.decode(ids),
            "tiktoken": lambda theirs=theirs, as_list=as_list: theirs.decode(as_list),
        }
        times = setting.turns(functions, 5, 25)
        shown = f"tiktoken (list in), {table.duration(np.median(times['ours']) / len(ids))} per id"
        yield compared(f"decode {name}, array in", times, shown, 3, 5)


def long_pretoken(setting: Setting) -> Iterator[Row]:
    """Four times the length must take at most five times as long."""
    tokenizer = setting.tokenizer("A")
    texts = {"1 MB": b"x" * 1_000_000, "4 MB": b"x" * 4_000_000}
    functions = {name: lambda text=text: tokenizer.encode_array(text) for name, text in texts.items()}
    in_turns(functions, 1)
    times = setting.turns(functions, 3, 9)
    found = ratio(times["4 MB"], times["1 MB"])
    shown = f"{found} x the time for 4 x the length; {table.duration(np.median(times['1 MB']))} for 1 MB"
    yield Row("one pretoken of 1 MB", found.median, shown, 5, at_most=True, data={"times": times})


def our_command(*words: str) -> list[str]:
    return [sys.executable, "-m", "lmfast.tokenizer", *words]


def run_command(command: list[str], root: Path = machine.ROOT, watch_memory: bool = True) -> process.Finished:
    """A process that imports lmfast from `root` and, as in any shell, keeps compiled bytecode: where
    PYTHONDONTWRITEBYTECODE is set, each start compiles all of Numba's modules (2.3 s instead of 1.0)."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPATH"] = machine.import_path(root)
    return process.run(command, root, environment, watch_memory)


def memory(setting: Setting) -> Iterator[Row]:
    """Train and encode as commands, on A and on a file seven times as long with the same pretokens."""
    once, folder = setting.path("A"), setting.folder
    longer = corpora.repeated(once, 7 if setting.full else 3)
    setting.tokenizer("A").save(folder / "tokenizer")
    size = str(setting.sizes["A"][1])
    commands = {
        "train": ["train", "--output", str(folder / "learnt"), "--vocab-size", size],
        "encode": ["encode", "--tokenizer", str(folder / "tokenizer"), "--output", str(folder / "ids.npy")],
    }
    for name, words in commands.items():
        run_command(our_command(*words, "--input", str(once)), watch_memory=False)  # JIT
        runs = [run_command(our_command(*words, "--input", str(path))) for path in (once, longer)]
        small, large = (done.peak_bytes / 1e6 for done in runs)
        sizes = " and ".join(f"{path.stat().st_size / 1e6:,.0f} MB" for path in (once, longer))
        growth = large / small - 1
        shown = f"{small:,.0f} and {large:,.0f} MB at {sizes} ({growth:+.1%})"
        data = {"peak_bytes": [done.peak_bytes for done in runs], "seconds": [done.seconds for done in runs]}
        yield Row(f"peak memory, {name} A, MB", max(small, large), shown, 1000, 400, True, data=data)
        yield Row(f"peak memory, {name}, growth in %", abs(100 * growth), shown, 10, at_most=True)
    longer.unlink()


def start(setting: Setting) -> Iterator[Row]:
    """Whole processes on a 1 kB file, from a copy of the package that was never run."""
    folder, text = setting.folder, setting.folder / "1kb.txt"
    with setting.path("A").open("rb") as file:
        text.write_bytes(file.read(1000))
    commands = {
        "train": ["train", "--input", str(text), "--output", str(folder / "t"), "--vocab-size", "300"],
        "encode": ["encode", "--tokenizer", str(folder / "t"), "--input", str(text), "--output", str(folder / "1kb.npy")],
    }  # fmt: skip
    first, later = {}, {}
    for name, words in commands.items():
        with tempfile.TemporaryDirectory(prefix="lmfast-fresh-") as fresh:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(machine.ROOT / "lmfast", Path(fresh, "lmfast"), ignore=ignored)
            runs = [
                run_command(our_command(*words), Path(fresh), watch_memory=False).seconds
                for _ in range(8 if setting.full else 3)
            ]
        first[name], later[name] = runs[0], runs[1:]
    shown = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in first.items())
    yield Row("first call ever (JIT), seconds", max(first.values()), shown, 25, 10, True, data=first)
    shown = ", ".join(
        f"{name} {np.median(times):.2f} s ({min(times):.2f}-{max(times):.2f})"
        for name, times in later.items()
    )
    middle = max(float(np.median(times)) for times in later.values())
    yield Row("later calls, seconds", middle, shown, 1.5, 1.0, True, data=later)


def counting(setting: Setting) -> Iterator[Row]:
    """At 1, 2, 6 and 10 workers; must: more workers than cores are not slower."""
    pattern = get_pattern("gpt2")
    for name in ("A", "B"):
        path = setting.path(name)
        functions = {
            str(workers): lambda workers=workers, path=path: count_pretokens([path], [END], pattern, workers)
            for workers in (1, 2, 6, 10)
        }
        times = setting.turns(functions, 2, 5)
        best = {workers: path.stat().st_size / np.median(taken) for workers, taken in times.items()}
        rates = ", ".join(f"{workers}: {table.amount(rate, 'B/s')}" for workers, rate in best.items())
        shown = f"workers {rates}; the Pile's 825 GB in {PILE_BYTES / max(best.values()) / 3600:.1f} h"
        value = best["10"] / best.get(str(setting.workers), best["2"])
        title = f"count {name}, 10 workers over {setting.workers}"
        yield Row(title, value, shown, 0.8, data={"times": times})


ROWS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    "train-a": lambda setting: training(setting, "A", 2, 3),
    "encode-a": lambda setting: encoding(setting, "A", (1.3, 20), (2, None)),
    "strings": short_strings,
    "decode": decoding,
    "pretoken": long_pretoken,
    "start": start,
    "train-b": lambda setting: training(setting, "B", 2.5, 5),
    "encode-b": lambda setting: encoding(setting, "B", (1.2, 15), (1.6, None)),
    "count": counting,
    "memory": memory,
}


def main() -> int:
    parser = parser_of("tokenizer_table", __doc__, ROWS)
    parser.add_argument("--full", action="store_true", help="the real sizes; under 8 minutes")
    arguments = parser.parse_args()
    tokenizer_peers.set_threads(machine.num_cores())

    def rows() -> Iterator[Row]:
        corpora.folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="lmfast-bench-", dir=corpora.folder().parent) as folder:
            setting = Setting(arguments.full, Path(folder))
            for chosen in arguments.only or ROWS:
                yield from ROWS[chosen](setting)

    return measure("tokenizer", rows(), arguments.output, suffix="" if arguments.full else "_small")


if __name__ == "__main__":
    raise SystemExit(main())
