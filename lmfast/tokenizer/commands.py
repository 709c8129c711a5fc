"""The tokenizer's commands but inspect: train, encode, decode, count, compression.

In: the parsed command line (see __main__.py). Out: files, and a summary of a line or two on stdout. What is refused is
told by the functions called, in one line.
"""

import argparse
import re
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lmfast.data.token_file import TokenWriter, open_tokens
from lmfast.errors import UserError
from lmfast.files import check_writable, written_beside
from lmfast.tokenizer.bpe import Tokenizer, train_bpe
from lmfast.tokenizer.progress import PeakMemory, progress

if TYPE_CHECKING:
    from lmfast.tokenizer.sharding import DaskEngine

PILE_BYTES = 825e9  # Gao et al. 2020, as CS336 has it
DOCUMENT_END = "<|endoftext|>"
PIECE = 1 << 20  # ids, or bytes of standard input, handled together
TIMED_BYTES = 32 << 20  # of a text, for its rate


def load_tokenizer(arguments: argparse.Namespace, path: str | None = None) -> Tokenizer:
    """The tokenizer that --tokenizer, or --vocab and --merges, name."""
    path = path or arguments.tokenizer
    if (path is None) == (arguments.vocab is None and arguments.merges is None):
        raise UserError(
            "name the tokenizer either with --tokenizer FOLDER or with --vocab FILE --merges FILE"
        )
    if path is not None:
        return Tokenizer.load(path, arguments.pattern, arguments.special_tokens)
    if arguments.vocab is None or arguments.merges is None:
        raise UserError("--vocab and --merges come together; name both files")
    return Tokenizer.from_files(
        arguments.vocab, arguments.merges, arguments.special_tokens, arguments.pattern or "gpt2"
    )


def rate_line(num_bytes: int, seconds: float) -> str:
    rate = num_bytes / max(seconds, 1e-9)
    return f"{rate / 1e6:,.1f} MB/s (the Pile's 825 GB would take {duration(PILE_BYTES / max(rate, 1))})"


def duration(seconds: float) -> str:
    """4000 → "1 h 7 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def engine_of(arguments: argparse.Namespace) -> "DaskEngine | None":
    """The cluster that --engine names; None for this machine's threads."""
    if arguments.engine == "local":
        for flag, value in (("--scheduler", arguments.scheduler), ("--shard-size", arguments.shard_size)):
            if value is not None:
                raise UserError(f"{flag}: is for --engine dask; leave it out, or add --engine dask")
        return None
    from lmfast.tokenizer.chunks import default_workers
    from lmfast.tokenizer.sharding import SHARD_BYTES, DaskEngine

    return DaskEngine(
        Path(arguments.output),
        arguments.scheduler,
        arguments.num_workers or default_workers(),
        arguments.shard_size or SHARD_BYTES,
    )


def train(arguments: argparse.Namespace) -> None:
    output = Path(arguments.output)
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is a file; name a folder for the tokenizer")
    check_writable(output / "vocab.json" if output.is_dir() else _first_existing(output) / "vocab.json")
    engine = engine_of(arguments)
    names = {"count": "counting", "merge": "merging"}
    with PeakMemory() as memory, progress(counting="bytes", merging="merges") as update:
        tokenizer = train_bpe(
            arguments.input,
            arguments.vocab_size,
            arguments.special_tokens,
            arguments.pattern,
            arguments.num_workers,
            arguments.max_memory,
            lambda phase, done, total: update(names[phase], done, total),
            engine,
        )
    began = time.perf_counter()
    tokenizer.save(output)
    saving = time.perf_counter() - began
    told = tokenizer.training
    speed = told.total_bytes / max(told.counting_seconds, 1e-9) / 1e6
    print(
        f"{output}: {tokenizer.vocab_size:,} tokens ({len(tokenizer.merges):,} merges, "
        f"{len(tokenizer.special_tokens)} special) from {told.total_bytes / 1e6:,.1f} MB"
    )
    print(
        f"counting {told.counting_seconds:.2f} s ({speed:,.1f} MB/s), merging {told.merging_seconds:.2f} s, "
        f"saving {saving:.2f} s; {memory}; {told.distinct_pretokens:,} distinct pretokens; "
        f"longest token {shown(told.longest_token)} ({len(told.longest_token)} bytes)"
    )


def _first_existing(path: Path) -> Path:
    """The folder under which `path` is going to be made."""
    return next(parent for parent in path.absolute().parents if parent.exists())


