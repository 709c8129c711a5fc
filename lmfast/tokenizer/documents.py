"""The documents of a text: their spans, and a random sample.

In: a text file, memory-mapped. Out: spans of bytes. Documents end at `<|endoftext|>` if the text contains it,
else at blank lines. Rejects missing and empty files.
"""

import errno
import mmap
from array import array

import numpy as np

from lmfast.errors import UserError
from lmfast.tokenizer.special_tokens import DOCUMENT_END
from lmfast.tokenizer.text_file import TextFile


def open_text(name: str) -> np.ndarray:
    """A text file as uint8, memory-mapped, for random access; UserError if it is missing, empty or not plain text."""
    if len(TextFile(name)) == 0:
        raise UserError(f"{name}: is empty; name a text with content")
    try:
        with open(name, "rb") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.ENOMEM:
            raise UserError(
                f"{name}: cannot be mapped, because no address space is left; raise its limit (ulimit -v)"
            ) from None
        raise UserError(f"{name}: cannot be read as text ({error}); name a regular file") from None


def document_spans(text: np.ndarray) -> np.ndarray:
    """(start, end) of each document, int64 (n, 2): between <|endoftext|> if the text contains it, else blank lines."""
    for mark in (DOCUMENT_END.encode(), b"\n\n", b"\r\n\r\n"):
        found = _occurrences(text, mark)
        if len(found):
            break
    starts = np.concatenate([[0], found + len(mark)])
    ends = np.concatenate([found, [len(text)]])
    return np.stack([starts, ends], 1)


def _occurrences(text: np.ndarray, mark: bytes) -> np.ndarray:
    """Positions of `mark`, without overlaps; the text is read in pieces."""
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
    """`n` documents drawn without replacement, in the order of the text; blank ones are never drawn."""
    spans = document_spans(text)
    chosen: list[int] = []
    for i in np.random.default_rng(seed).permutation(len(spans)):
        if len(chosen) < n and text[slice(*spans[i])].tobytes().strip():
            chosen.append(int(i))
    return [text[slice(*spans[i])].tobytes() for i in sorted(chosen)]
