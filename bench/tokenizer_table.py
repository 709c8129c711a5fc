"""How the tokenizer stands against its targets: `python -m bench.tokenizer_table [--full] [--only ROW …]`.

One run, one machine, as many threads as it has cores: each row is measured beside its peer in turns, after JIT, and
printed when it is there. Ratios are medians over pairs with their quartiles (timing.py). Outputs are
compared before they are timed. --full takes the real sizes (A 300 MB, B 200 MB, memory at 2 GB; under 8 minutes);
without it, small ones, which prove that it works and nothing else.

Out: the table, and bench/results/tokenizer_<cpu>.json with every time that was taken, device, commit and versions.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from bench import corpora, machine, process, table, tokenizer_peers
from bench.target_table import Row, add_options, measure
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
    """Sizes, threads and tokenizers that the rows share; made when first asked for."""

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

    def rounds(self, few: int, many: int) -> int:
        return many if self.full else few


def rate_line(num_bytes: int, times: list[float]) -> str:
    return f"{table.amount(num_bytes / np.median(times), 'B/s')}"


def training(setting: Setting, name: str, must: float, aim: float) -> Iterator[Row]:
    """The whole call beside gigatoken's."""
    path, vocab_size = setting.path(name), setting.sizes[name][1]
    ours = setting.tokenizer(name)
    (peer,) = tokenizer_peers.training_peers(path, vocab_size, {"gigatoken"})
    off = tokenizer_peers.check_learnt(ours, peer, peer.run(), corpora.held_out(name))
    times = in_turns({"ours": lambda: setting.train(name), "gigatoken": peer.run}, setting.rounds(3, 7))
    found = ratio(times["gigatoken"], times["ours"])
    yield Row(
        f"train {vocab_size // 1000}k on {name}, whole call",
        must,
        aim,
        found.median,
        f"{found} x gigatoken, {rate_line(path.stat().st_size, times['ours'])}, held-out tokens {off:+.3%}",
        data={"times": times, "ratio": found.as_dict(), "held_out": off},
    )


