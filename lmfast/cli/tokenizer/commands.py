"""The subcommands train, encode and decode of `lmfast tokenizer`, whose command line is in lmfast/tokenizer/__main__.py."""

import argparse
import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lmfast.cli.progress import PeakMemory, SteadyRate, progress
from lmfast.counted import counted
from lmfast.data.finding import find_sources
from lmfast.data.token_file import TokenWriter, open_tokens
from lmfast.data.training_texts import training_texts
from lmfast.errors import UserError
from lmfast.files import atomic_write, check_not_input, check_writable
from lmfast.sharding.jobs import ExecutionOptions
from lmfast.sharding.workers import default_workers, fastest_engine
from lmfast.streams import standard_input, standard_output
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.file_kinds import HEAD, check_is_text, text_remarks
from lmfast.tokenizer.patterns import get_pattern
from lmfast.tokenizer.special_tokens import DOCUMENT_END, check_special_tokens
from lmfast.tokenizer.text_file import TextFile, check_is_plain
from lmfast.tokenizer.training import train_bpe
from lmfast.units import data_size, duration

if TYPE_CHECKING:
    from lmfast.tokenizer.sharding import Engine

logger = logging.getLogger(__name__)
PILE_BYTES = 825e9  # Gao et al. 2020; the comparison is from CS336
PIECE = 1 << 20  # ids, or bytes of input, per read


def load_tokenizer(arguments: argparse.Namespace, path: str | None = None) -> Tokenizer:
    """The tokenizer given by --tokenizer, or by --vocab and --merges."""
    path = path or arguments.tokenizer
    if (path is None) == (arguments.vocab is None and arguments.merges is None):
        raise UserError("no tokenizer, or two; give either --tokenizer PATH or --vocab FILE --merges FILE")
    special_tokens = None if arguments.special_tokens is None else dict(arguments.special_tokens)
    if path is not None:
        return Tokenizer.load(path, arguments.pattern, special_tokens)
    if arguments.vocab is None or arguments.merges is None:
        raise UserError("--vocab and --merges belong together; give both")
    return Tokenizer.from_files(
        arguments.vocab, arguments.merges, special_tokens, arguments.pattern or "gpt2"
    )


def rate_line(num_bytes: int, seconds: float, steady: float | None = None) -> str:
    """The mean rate. steady: bytes per second after start-up, if known; adds the time that the Pile would take."""
    line = f"{data_size(num_bytes / max(seconds, 1e-9))}/s"
    if steady is None:
        return line
    hours = duration(PILE_BYTES / max(steady, 1))
    return f"{line} (after start-up {data_size(steady)}/s; the Pile, 825 GB, would take {hours})"


def check_scheduler(arguments: argparse.Namespace) -> None:
    """Raises UserError if --scheduler is given without --engine dask."""
    if arguments.scheduler is not None and arguments.engine != "dask":
        raise UserError("--scheduler requires --engine dask; add it, or remove --scheduler")


def selected_engine(arguments: argparse.Namespace, num_bytes: int) -> "Engine | None":
    """The engine for an input of that many bytes; None for threads of this process."""
    check_scheduler(arguments)
    options = execution_options(arguments)
    if arguments.engine == "auto":
        num_workers = arguments.num_workers or default_workers()
        options = replace(options, engine=fastest_engine(num_bytes, num_workers))
    elif arguments.engine != "threads":
        for flag in ("input", "output"):
            if getattr(arguments, flag) == "-":
                raise UserError(f"--engine {arguments.engine} does not work with -; give a file for --{flag}")
    if options.engine == "threads":
        if arguments.shard_size is not None:
            raise UserError(
                "--shard-size requires --engine processes or dask; add one, or remove --shard-size"
            )
        return None
    from lmfast.tokenizer.sharding import ShardedEngine

    return ShardedEngine(Path(arguments.output), options)


def execution_options(arguments: argparse.Namespace) -> ExecutionOptions:
    return ExecutionOptions(
        arguments.engine, arguments.scheduler, arguments.num_workers, arguments.shard_size
    )


