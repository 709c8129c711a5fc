"""Renders preferences as pairs of rows, (n, 2, length) of packing.TOKEN: the chosen answer, then the rejected one.

Answers are truncated at the end of the context. Pairs with an answer without loss, or with identical answers, after that
are skipped and counted. `length` is that of the longest row.
"""

from collections.abc import Callable, Sequence

import numpy as np

from lmfast.counted import counted
from lmfast.data.chat import BOS, render_answer
from lmfast.data.chat_records import Preference
from lmfast.data.packing import TOKEN, pack_row
from lmfast.errors import UserError
from lmfast.training.post_training import truncate_all


def pair_rows(
    training: Sequence[Preference],
    held: Sequence[Preference],
    tokenizer,
    limit: int,
    name: str,
    report: Callable[[str], None] = print,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of both parts, with a common length of at most `limit`. Raises UserError if no training pair is left."""
    found = [
        _cut_pairs(part, tokenizer, limit, what, report)
        for part, what in ((training, name), (held, "held out"))
    ]
    if not found[0]:
        raise UserError(f"{name}: no pair fits into the context; raise --context-length")
    length = max(len(row.ids) for part in found for pair in part for row in pair)
    pad = tokenizer.special_tokens[BOS]
    empty = np.zeros((0, 2, length), TOKEN)
    train, evaluation = (
        np.stack([np.stack([pack_row([row], length, pad) for row in pair]) for pair in part])
        if part
        else empty
        for part in found
    )
    return train, evaluation


def _cut_pairs(
    pairs: Sequence[Preference], tokenizer, limit: int, what: str, report: Callable[[str], None]
) -> list[tuple]:
    if not pairs:
        return []
    chosen, rejected = (
        truncate_all(
            [render_answer(pair.prompt, getattr(pair, which), tokenizer) for pair in pairs],
            limit,
            f"{what}, {which}",
            report,
        )
        for which in ("chosen", "rejected")
    )
    whole = [(a, b) for a, b in zip(chosen, rejected, strict=True) if a is not None and b is not None]
    kept = [(a, b) for a, b in whole if not np.array_equal(a.ids, b.ids)]
    if len(kept) < len(whole):
        report(
            f"{what}: skipped {counted(len(whole) - len(kept), 'pair')} with identical answers within the context"
        )
    return kept