def encoding(setting: Setting, name: str, must: tuple, aim: tuple) -> Iterator[Row]:
    """To a new file, beside gigatoken's encode_files; and beside tiktoken on the first part of the same text.

    Both know the pretokens of the rounds before, as in a program that encodes many files; then with nothing known, as in
    one that encodes a single file. The file of the round before is deleted beforehand: giving back its pages is no part
    of encoding."""
    path, tokenizer, target = setting.path(name), setting.tokenizer(name), setting.folder / "ids.npy"

    def new_file() -> None:
        target.unlink(missing_ok=True)

    def ours(source=path):
        return tokenizer.encode_file(source, target, setting.workers)

    ours()
    ids = np.load(target, mmap_mode="r")
    (peer,) = tokenizer_peers.encoding_peers(tokenizer, path, setting.folder, setting.workers, {"gigatoken"})
    tokenizer_peers.check_ids(peer.name, peer.ids(peer.run()), ids)
    times = in_turns({"ours": ours, "gigatoken": peer.run}, setting.rounds(3, 15), before=new_file)
    found = ratio(times["gigatoken"], times["ours"])
    size = path.stat().st_size
    yield Row(
        f"encode {name} to a file",
        must[0],
        aim[0],
        found.median,
        f"{found} x gigatoken, {rate_line(size, times['ours'])}",
        data={"times": times, "ratio": found.as_dict(), "bytes": size, "tokens": len(ids)},
    )
    fresh = {}

    def anew() -> None:
        new_file()
        fresh["ours"] = Tokenizer(
            tokenizer.vocab, tokenizer.merges, tokenizer.special_tokens, tokenizer.pattern
        )
        fresh["ours"].encode_array("")  # compiles the vocabulary, as the peer has by now
        (fresh["peer"],) = tokenizer_peers.encoding_peers(
            tokenizer, path, setting.folder, setting.workers, {"gigatoken"}
        )

    times = in_turns(
        {
            "ours": lambda: fresh["ours"].encode_file(path, target, setting.workers),
            "gigatoken": lambda: fresh["peer"].run(),
        },
        setting.rounds(2, 9),
        before=anew,
    )
    found = ratio(times["gigatoken"], times["ours"])
    yield Row(
        f"encode {name} to a file, no pretoken known yet",
        must[0],
        aim[0],
        found.median,
        f"{found} x gigatoken, {rate_line(size, times['ours'])}",
        data={"times": times, "ratio": found.as_dict(), "bytes": size, "tokens": len(ids)},
    )
    part = setting.folder / "part.txt"
    with path.open("rb") as file:
        text = file.read(min(size, SLICE_BYTES if setting.full else SLICE_BYTES // 5))
    part.write_bytes(text.decode("utf-8", "ignore").encode())
    (peer,) = tokenizer_peers.encoding_peers(tokenizer, part, setting.folder, setting.workers, {"tiktoken"})
    ours(part)
    tokenizer_peers.check_ids(peer.name, peer.ids(peer.run()), np.load(target))
    share = part.stat().st_size / size
    times = in_turns({"ours": ours, "tiktoken": peer.run}, setting.rounds(2, 5), before=new_file)
    found = ratio(times["tiktoken"], [taken * share for taken in times["ours"]])
    yield Row(
        f"encode {name}, tiktoken on its first {part.stat().st_size / 1e6:.0f} MB",
        must[1],
        aim[1],
        found.median,
        f"{found} x tiktoken (batch, {setting.workers} threads)",
        data={"times": times, "ratio": found.as_dict(), "share": share},
    )


def short_strings(setting: Setting) -> Iterator[Row]:
    """1 kB each, one call a string."""
    for name in ("A", "B"):
        tokenizer = setting.tokenizer(name)
        text = corpora.held_out(name).read_bytes().decode().replace(END, "")
        texts = [text[i : i + 1000] for i in range(0, 1_000_000, 1000)]
        theirs = tokenizer_peers.tiktoken_encoding(tokenizer)
        for one in texts:
            if theirs.encode_ordinary(one) != tokenizer.encode_array(one).tolist():
                raise tokenizer_peers.Disagreement(f"tiktoken: other ids for {one!r}")
        times = in_turns(
            {
                "ours": lambda texts=texts, tokenizer=tokenizer: [tokenizer.encode_array(t) for t in texts],
                "tiktoken": lambda texts=texts, theirs=theirs: [theirs.encode_ordinary(t) for t in texts],
            },
            setting.rounds(5, 25),
        )
        found = ratio(times["tiktoken"], times["ours"])
        each = np.median(times["ours"]) / len(texts)
        yield Row(
            f"encode 1 kB strings of {name} one at a time",
            3,
            5,
            found.median,
            f"{found} x tiktoken, {table.duration(each)} a string",
            data={"times": times, "ratio": found.as_dict()},
        )


def decoding(setting: Setting) -> Iterator[Row]:
    """An array here, a list there."""
    for name in ("A", "B"):
        tokenizer = setting.tokenizer(name)
        text = corpora.held_out(name).read_bytes().decode()
        ids = tokenizer.encode_array(text)
        as_list, theirs = ids.tolist(), tokenizer_peers.tiktoken_encoding(tokenizer)
        if not tokenizer.decode(ids) == theirs.decode(as_list) == text:
            raise tokenizer_peers.Disagreement("tiktoken: another text from the same ids")
        times = in_turns(
            {
                "ours": lambda tokenizer=tokenizer, ids=ids: tokenizer.decode(ids),
                "tiktoken": lambda theirs=theirs, as_list=as_list: theirs.decode(as_list),
            },
            setting.rounds(5, 25),
        )
        found = ratio(times["tiktoken"], times["ours"])
        each = np.median(times["ours"]) / len(ids)
        yield Row(
            f"decode {name}, array in",
            3,
            5,
            found.median,
            f"{found} x tiktoken (list in), {table.duration(each)} an id",
            data={"times": times, "ratio": found.as_dict()},
        )


def long_pretoken(setting: Setting) -> Iterator[Row]:
    """Four times the length must take at most five times as long."""
    tokenizer = setting.tokenizer("A")
    texts = {"1 MB": b"x" * 1_000_000, "4 MB": b"x" * 4_000_000}
    functions = {name: lambda text=text: tokenizer.encode_array(text) for name, text in texts.items()}
    in_turns(functions, 1)
    times = in_turns(functions, setting.rounds(3, 9))
    found = ratio(times["4 MB"], times["1 MB"])
    shown = f"{found} x the time for 4 x the length; {table.duration(np.median(times['1 MB']))} for 1 MB"
    yield Row("one pretoken of 1 MB", 5, None, found.median, shown, at_most=True, data={"times": times})


def our_command(*words: str) -> list[str]:
    return [sys.executable, "-m", "lmfast.tokenizer", *words]


def environment(root: Path) -> dict[str, str]:
    """This process's, for one that imports lmfast from `root` and, as in any shell, keeps compiled bytecode: where
    PYTHONDONTWRITEBYTECODE is set, each start compiles all of Numba's modules (2.3 s instead of 1.0)."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {
        "PYTHONPATH": machine.import_path(root)
    }


def memory(setting: Setting) -> Iterator[Row]:
    """Train and encode as commands, on A and on a file seven times as long with the same pretokens."""
    once = setting.path("A")
    longer = corpora.repeated(once, 7 if setting.full else 3)
    setting.tokenizer("A").save(setting.folder / "tokenizer")
    size = str(setting.sizes["A"][1])
    commands = {
        "train": lambda path: our_command(
            "train", "--input", str(path), "--output", str(setting.folder / "learnt"), "--vocab-size", size
        ),
        "encode": lambda path: our_command(
            "encode", "--tokenizer", str(setting.folder / "tokenizer"), "--input", str(path),
            "--output", str(setting.folder / "ids.npy"),
        ),
    }  # fmt: skip
    for name, command in commands.items():
        process.run(command(once), machine.ROOT, environment(machine.ROOT), watch_memory=False)  # JIT
        peaks = [
            process.run(command(path), machine.ROOT, environment(machine.ROOT)) for path in (once, longer)
        ]
        small, large = (done.peak_bytes / 1e6 for done in peaks)
        sizes = " and ".join(f"{path.stat().st_size / 1e6:,.0f} MB" for path in (once, longer))
        shown = f"{small:,.0f} and {large:,.0f} MB at {sizes} ({large / small - 1:+.1%})"
        data = {
            "peak_bytes": [done.peak_bytes for done in peaks],
            "seconds": [done.seconds for done in peaks],
        }
        yield Row(f"peak memory, {name} A, MB", 1000, 400, max(small, large), shown, at_most=True, data=data)
        yield Row(
            f"peak memory, {name}, growth in %", 10, None, abs(100 * (large / small - 1)), shown, at_most=True
        )
    longer.unlink()


def start(setting: Setting) -> Iterator[Row]:
    """Whole processes on a 1 kB file, from a copy of the package that was never run."""
    text = setting.folder / "1kb.txt"
    with setting.path("A").open("rb") as file:
        text.write_bytes(file.read(1000))
    commands = {
        "train": our_command(
            "train", "--input", str(text), "--output", str(setting.folder / "t"), "--vocab-size", "300"
        ),
        "encode": our_command(
            "encode", "--tokenizer", str(setting.folder / "t"), "--input", str(text),
            "--output", str(setting.folder / "1kb.npy"),
        ),
    }  # fmt: skip
    first, later = {}, {}
    for name, command in commands.items():
        with tempfile.TemporaryDirectory(prefix="lmfast-fresh-") as fresh:
            shutil.copytree(
                machine.ROOT / "lmfast", Path(fresh, "lmfast"), ignore=shutil.ignore_patterns("__pycache__")
            )
            runs = [
                process.run(command, Path(fresh), environment(Path(fresh)), watch_memory=False).seconds
                for _ in range(setting.rounds(3, 8))
            ]
        first[name], later[name] = runs[0], runs[1:]
    told = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in first.items())
    yield Row("first call ever (JIT), seconds", 25, 10, max(first.values()), told, at_most=True, data=first)
    told = ", ".join(
        f"{name} {np.median(times):.2f} s ({min(times):.2f}-{max(times):.2f})"
        for name, times in later.items()
    )
    middle = max(float(np.median(times)) for times in later.values())
    yield Row("later calls, seconds", 1.5, 1.0, middle, told, at_most=True, data=later)


def counting(setting: Setting) -> Iterator[Row]:
    """At 1, 2, 6 and 10 workers; must: that more workers than cores do no harm."""
    pattern = get_pattern("gpt2")
    for name in ("A", "B"):
        path = setting.path(name)
        functions = {
            str(workers): lambda workers=workers, path=path: count_pretokens([path], [END], pattern, workers)
            for workers in (1, 2, 6, 10)
        }
        times = in_turns(functions, setting.rounds(2, 5))
        best = {workers: path.stat().st_size / np.median(taken) for workers, taken in times.items()}
        told = ", ".join(f"{workers}: {table.amount(rate, 'B/s')}" for workers, rate in best.items())
        hours = PILE_BYTES / max(best.values()) / 3600
        yield Row(
            f"count {name}, 10 workers over {setting.workers}",
            0.8,
            None,
            best["10"] / best.get(str(setting.workers), best["2"]),
            f"workers {told}; the Pile's 825 GB in {hours:.1f} h",
            data={"times": times},
        )


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


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.tokenizer_table", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--full", action="store_true", help="the real sizes; under 8 minutes")
    add_options(parser, ROWS)
    arguments = parser.parse_args()
    described = machine.describe()
    tokenizer_peers.set_threads(described["cores"])

    def rows() -> Iterator[Row]:
        corpora.folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="lmfast-bench-", dir=corpora.folder().parent) as folder:
            setting = Setting(arguments.full, Path(folder))
            for chosen in arguments.only or ROWS:
                yield from ROWS[chosen](setting)

    name = f"tokenizer_{machine.slug(described['cpu'])}{'' if arguments.full else '_small'}.json"
    measure(f"{described['cpu']}, {described['cores']} cores", described, rows(), arguments.output or name)


if __name__ == "__main__":
    main()
