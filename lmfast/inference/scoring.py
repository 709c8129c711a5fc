"""Log-probabilities of given texts: the interface of cpu/scoring.py (C++) and torch_scoring.py. Does not import torch.

In: texts as ids, each with the first id to score. Out: of every id from there on, the natural logarithm of its probability
given all ids before it, over the whole vocabulary, and whether it is the most likely one (the lowest id on ties).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np


class Text(NamedTuple):
    """ids: at least two, at most context_length + 1, because the last one is only predicted. first: at least 1."""

    ids: list[int]
    first: int


class Scores(NamedTuple):
    """Of ids[first:]. logprobs: float64; greedy: bool."""

    logprobs: np.ndarray
    greedy: np.ndarray


class Scorer(Protocol):
    """Scores texts with a model."""

    def score(self, texts: Sequence[Text], on_scored: Callable[[int], None] | None = None, /) -> list[Scores]:
        """In the order of `texts`. on_scored: called with the number of texts that were finished since its last call.

        Raises ValueError for a text that does not fit the context."""
        ...


def check_texts(texts: Sequence[Text], context_length: int) -> None:
    """Raises ValueError for a text that does not fit the context, or has nothing to score."""
    for ids, first in texts:
        if not 1 <= first < len(ids) <= context_length + 1:
            raise ValueError(f"{len(ids)} ids scored from {first} do not fit a context of {context_length}")