def train(arguments: argparse.Namespace) -> None:
    output = Path(arguments.output)
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is a file; choose another --output for the tokenizer folder")
    check_writable(output / "vocab.json" if output.is_dir() else _first_existing(output) / "vocab.json")
    pattern = get_pattern(arguments.pattern)
    check_special_tokens(arguments.special_tokens)
    texts = training_texts(arguments.input, arguments.text_field, arguments.special_tokens, pattern)
    plain = [path.stat().st_size for path in texts if isinstance(path, Path)]
    # Documents cannot be sent to workers, and --max-memory bounds the totals only of threads.
    engine = selected_engine(arguments, 0 if len(plain) < len(texts) or arguments.max_memory else sum(plain))
    if engine is not None:
        for path in find_sources(arguments.input):
            check_is_plain(path)
    if DOCUMENT_END not in arguments.special_tokens:
        for path in texts:
            if isinstance(path, Path) and DOCUMENT_END.encode() in next(_pieces(str(path))):
                logger.warning(
                    "%s: contains %s, which is not in --special-tokens and is treated as text",
                    path,
                    DOCUMENT_END,
                )
    names = {"count": "counting", "merge": "merging"}
    with PeakMemory() as memory, progress(counting="bytes", merging="merges") as update:
        tokenizer = train_bpe(
            texts,
            arguments.vocab_size,
            arguments.special_tokens,
            pattern.regex,
            arguments.num_workers,
            arguments.max_memory,
            lambda phase, done, total: update(names[phase], done, total),
            engine,
        )
    began = time.perf_counter()
    tokenizer.save(output)
    saving = time.perf_counter() - began
    facts = tokenizer.training
    assert facts is not None  # of a tokenizer just trained
    rate = rate_line(facts.total_bytes, facts.counting_seconds)
    print(
        f"{output}: {tokenizer.vocab_size:,} tokens ({counted(len(tokenizer.merges), 'merge')}, "
        f"{len(tokenizer.special_tokens)} special) from {data_size(facts.total_bytes)}"
    )
    print(
        f"counting {facts.counting_seconds:.2f} s ({rate}), merging {facts.merging_seconds:.2f} s, "
        f"saving {saving:.2f} s; {memory}; {counted(facts.distinct_pretokens, 'distinct pretoken')}; "
        f"longest token {quote_token(facts.longest_token)} ({counted(len(facts.longest_token), 'byte')})"
    )


def _first_existing(path: Path) -> Path:
    """The deepest existing folder that contains `path`."""
    return next(parent for parent in path.absolute().parents if parent.exists())


def quote_token(token: bytes, longest: int = 60) -> str:
    """A token in quotes, with invalid UTF-8 escaped, shortened in the middle."""
    text = repr(token.decode("utf-8", "backslashreplace"))
    return text if len(text) <= longest else f"{text[: longest // 2]}…{text[-longest // 2 :]}"


def encode(arguments: argparse.Namespace) -> None:
    tokenizer = load_tokenizer(arguments)
    if arguments.output != "-" and Path(arguments.output).suffix != ".npy":
        raise UserError(
            f"{arguments.output}: not a .npy file name; use one, or - to print the ids on standard output"
        )
    is_stream = "-" in (arguments.input, arguments.output)
    if arguments.input != "-":
        check_is_plain(Path(arguments.input))
    engine = selected_engine(arguments, 0 if is_stream else len(TextFile(arguments.input)))
    if Path(arguments.input).is_file():
        for _ in _check_pieces(arguments.input, tokenizer):
            if DOCUMENT_END in tokenizer.special_tokens:
                break  # check only the first piece
        for remark in text_remarks(Path(arguments.input), next(_pieces(arguments.input), b"")[:HEAD]):
            logger.warning(remark)
    steady = SteadyRate()
    with PeakMemory() as memory:
        if is_stream:
            tokens, size, seconds = _encode_stream(tokenizer, arguments.input, arguments.output, steady)
        else:
            with progress(encoding="bytes") as update:

                def encoded(done: int, total: int) -> None:
                    update("encoding", done, total)
                    steady.update(done)

                summary = tokenizer.encode_file(
                    arguments.input,
                    arguments.output,
                    arguments.num_workers,
                    encoded,
                    engine=engine,
                )
            tokens, size, seconds = summary.tokens, summary.bytes, summary.seconds
    target = "standard output" if arguments.output == "-" else arguments.output
    print(
        f"{target}: {tokens:,} tokens ({tokenizer.dtype}) from {data_size(size)}: "
        f"{size / max(tokens, 1):.3f} bytes/token in {seconds:.2f} s, {rate_line(size, seconds, steady.rate)}; {memory}",
        file=sys.stderr if arguments.output == "-" else sys.stdout,
    )


