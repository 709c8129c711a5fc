"""Packs rendered conversations into rows of equal length for the training loop, and selects held-out prompts.

A row is a structured array (length,) of `TOKEN`: id, whether predicting it carries loss, and the index of its document
within the row. Attention stays within a document and positions restart with each (`positions`), so packing does not
change what is learned. The rest of a row is padding: a document without loss. A preference is two rows, chosen then
rejected, with the log-probabilities of the reference model.

Packing is best-fit decreasing (Johnson 1973; for language models Ding et al. 2024, arXiv:2404.10830): longest document
first, each into the fullest row that still has space.
"""

import bisect
import hashlib
from collections.abc import Sequence

import numpy as np

from lmfast.data.batch_ramp import BatchRamp
from lmfast.data.batches import derive_seed, first_few, permute
from lmfast.data.chat import Rendered
from lmfast.data.chat_records import Message
from lmfast.errors import UserError

TOKEN = np.dtype([("id", np.int32), ("loss", np.bool_), ("document", np.int32), ("reference", np.float32)])
"""reference: log-probability of this token under the reference model, in nats; 0 if unused"""


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Groups the indices of documents so that the lengths of each group sum to at most `capacity`.

    >>> best_fit([3, 6, 2, 5], 8)
    [[1, 2], [3, 0]]
    """
    rows, space = [], []  # space: sorted (free, row), one entry per row
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if lengths[index] > capacity:
            raise ValueError(f"document {index} has {lengths[index]} tokens, but a row only {capacity}")
        at = bisect.bisect_left(space, (lengths[index], -1))
        if at < len(space):
            left, row = space.pop(at)
        else:
            left, row = capacity, len(rows)
            rows.append([])
        rows[row].append(index)
        bisect.insort(space, (left - lengths[index], row))
    return rows


def pack_row(documents: Sequence[Rendered], length: int, pad: int) -> np.ndarray:
    """One row (length,) of TOKEN with the concatenated documents, padded with `pad` without loss."""
    row = np.zeros(length, TOKEN)
    row["id"], row["document"] = pad, len(documents)
    at = 0
    for number, document in enumerate(documents):
        part = row[at : at + len(document.ids)]
        part["id"], part["loss"], part["document"] = document.ids, document.loss, number
        part["loss"][0] = False  # its predecessor belongs to another document
        at += len(part)
    return row


def pack(documents: Sequence[Rendered], length: int, pad: int, packing: bool = True) -> np.ndarray:
    """Rows (n, length) of TOKEN; without packing, one document per row."""
    sizes = [len(document.ids) for document in documents]
    groups = best_fit(sizes, length) if packing else [[i] for i in range(len(sizes))]
    return np.stack([pack_row([documents[i] for i in group], length, pad) for group in groups])


def positions(document: np.ndarray) -> np.ndarray:
    """Positions (rows, length) int64, restarting at 0 with each document; document: document indices (rows, length)."""
    at = np.broadcast_to(np.arange(document.shape[1]), document.shape)
    starts = np.zeros(document.shape, np.int64)
    starts[:, 1:] = np.where(document[:, 1:] != document[:, :-1], at[:, 1:], 0)
    return at - np.maximum.accumulate(starts, axis=1)


def mean_span(document: np.ndarray) -> float:
    """Mean, over tokens, of the length of the token's document; document: as for `positions`."""
    last = np.ones(document.shape, bool)
    last[:, :-1] = document[:, 1:] != document[:, :-1]
    lengths = positions(document)[last] + 1.0
    return float((lengths**2).sum() / lengths.sum())


class RowBatches:
    """Rows as a pure function of (seed, step): each row once per epoch, in the order of a keyed permutation per epoch.

    rows: (n, length) of TOKEN, or (n, 2, length) for pairs; a step is (k, length), the two rows of a pair adjacent.
    """

    def __init__(self, rows: np.ndarray, rows_a_step: int | BatchRamp, seed: int):
        self.rows, self.seed = rows, seed
        self.ramp = rows_a_step if isinstance(rows_a_step, BatchRamp) else BatchRamp(rows_a_step)

    def step(self, step: int) -> np.ndarray:
        return self.rows[self.order(step)].reshape(-1, self.rows.shape[-1])

    def describe(self, step: int) -> str:
        """The rows (or pairs) of step `step`, as text."""
        return f"rows {first_few(self.order(step))}"

    def order(self, step: int) -> np.ndarray:
        """Indices of the rows (or pairs) of step `step`, int64."""
        index = np.arange(self.ramp.rows_before(step), self.ramp.rows_before(step + 1), dtype=np.int64)
        epochs, order = index // len(self.rows), np.empty(len(index), np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            key = derive_seed(self.seed, int(epoch))
            order[here] = permute((index[here] % len(self.rows)).astype(np.uint64), len(self.rows), key)
        return order


def sequential_batches(rows: np.ndarray, rows_a_batch: int, limit: int = 0) -> list[np.ndarray]:
    """Evaluation batches: all rows (or pairs) once, or the first `limit` batches; the last may be smaller."""
    begins = range(0, len(rows), rows_a_batch)[: limit or None]
    return [rows[i : i + rows_a_batch].reshape(-1, rows.shape[-1]) for i in begins]


def prompt_hash(prompt: Sequence[Message]) -> str:
    """SHA-256 of a prompt, equal in instruction and preference files."""
    text = "\0".join(f"{message.role}\1{message.content}" for message in prompt)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def hold_out(hashes: Sequence[str], count: int | None = None) -> set[str]:
    """The `count` lowest distinct hashes, so that files with the same prompts hold out the same ones.

    count: defaults to 100, or a tenth if that is less, but at least one of two. Raises UserError if nothing is left to
    train on.
    """
    distinct = sorted(set(hashes))
    if count is None:
        count = min(100, max(len(distinct) // 10, int(len(distinct) > 1)))
    if count < 0:
        raise UserError(f"held_out is {count}; it must be at least 0")
    if count >= len(distinct):
        raise UserError(
            f"held_out is {count}, but there are only {len(distinct)} distinct prompts; reduce it"
        )
    return set(distinct[:count])
