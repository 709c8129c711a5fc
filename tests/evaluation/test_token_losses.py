import numpy as np
import pytest
import torch

from lmfast.evaluation.token_losses import (
    Bucket,
    TokenLosses,
    by_frequency,
    by_id,
    by_position,
    hardest,
    token_losses,
)
from lmfast.inference.torch_scoring import make_scorer
from tests.inference.cpu.test_decoder import build

FOUND = TokenLosses(
    np.array([5, 7, 5, 2, 5, 7]), np.array([1.0, 0.5, 2.0, 4.0, 0.0, 2.5]), np.array([1, 2, 3, 4, 1, 2])
)


@pytest.mark.parametrize("begin", [60, None])
def test_losses_are_those_of_windows(begin):
    model = build()
    ids = np.random.default_rng(0).integers(0, 61, 200).tolist()
    found = token_losses(make_scorer(model), ids, begin, 90)
    read = ids if begin is None else [begin, *ids]
    assert found.ids.tolist() == read[1:]
    assert found.positions[:92].tolist() == [*range(1, 91), 1, 2]
    for start in range(0, len(read) - 1, 90):
        window = torch.tensor(read[start : start + 91])
        with torch.inference_mode():
            losses = torch.nn.functional.cross_entropy(
                model(window[None, :-1])[0], window[1:], reduction="none"
            )
        np.testing.assert_allclose(found.losses[start : start + 90], losses.numpy(), atol=2e-5)


def test_by_position():
    assert by_position(FOUND) == [
        Bucket("1", 2, 0.5, 0.1),
        Bucket("2–3", 3, pytest.approx(5 / 3), 0.5),
        Bucket("4–7", 1, 4.0, 0.4),
    ]


def test_by_frequency():
    assert by_frequency(FOUND) == [Bucket("1", 1, 4.0, 0.4), Bucket("2–3", 5, 1.2, pytest.approx(0.6))]


def test_the_ids_with_the_most_loss():
    assert by_id(FOUND, 2) == [(2, Bucket("", 1, 4.0, 0.4)), (5, Bucket("", 3, 1.0, pytest.approx(0.3)))]
    assert len(by_id(FOUND, 9)) == 3


def test_the_hardest_tokens():
    assert hardest(FOUND, 3) == [3, 5, 2]