def _encode_stream(
    tokenizer: Tokenizer, source: str, target: str, steady: SteadyRate
) -> tuple[int, int, float]:
    """Encodes a stream in constant memory; returns (tokens, bytes, seconds). Standard output gets the ids as text."""
    size = 0
    began = time.perf_counter()

    def counted() -> Iterator[bytes]:
        nonlocal size
        for piece in _check_pieces(source, tokenizer):
            size += len(piece)
            steady.update(size)
            yield piece

    pieces = tokenizer.encode_arrays(counted())
    tokens = 0
    if target == "-":
        output = standard_output()
        for ids in pieces:
            tokens += len(ids)
            output.write(" ".join(map(str, ids.tolist())) + "\n")
        output.flush()
    else:
        with TokenWriter(target, tokenizer.dtype) as writer:
            for ids in pieces:
                writer.write(ids)
            tokens = writer.num_tokens
            if not tokens:
                raise UserError("standard input is empty; there is nothing to encode")
    return tokens, size, time.perf_counter() - began


def _check_pieces(source: str, tokenizer: Tokenizer) -> Iterator[bytes]:
    """The pieces of a text or of standard input.

    Raises UserError if the first bytes are not text, and for a `DOCUMENT_END` that the tokenizer does not have: encoded as
    text, it would not end documents."""
    name = "standard input" if source == "-" else source
    mark = DOCUMENT_END.encode()
    at, before = 0, b""
    for piece in _pieces(source):
        if not at:
            check_is_text(name, piece[:HEAD])
        if DOCUMENT_END not in tokenizer.special_tokens:
            window = before + piece
            found = window.find(mark)
            if found >= 0:
                known = ", ".join(tokenizer.special_tokens) or "none"
                raise UserError(
                    f"{name}: {DOCUMENT_END} at byte {at - len(before) + found} is not a special token of the tokenizer "
                    f"(it has {known}) and would be split; replace it by one of those, or add "
                    f"--special-tokens '{DOCUMENT_END}'"
                )
            before = window[1 - len(mark) :]
        at += len(piece)
        yield piece


def _pieces(source: str) -> Iterator[bytes]:
    if source == "-":
        with standard_input() as stdin:
            yield from iter(lambda: stdin.buffer.read(PIECE), b"")
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
        output = standard_output().buffer
        for ids in pieces:
            output.write(tokenizer.decode_bytes(ids))
        output.flush()
        return
    check_not_input(arguments.output, arguments.input)
    num_tokens = num_bytes = 0
    with atomic_write(arguments.output) as temporary, temporary.open("wb") as file:
        for ids in pieces:
            num_tokens += len(ids)
            num_bytes += file.write(tokenizer.decode_bytes(ids))
    print(f"{arguments.output}: {data_size(num_bytes)} from {num_tokens:,} tokens")


def _ids_of_stdin() -> Iterator[np.ndarray]:
    with standard_input() as stdin:
        for number, line in enumerate(stdin.buffer, 1):
            try:
                yield np.array(line.split(), np.int64)
            except (ValueError, OverflowError):
                raise UserError(
                    f"standard input, line {number}: not a list of ids; separate whole numbers by spaces"
                ) from None
