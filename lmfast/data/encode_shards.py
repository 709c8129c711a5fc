"""Encodes one shard of the sources into training and validation ids: the work of one job of `prepare`.

Input: a job with an `EncodeRequest`. Output: `NAME.train.ids` and `NAME.valid.ids` in the work folder (headerless
little-endian ids of the tokenizer's dtype) and the completion record: documents, tokens and bytes (of text and separators)
of each, and the number of blank documents, which are skipped.

Every document is followed by the id of `<|endoftext|>`. Other special tokens in the text are encoded as plain text, as is
`<|endoftext|>` in records and Parquet, so ids do not depend on shards and data cannot inject chat tokens.

A document is held out if its BLAKE2b hash (8 bytes, keyed by the seed, of the text without surrounding whitespace) is in
the lowest `val_fraction` of the range. Equal texts are on the same side in all files and formats, and a larger fraction
holds out the same documents and more.
"""

import functools
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from lmfast.data.sources import documents
from lmfast.files import atomic_write
from lmfast.sharding.jobs import Job, Shard
from lmfast.tokenizer.sharding import open_shared
from lmfast.tokenizer.special_tokens import DOCUMENT_END

if TYPE_CHECKING:
    from lmfast.tokenizer.bpe import Tokenizer

PARTS = ("train", "valid")
BATCH_BYTES = 8 << 20  # documents are encoded in batches of this size: one call for many short ones
MARK = DOCUMENT_END.encode()


@dataclass(frozen=True)
class EncodeRequest:
    """Shards of one source, and everything that their ids depend on.

    source: the file, folder or glob as given. part: "train" or "valid" if the whole source belongs to it, None to split
    by hash. fingerprint: of the tokenizer that `share_tokenizer` saved in the work folder."""

    source: str
    shards: tuple[Shard, ...]
    part: str | None
    field: str
    separator: str | None
    val_fraction: float
    seed: int
    fingerprint: str


def encode_shard(job: Job[EncodeRequest]) -> dict:
    """Runs the job; returns {"train": counts, "valid": counts, "blank": number of documents skipped}."""
    request = job.request
    tokenizer = open_shared(job.folder, request.fingerprint)
    with (
        atomic_write(job.file("train.ids")) as train,
        atomic_write(job.file("valid.ids")) as valid,
        train.open("wb") as train_file,
        valid.open("wb") as valid_file,
    ):
        parts = {
            "train": _Part(tokenizer, train_file),
            "valid": _Part(tokenizer, valid_file),
        }
        blank = 0
        texts = (documents(shard, request.field, request.separator) for shard in request.shards)
        for document in itertools.chain.from_iterable(texts):
            if not document or document.isspace():
                blank += 1
                continue
            held_out = request.part == "valid" or (
                request.part is None and is_held_out(document, request.val_fraction, request.seed)
            )
            parts["valid" if held_out else "train"].add(document)
        result = {name: part.finish() for name, part in parts.items()} | {"blank": blank}
    return job.complete(result)


def is_held_out(document: bytes, fraction: float, seed: int) -> bool:
    """Whether a document belongs to the validation part, by its hash (see the module's docstring)."""
    key, limit = _rule(fraction, seed)
    return int.from_bytes(hashlib.blake2b(document.strip(), digest_size=8, key=key).digest(), "big") < limit


@functools.lru_cache(maxsize=8)
def _rule(fraction: float, seed: int) -> tuple[bytes, int]:
    """(key of the hash, exclusive upper bound of hashes that are held out)."""
    return (seed % 2**64).to_bytes(8, "little"), int(fraction * 2**64)


class _Part:
    """Encodes the documents of one part in batches and writes their ids."""

    def __init__(self, tokenizer: "Tokenizer", file: BinaryIO):
        self._tokenizer, self._file = tokenizer, file
        self._dtype = tokenizer.dtype.newbyteorder("<")
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._documents = self._tokens = self._bytes = 0

    def add(self, document: bytes) -> None:
        self._waiting.append(document)
        self._waiting_bytes += len(document)
        if self._waiting_bytes >= BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        for ids in encode_documents(self._tokenizer, self._waiting):
            self._file.write(ids.astype(self._dtype))
            self._tokens += len(ids)
        self._documents += len(self._waiting)
        self._bytes += self._waiting_bytes
        self._waiting, self._waiting_bytes = [], 0

    def finish(self) -> dict:
        self._flush()
        size = self._bytes + self._documents * len(MARK)
        return {"documents": self._documents, "tokens": self._tokens, "bytes": size}


def encode_documents(tokenizer: "Tokenizer", texts: list[bytes]) -> Iterator[np.ndarray]:
    """The ids of documents, each followed by the id of <|endoftext|>, in uint32 arrays of any length."""
    if not texts:
        return
    joined = MARK.join(texts) + MARK
    if joined.count(MARK) == len(texts):
        yield tokenizer.encode_array(joined, {DOCUMENT_END})
        return
    end = np.array([tokenizer.special_tokens[DOCUMENT_END]], np.uint32)
    for text in texts:  # one of them contains <|endoftext|> as text
        yield tokenizer.encode_array(text, "none")
        yield end
