"""Prepares the built-in corpus for training: stories, tokenizer, token files.

    data/stories/{train.txt, valid.txt, 4096/{tokenizer/, train.npy, valid.npy}}      # one folder per vocab_size

Reuses a stage if its output exists and its `.NAME.request.json` records the same request and input; a changed request or
grammar makes it run again.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lmfast.data.stories import corpus
from lmfast.files import atomic_folder, atomic_write, clear_folder, folder_lock, read_json
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.special_tokens import DOCUMENT_END
from lmfast.tokenizer.training import train_bpe
from lmfast.units import data_size

FOLDER = Path("data/stories")
VOCAB_SIZE = 4096
"""of the tokenizer, unless a run asks for another"""
TRAIN_SEED, VALID_SEED = 1, 2


@dataclass(frozen=True)
class Prepared:
    """Paths of a corpus ready for training, and the entropy of its validation text in bits per byte."""

    train: Path
    valid: Path
    tokenizer: Path
    floor_bits_per_byte: float


def prepare(
    folder: Path = FOLDER,
    train_bytes: int = 20_000_000,
    valid_bytes: int = 200_000,
    vocab_size: int = VOCAB_SIZE,
    report: Callable[[str], None] = print,
    fresh: bool = False,
) -> Prepared:
    """Runs the missing stages; reports one line per stage. A second process that calls this at the same time waits."""
    with folder_lock(folder, waiting=lambda: report(f"{folder}: another process is preparing it; waiting")):
        if fresh:
            clear_folder(folder)
        return _prepare(folder, train_bytes, valid_bytes, vocab_size, report)


def _prepare(
    folder: Path, train_bytes: int, valid_bytes: int, vocab_size: int, report: Callable[[str], None]
) -> Prepared:
    for name, size, seed in (("train", train_bytes, TRAIN_SEED), ("valid", valid_bytes, VALID_SEED)):
        _stories(folder / f"{name}.txt", size, seed, report)
    encoded = folder / str(vocab_size)
    encoded.mkdir(exist_ok=True)
    _tokenizer(folder, encoded, vocab_size, report)
    for name in ("train", "valid"):
        _tokens(folder, encoded, name, report)
    floor = read_json(folder / "valid.txt.json")["bits_per_byte"]
    return Prepared(encoded / "train.npy", encoded / "valid.npy", encoded / "tokenizer", floor)


def _stories(path: Path, size: int, seed: int, report: Callable[[str], None]) -> None:
    request = {"requested": size, "seed": seed, "grammar": corpus.grammar_version()}
    stamp = path.with_name(f".{path.name}.request.json")
    if path.exists() and read_json(stamp) == request:
        report(f"{path}: reused ({data_size(path.stat().st_size)} of stories)")
        return
    stamp.unlink(missing_ok=True)
    summary = corpus.write_stories(path, size, seed)
    _write_json(stamp, request)
    report(f"{path}: {summary.stories:,} stories, {data_size(summary.bytes)}")


def _tokenizer(folder: Path, encoded: Path, vocab_size: int, report: Callable[[str], None]) -> None:
    source, target = folder / "train.txt", encoded / "tokenizer"
    request = {"vocab_size": vocab_size, "source": read_json(folder / ".train.txt.request.json")}
    stamp = encoded / ".tokenizer.request.json"
    if target.is_dir() and read_json(stamp) == request:
        report(f"{target}: reused ({vocab_size:,} tokens)")
        return
    stamp.unlink(missing_ok=True)
    tokenizer = train_bpe(source, vocab_size, special_tokens=[DOCUMENT_END])
    with atomic_folder(target) as temporary:
        tokenizer.save(temporary)
    _write_json(stamp, request)
    report(f"{target}: {tokenizer.vocab_size:,} tokens trained on {source}")


def _tokens(folder: Path, encoded: Path, name: str, report: Callable[[str], None]) -> None:
    source, target = folder / f"{name}.txt", encoded / f"{name}.npy"
    request = {
        "tokenizer": read_json(encoded / ".tokenizer.request.json"),
        "source": read_json(folder / f".{name}.txt.request.json"),
    }
    stamp = encoded / f".{name}.npy.request.json"
    if target.exists() and read_json(stamp) == request:
        report(f"{target}: reused")
        return
    stamp.unlink(missing_ok=True)
    summary = Tokenizer.load(encoded / "tokenizer").encode_file(source, target)
    _write_json(stamp, request)
    report(f"{target}: {summary.tokens:,} tokens")


def _write_json(path: Path, value) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value), encoding="utf-8")