def shown(token: bytes, longest: int = 60) -> str:
    """A token in quotes, invalid UTF-8 as escapes, shortened in the middle."""
    text = repr(token.decode("utf-8", "backslashreplace"))
    return text if len(text) <= longest else f"{text[: longest // 2]}…{text[-longest // 2 :]}"


def encode(arguments: argparse.Namespace) -> None:
    tokenizer = load_tokenizer(arguments)
    if arguments.output != "-" and Path(arguments.output).suffix != ".npy":
        raise UserError(
            f"{arguments.output}: token files are .npy; name it so, or - for ids on standard output"
        )
    engine = engine_of(arguments)
    if engine is not None and "-" in (arguments.input, arguments.output):
        raise UserError("--engine dask: needs files for --input and --output, and no -")
    with PeakMemory() as memory:
        if "-" in (arguments.input, arguments.output):
            tokens, size, seconds = _encode_stream(tokenizer, arguments.input, arguments.output)
        else:
            with progress(encoding="bytes") as update:
                summary = tokenizer.encode_file(
                    arguments.input,
                    arguments.output,
                    arguments.num_workers,
                    partial(update, "encoding"),
                    engine=engine,
                )
            tokens, size, seconds = summary.tokens, summary.bytes, summary.seconds
    target = "standard output" if arguments.output == "-" else arguments.output
    print(
        f"{target}: {tokens:,} tokens ({tokenizer.dtype}) from {size / 1e6:,.1f} MB: "
        f"{size / max(tokens, 1):.3f} bytes/token in {seconds:.2f} s, {rate_line(size, seconds)}; {memory}",
        file=sys.stderr if arguments.output == "-" else sys.stdout,
    )


def _encode_stream(tokenizer: Tokenizer, source: str, target: str) -> tuple[int, int, float]:
    """(tokens, bytes, seconds); memory stays constant. Ids go to standard output as text, a line for each piece of text."""
    size = 0
    began = time.perf_counter()

    def counted() -> Iterator[bytes]:
        nonlocal size
        for piece in _pieces(source):
            size += len(piece)
            yield piece

    pieces = tokenizer.encode_arrays(counted())
    tokens = 0
    if target == "-":
        for ids in pieces:
            tokens += len(ids)
            sys.stdout.write(" ".join(map(str, ids.tolist())) + "\n")
        sys.stdout.flush()
    else:
        with TokenWriter(target, tokenizer.dtype) as writer:
            for ids in pieces:
                writer.write(ids)
            tokens = writer.num_tokens
            if not tokens:
                raise UserError("standard input is empty; there is nothing to encode")
    return tokens, size, time.perf_counter() - began


def _pieces(source: str) -> Iterator[bytes]:
    if source == "-":
        yield from iter(lambda: sys.stdin.buffer.read(PIECE), b"")
        return
    try:
        with open(source, "rb") as file:
            yield from iter(lambda: file.read(PIECE), b"")
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror}); check the path") from None


def decode(arguments: argparse.Namespace) -> None:
    tokenizer = load_tokenizer(arguments)
    if arguments.input == "-":
        pieces = _ids_of_stdin()
    else:
        tokens = open_tokens(arguments.input, tokenizer.vocab_size).tokens
        pieces = (np.asarray(tokens[i : i + PIECE]) for i in range(0, len(tokens), PIECE))
    if arguments.output == "-":
        for ids in pieces:
            sys.stdout.buffer.write(tokenizer.decode_bytes(ids))
        sys.stdout.buffer.flush()
        return
    num_tokens = num_bytes = 0
    with written_beside(arguments.output) as beside, beside.open("wb") as file:
        for ids in pieces:
            num_tokens += len(ids)
            num_bytes += file.write(tokenizer.decode_bytes(ids))
    print(f"{arguments.output}: {num_bytes / 1e6:,.1f} MB from {num_tokens:,} tokens")


def _ids_of_stdin() -> Iterator[np.ndarray]:
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            yield np.array(line.split(), np.int64)
        except (ValueError, OverflowError):
            raise UserError(f"standard input, line {number}: not ids separated by blanks") from None


def token_files(names: Sequence[str | Path]) -> list[Path]:
    """The token files that names of files and folders stand for (in folders: .npy and .bin, at any depth)."""
    files: list[Path] = []
    for name in map(Path, names):
        if name.is_dir():
            found = sorted(
                file
                for file in [*name.rglob("*.npy"), *name.rglob("*.bin")]
                if not any(part.startswith(".") for part in file.relative_to(name).parts)
            )
        else:
            found = [name]
        if not found:
            raise UserError(f"{name}: no token files (.npy, .bin) in it; make one with encode")
        files += [file for file in found if file not in files]
    return files


