"""The loss of every token of a text, and where it comes from: by position in the context, by frequency, by id.

In: a scorer and ids. Out: nats per token. The text is read in consecutive windows of the context, as `lmfast evaluate`
reads a token file; the first one begins with <|endoftext|>, the others with the last token of the window before.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lmfast.inference.scoring import Scorer, Text


class TokenLosses(NamedTuple):
    """ids (n,) int64; losses (n,) float64, nats; positions (n,) int64: how many tokens of its window a token follows."""

    ids: np.ndarray
    losses: np.ndarray
    positions: np.ndarray


class Bucket(NamedTuple):
    """Tokens of a kind: how many, their mean loss in nats, and their share of the text's loss."""

    name: str
    count: int
    mean: float
    share: float


def token_losses(scorer: Scorer, ids: Sequence[int], begin: int | None, context_length: int) -> TokenLosses:
    """begin: id before the first; None: the first id is only read."""
    read = [begin, *ids] if begin is not None else list(ids)
    texts = [
        Text(read[start : start + context_length + 1], 1) for start in range(0, len(read) - 1, context_length)
    ]
    scores = scorer.score(texts)
    lengths = [len(text.ids) - 1 for text in texts]
    return TokenLosses(
        np.array(read[1:], np.int64),
        -np.concatenate([found.logprobs for found in scores]),
        np.concatenate([np.arange(1, length + 1) for length in lengths]),
    )


def by_position(found: TokenLosses) -> list[Bucket]:
    """Positions in ranges that double: 1, 2–3, 4–7, …"""
    return _buckets(found, found.positions)


def by_frequency(found: TokenLosses) -> list[Bucket]:
    """How often the id occurs in the text, in ranges that double."""
    counts = np.bincount(found.ids)
    return _buckets(found, counts[found.ids])


def by_id(found: TokenLosses, most: int) -> list[tuple[int, Bucket]]:
    """The ids with the most loss in all, as (id, its tokens)."""
    totals = np.bincount(found.ids, found.losses)
    counts = np.bincount(found.ids)
    order = np.argsort(-totals, kind="stable")[:most]
    everything = found.losses.sum()
    return [
        (int(i), Bucket("", int(counts[i]), float(totals[i] / counts[i]), float(totals[i] / everything)))
        for i in order
        if counts[i]
    ]


def hardest(found: TokenLosses, most: int) -> list[int]:
    """Indices of the tokens with the largest loss, largest first."""
    return np.argsort(-found.losses, kind="stable")[:most].tolist()


def _buckets(found: TokenLosses, values: np.ndarray) -> list[Bucket]:
    """values: at least 1."""
    kinds = np.frexp(values.astype(np.float64))[1] - 1  # floor(log2), exactly
    everything = found.losses.sum()
    buckets = []
    for kind in np.unique(kinds).tolist():
        losses = found.losses[kinds == kind]
        low, high = 1 << kind, (2 << kind) - 1
        name = f"{low:,}" if low == high else f"{low:,}–{high:,}"
        buckets.append(Bucket(name, len(losses), float(losses.mean()), float(losses.sum() / everything)))
    return buckets
