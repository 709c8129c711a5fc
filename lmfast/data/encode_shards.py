"""One shard of sources → ids of its documents, training and validation apart: what a worker of `prepare` does.

In: a job with an `EncodeRequest`. Out: in the work folder `NAME.train.ids` and `NAME.valid.ids` (headless little-endian ids
of the tokenizer's dtype) and the completion record with their documents, tokens and bytes (of text and marks), and the
number of blank documents, which are left out.

Every document is followed by the id of `<|endoftext|>`, the only special token here: text that looks like another one is
plain text, and in records and Parquet text that looks like `<|endoftext|>` is plain text too. So ids do not depend on how
sources are cut, and data cannot smuggle in the marks of a chat.

Which documents are held out: those whose BLAKE2b hash (8 bytes, keyed by the seed, of the text without surrounding blanks)
lies in the lowest `val_fraction` of its range. A text is on the same side wherever it stands, twice or in another file or
format, and a larger fraction holds out the same documents and more.
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
BATCH_BYTES = 8 << 20  # of documents encoded together: one call for many short ones
MARK = DOCUMENT_END.encode()


@dataclass(frozen=True)
class EncodeRequest:
    """Shards of one source, and everything that their ids depend on.

    source: the file, folder or glob they come from, as it was named. part: "train" or "valid" where the whole source
    belongs to it, None to split by hash. fingerprint: of the tokenizer that `share_tokenizer` saved in the work folder."""

    source: str
    shards: tuple[Shard, ...]
    part: str | None
    field: str
    separator: str | None
    val_fraction: float
    seed: int
    fingerprint: str


def encode_shard(job: Job[EncodeRequest]) -> dict:
    """Does the job; returns {"train": facts, "valid": facts, "blank": documents left out}."""
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
    """Whether a document belongs to the validation part; by its hash (see the head of this file)."""
    key, limit = _rule(fraction, seed)
    return int.from_bytes(hashlib.blake2b(document.strip(), digest_size=8, key=key).digest(), "big") < limit


@functools.lru_cache(maxsize=8)
def _rule(fraction: float, seed: int) -> tuple[bytes, int]:
    """(key of the hash, what it must be below)."""
    return (seed % 2**64).to_bytes(8, "little"), int(fraction * 2**64)


class _Part:
    """Documents of one part on their way to its file."""

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
    """The ids of documents, each followed by the end mark's, in arrays (uint32) of any length."""
    if not texts:
        return
    joined = MARK.join(texts) + MARK
    if joined.count(MARK) == len(texts):
        yield tokenizer.encode_array(joined, {DOCUMENT_END})
        return
    end = np.array([tokenizer.special_tokens[DOCUMENT_END]], np.uint32)
    for text in texts:  # one of them holds the mark as text
        yield tokenizer.encode_array(text, "none")
        yield end
