"""The subcommands count and compression of `lmfast tokenizer`.

`count` sums the tokens of token files by split (train, valid, test). `compression` encodes a sample of documents of each
text with each tokenizer and prints bytes per token and the rate of one thread.
"""

import argparse
import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lmfast.cli.tokenizer.commands import load_tokenizer, rate_line
from lmfast.counted import counted
from lmfast.data.finding import files_under, find_sources
from lmfast.data.sources import documents, plan_shards
from lmfast.data.token_file import open_tokens
from lmfast.errors import UserError
from lmfast.streams import standard_output
from lmfast.tokenizer.documents import open_text, sample_documents
from lmfast.tokenizer.file_kinds import is_plain_text

TIMED_BYTES = 32 << 20  # bytes of a text that are timed


def token_files(names: Sequence[str | Path]) -> list[Path]:
    """Expands files and folders to token files (in folders: .npy and .bin, at any depth)."""
    files: list[Path] = []
    for name in map(Path, names):
        if name.is_dir():
            found = [file for file in files_under(name) if file.suffix.lower() in (".npy", ".bin")]
        else:
            found = [name]
        if not found:
            raise UserError(
                f"{name}: contains no token files (.npy, .bin); create one with `lmfast tokenizer encode`"
            )
        files += [file for file in found if file not in files]
    return files


_PARTS = {"train": "train", "training": "train", "test": "test"}
_PARTS |= dict.fromkeys(("valid", "val", "validation", "dev"), "valid")


def split_name(path: Path) -> str:
    """The split of a token file: "valid" for owt_valid.npy, val-00000-of-00003.bin and validation/00012.npy.

    If neither its name nor its folder's contains a split, the name without a trailing number."""
    for name in (path.stem, path.parent.name):
        for word in re.split(r"[^a-z]+", name.lower()):
            if word in _PARTS:
                return _PARTS[word]
    return re.sub(r"[._-]?\d+(-of-\d+)?$", "", path.stem) or path.stem


def count(arguments: argparse.Namespace) -> None:
    standard_output()
    parts: dict[str, list[tuple[int, int | None]]] = {}
    for file in token_files(arguments.input):
        opened = open_tokens(file)
        size = (opened.summary or {}).get("bytes")
        parts.setdefault(split_name(file), []).append((len(opened), size))
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
    return f"{counted(tokens, 'token')} in {counted(len(files), 'file')}{more}"


def compression(arguments: argparse.Namespace) -> None:
    standard_output()
    if arguments.vocab is not None:
        tokenizers = [(arguments.vocab, load_tokenizer(arguments))]
    else:
        tokenizers = [(path, load_tokenizer(arguments, path)) for path in arguments.tokenizer or [None]]
    figures: list[list[float]] = []
    for name in arguments.input:
        sample, timed = sample_text(name, arguments.n, arguments.seed, arguments.text_field)
        size = sum(map(len, sample))
        print(f"{name}: {counted(len(sample), 'document')}, {counted(size, 'byte')}")
        figures.append([])
        for path, tokenizer in tokenizers:
            tokens = sum(len(tokenizer.encode_array(document)) for document in sample)
            figures[-1].append(size / max(tokens, 1))
            began = time.perf_counter()
            tokenizer.encode_array(timed)
            seconds = time.perf_counter() - began
            print(
                f"  {path}: {figures[-1][-1]:.3f} bytes/token ({tokens:,} tokens, vocabulary "
                f"{tokenizer.vocab_size:,}), one thread {rate_line(len(timed), seconds)}"
            )
    if len(figures) > 1 and len(tokenizers) > 1:
        print("\nbytes/token")
        print("\n".join(table([str(path) for path, _ in tokenizers], arguments.input, figures)))


def table(columns: Sequence[str], rows: Sequence[str], figures: Sequence[Sequence[float]]) -> list[str]:
    """Lines of a table with three decimals and columns as wide as their names."""
    first = max(map(len, rows))
    widths = [max(len(name), 8) for name in columns]
    head = " " * first + "".join(f"  {name:>{width}}" for name, width in zip(columns, widths))
    return [head] + [
        f"{name:<{first}}" + "".join(f"  {figure:>{width}.3f}" for figure, width in zip(line, widths))
        for name, line in zip(rows, figures)
    ]


def sample_text(name: str, n: int, seed: int, field: str) -> tuple[list[bytes], bytes]:
    """(`n` random documents of a file in file order, its first bytes for timing). Reads all formats of sources.py."""
    path = Path(name)
    if is_plain_text(path):
        text = open_text(name)
        return sample_documents(text, n, seed), text[:TIMED_BYTES].tobytes()
    random = np.random.default_rng(seed)
    chosen: list[tuple[int, bytes]] = []
    timed, timed_bytes, seen = [], 0, 0
    for shard in plan_shards(find_sources([path])):
        for document in documents(shard, field):
            if not document.strip():
                continue
            # Reservoir sampling (Vitter 1985, algorithm R).
            if seen < n:
                chosen.append((seen, document))
            elif (place := int(random.integers(seen + 1))) < n:
                chosen[place] = (seen, document)
            seen += 1
            if timed_bytes < TIMED_BYTES:
                timed.append(document)
                timed_bytes += len(document)
    if not seen:
        raise UserError(f"{name}: contains only whitespace; give another text")
    return [document for _, document in sorted(chosen)], b"\n".join(timed)[:TIMED_BYTES]