_PARTS = {"train": "train", "training": "train", "test": "test"}
_PARTS |= dict.fromkeys(("valid", "val", "validation", "dev"), "valid")


def part_of(path: Path) -> str:
    """What a token file is a part of: "valid" for owt_valid.npy, val-00000-of-00003.bin and validation/00012.npy; its
    name without a number at the end where neither it nor its folder says."""
    for name in (path.stem, path.parent.name):
        for word in re.split(r"[^a-z]+", name.lower()):
            if word in _PARTS:
                return _PARTS[word]
    return re.sub(r"[._-]?\d+(-of-\d+)?$", "", path.stem) or path.stem


def count(arguments: argparse.Namespace) -> None:
    parts: dict[str, list[tuple[int, int | None]]] = {}
    for file in token_files(arguments.input):
        opened = open_tokens(file)
        size = (opened.summary or {}).get("bytes")
        parts.setdefault(part_of(file), []).append((len(opened), size))
        more = "" if size is None else f", {size / len(opened):.3f} bytes/token"
        print(f"{file}: {len(opened):,} tokens ({opened.tokens.dtype}){more}")
    files = [file for part in parts.values() for file in part]
    if len(parts) > 1:
        for part, found in parts.items():
            print(f"{part}: {_sum_line(found)}")
    if len(files) > 1:
        print(f"total: {_sum_line(files)}")


def _sum_line(files: list[tuple[int, int | None]]) -> str:
    tokens = sum(length for length, _ in files)
    sizes = [size for _, size in files if size is not None]
    more = f", {sum(sizes) / tokens:.3f} bytes/token" if len(sizes) == len(files) else ""
    return f"{tokens:,} tokens in {len(files)} {'file' if len(files) == 1 else 'files'}{more}"


def compression(arguments: argparse.Namespace) -> None:
    if arguments.vocab is not None:
        tokenizers = [(arguments.vocab, load_tokenizer(arguments))]
    else:
        tokenizers = [(path, load_tokenizer(arguments, path)) for path in arguments.tokenizer or [None]]
    for name in arguments.input:
        text = open_text(name)
        documents = sample_documents(text, arguments.n, arguments.seed)
        size = sum(map(len, documents))
        print(f"{name}: {len(documents)} documents, {size:,} bytes")
        for path, tokenizer in tokenizers:
            tokens = sum(len(tokenizer.encode_array(document)) for document in documents)
            timed = text[:TIMED_BYTES].tobytes()
            began = time.perf_counter()
            tokenizer.encode_array(timed)
            seconds = time.perf_counter() - began
            print(
                f"  {path}: {size / max(tokens, 1):.3f} bytes/token ({tokens:,} tokens, vocabulary "
                f"{tokenizer.vocab_size:,}), one thread {rate_line(len(timed), seconds)}"
            )


def open_text(name: str) -> np.ndarray:
    """A text file as uint8, memory-mapped; refused where it is missing or empty."""
    from lmfast.tokenizer.chunks import open_text as open_any

    text = open_any(name)
    if len(text) == 0:
        raise UserError(f"{name}: is empty; name a text that is not")
    return text


def documents_of(text: np.ndarray) -> np.ndarray:
    """(start, end) of each document, int64 (n, 2): between <|endoftext|>, where there is one, else blank lines."""
    for mark in (DOCUMENT_END.encode(), b"\n\n", b"\r\n\r\n"):
        found = _occurrences(text, mark)
        if len(found):
            break
    starts = np.concatenate([[0], found + len(mark)])
    ends = np.concatenate([found, [len(text)]])
    return np.stack([starts, ends], 1)


def _occurrences(text: np.ndarray, mark: bytes) -> np.ndarray:
    """Where `mark` stands, without overlaps; the text is read in pieces."""
    found = array("q")
    step = 64 << 20
    after = 0
    for begin in range(0, len(text), step):
        window = text[begin : begin + step + len(mark) - 1].tobytes()
        at = window.find(mark, max(0, after - begin))
        while at >= 0:
            found.append(begin + at)
            after = begin + at + len(mark)
            at = window.find(mark, after - begin)
    return np.array(found, np.int64)


def sample_documents(text: np.ndarray, n: int, seed: int) -> list[bytes]:
    """`n` documents drawn without replacement, in the order of the text; those of blanks only are left out."""
    spans = documents_of(text)
    chosen: list[int] = []
    for i in np.random.default_rng(seed).permutation(len(spans)):
        if len(chosen) < n and text[slice(*spans[i])].tobytes().strip():
            chosen.append(int(i))
    return [text[slice(*spans[i])].tobytes() for i in sorted(chosen)]
