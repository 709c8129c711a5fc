"""The training texts of `tokenizer train`, in all formats that `data prepare` reads.

Input: names of files, folders or globs. Output, for `train_bpe`: paths of plain text files, and `Documents` for all other
files. Every record or row is a separate text, and compressed text gives the same pretokens as plain text, so the same
texts give the same vocabulary in every format.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from lmfast.data.finding import find_sources
from lmfast.data.sources import PIECE, documents, plan_shards, shard_bytes_on_disk, unpacked
from lmfast.tokenizer.file_kinds import file_kind, is_plain_text
from lmfast.tokenizer.patterns import Pattern
from lmfast.tokenizer.plain_text import Boundaries
from lmfast.tokenizer.streaming import safe_pieces
from lmfast.tokenizer.text_file import Documents


def training_texts(
    names: Sequence[str | Path], field: str, special_tokens: Sequence[str], pattern: Pattern
) -> list[Path | Documents]:
    """The texts of the named files. field: field of records or column of Parquet.

    Raises UserError like finding.py; the errors of sources.py are raised while the texts are read."""
    specials = [text.encode("utf-8", "surrogateescape") for text in special_tokens]

    def of_file(path: Path) -> Path | Documents:
        if is_plain_text(path):
            return path
        if file_kind(path).form == "text":
            return Documents(partial(_packed_text, path, specials, pattern), path.stat().st_size)
        return Documents(partial(_record_texts, path, field), path.stat().st_size)

    return [of_file(path) for path in find_sources(names)]


def _record_texts(path: Path, field: str) -> Iterator[tuple[bytes, int]]:
    done = 0
    for shard in plan_shards([path], PIECE):
        for document in documents(shard, field):
            yield document, done
        done = min(done + shard_bytes_on_disk(shard), path.stat().st_size)


def _packed_text(path: Path, specials: Sequence[bytes], pattern: Pattern) -> Iterator[tuple[bytes, int]]:
    with unpacked(path) as file:
        for piece in safe_pieces(iter(lambda: file.read(PIECE), b""), Boundaries(specials), pattern):
            yield piece, file.packed_bytes
