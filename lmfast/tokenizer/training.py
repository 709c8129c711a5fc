"""`train_bpe`: learns a byte-level BPE from text."""

import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lmfast.counted import counted
from lmfast.errors import UserError
from lmfast.tokenizer import plain_training
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.byte_characters import unspell
from lmfast.tokenizer.compile_cost import Allowance
from lmfast.tokenizer.patterns import Pattern, get_pattern
from lmfast.tokenizer.special_tokens import check_special_tokens
from lmfast.tokenizer.text_file import Documents, TextFile

if TYPE_CHECKING:
    from lmfast.tokenizer.sharding import Engine

logger = logging.getLogger(__name__)

FIRST_BYTES, LATER_BYTES = 1 << 20, 1 << 18
"""bytes of text up to which plain Python trains in less time: before the compiled code exists, and when it does"""


@dataclass(frozen=True)
class TrainingSummary:
    """Sizes of a training, and its seconds by phase."""

    total_bytes: int
    distinct_pretokens: int
    longest_token: bytes
    counting_seconds: float
    merging_seconds: float


def train_bpe(
    paths: "str | Path | Sequence[str | Path | Documents]",
    vocab_size: int,
    special_tokens: Sequence[str] = ("<|endoftext|>",),
    pattern: str = "gpt2",
    num_workers: int | None = None,
    max_memory: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    engine: "Engine | None" = None,
) -> Tokenizer:
    """Learns a byte-level BPE from one or more plain text files; `tokenizer.training` has its summary.

    paths: `Documents` among them are texts from other files (lmfast/data/training_texts.py reads JSON lines, Parquet,
    .gz). vocab_size: bytes, merges and special tokens together; smaller, with a warning, if the text has no more pairs.
    special_tokens: boundaries that no merge crosses. max_memory: bytes for the table of distinct pretokens, which
    spills to disk above that. progress: called with ("count", bytes done, total bytes), then ("merge", merges done,
    merges wanted). engine: processes or a cluster to count on (sharding.py), not this process's threads. The result does not
    depend on the engine or the number of workers. Raises UserError for empty input and invalid settings.
    """
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    check_special_tokens(special_tokens)
    special_tokens = list(special_tokens)
    _check_training(paths, vocab_size, special_tokens)
    split = get_pattern(pattern)

    wanted = vocab_size - 256 - len(special_tokens)

    def report(phase: str, done: int, total: int) -> None:
        if progress is not None:
            progress(phase, done, total)

    on_bytes: Callable[[int, int], None] = functools.partial(report, "count")
    on_merge: Callable[[int], None] = lambda done: report("merge", done, wanted)  # noqa: E731
    started = time.perf_counter()
    request = _Request(paths, special_tokens, split, wanted, on_bytes, on_merge)
    small = _learn_small(request) if engine is None and max_memory is None else None
    learnt = small or _learn(request, num_workers, max_memory, engine)
    merges, total_bytes, distinct, counted_at = learnt
    if total_bytes == 0:
        raise UserError(f"{', '.join(map(str, paths))}: contains no text; name a file that is not empty")
    if len(merges) < wanted:
        logger.warning(
            "the text has no more pairs after %d merges: the vocabulary is %d instead of %d",
            len(merges),
            vocab_size - wanted + len(merges),
            vocab_size,
        )
    vocab = {byte: bytes([byte]) for byte in range(256)}
    vocab |= {256 + i: a + b for i, (a, b) in enumerate(merges)}
    special = {text: len(vocab) + i for i, text in enumerate(special_tokens)}
    tokenizer = Tokenizer(vocab, merges, special, split)
    tokenizer.training = TrainingSummary(
        total_bytes=total_bytes,
        distinct_pretokens=distinct,
        longest_token=max(vocab.values(), key=len),
        counting_seconds=counted_at - started,
        merging_seconds=time.perf_counter() - counted_at,
    )
    return tokenizer


class _Request(NamedTuple):
    """What to learn from; wanted: number of merges; on_bytes, on_merge: report progress."""

    paths: Sequence[str | Path | Documents]
    special_tokens: Sequence[str]
    pattern: Pattern
    wanted: int
    on_bytes: Callable[[int, int], None]
    on_merge: Callable[[int], None]


class _Learnt(NamedTuple):
    """merges; total_bytes: of the input; distinct: pretokens; counted_at: when counting ended."""

    merges: list[tuple[bytes, bytes]]
    total_bytes: int
    distinct: int
    counted_at: float


def _learn_small(request: _Request) -> _Learnt | None:
    """Trains in plain Python; None if compiled code takes less time, even if it must be loaded or compiled first."""
    paths, special_tokens, pattern, wanted, on_bytes, on_merge = request
    texts = [TextFile(path) for path in paths if isinstance(path, str | Path)]
    total_bytes = sum(map(len, texts))
    allowance = Allowance("learn_kernels.merge_pairs", FIRST_BYTES, LATER_BYTES)
    if len(texts) < len(paths) or not allowance.covers(total_bytes):
        return None
    counts = plain_training.count_pretokens(texts, special_tokens, pattern, on_bytes)
    counted_at = time.perf_counter()
    if not plain_training.is_little_work(counts):
        return None
    return _Learnt(
        plain_training.learn_merges(counts, wanted, on_merge), total_bytes, len(counts), counted_at
    )


def _learn(
    request: _Request, num_workers: int | None, max_memory: int | None, engine: "Engine | None"
) -> _Learnt:
    """Trains in compiled code."""
    from lmfast.tokenizer.counting import count_pretokens
    from lmfast.tokenizer.merging import learn_merges

    paths, special_tokens, pattern, wanted, on_bytes, on_merge = request
    options = special_tokens, pattern, num_workers, max_memory, on_bytes
    if engine is None:
        counts = count_pretokens(paths, *options)
    else:
        files = [path for path in paths if isinstance(path, str | Path)]
        if len(files) < len(paths):
            raise UserError("engine: counts only plain text files; omit it to count other texts")
        counts = engine.count_pretokens(files, *options)
    counted_at = time.perf_counter()
    return _Learnt(learn_merges(counts, wanted, on_merge), counts.total_bytes, len(counts), counted_at)


def _check_training(paths: Sequence[object], vocab_size: int, special_tokens: list[str]) -> None:
    if not paths:
        raise UserError("no input file; name one with --input")
    for text in special_tokens:
        if special_tokens.count(text) > 1:
            raise UserError(f"special token {text!r} is given twice; give it once")
        if len(text.encode()) == 1:
            raise UserError(
                f"special token {text!r} is a single byte, which has an id already; choose a longer one"
            )
        spelt = unspell(text)
        # Others, such as <|café|>, could only be confused with a token that is invalid UTF-8.
        if (
            spelt is not None
            and spelt != text.encode()
            and (len(spelt) == 1 or spelt.decode(errors="ignore").encode() == spelt)
        ):
            raise UserError(
                f"special token {text!r} is how tokenizer files spell the bytes {spelt!r}; choose another"
            )
    least = 256 + len(special_tokens)
    if vocab_size < least:
        raise UserError(
            f"vocabulary size {vocab_size} is too small: 256 bytes and "
            f"{counted(len(special_tokens), 'special token')} need at least {least}"
        )
