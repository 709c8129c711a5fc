import pytest
import torch

from lmfast.errors import UserError
from lmfast.inference.sampling import check_sampling, filter_logits, sample

LOGITS = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()


def kept(**options):
    return filter_logits(LOGITS, **options).isfinite()[0].tolist()


def test_top_k_keeps_k():
    assert kept(top_k=2) == [True, True, False, False]
    assert kept(top_k=9) == [True] * 4


@pytest.mark.parametrize(
    ("top_p", "count"), [(0.01, 1), (0.49, 1), (0.51, 2), (0.79, 2), (0.81, 3), (1.0, 4)]
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p, count):
    assert kept(top_p=top_p) == [i < count for i in range(4)]


def test_frequencies_follow_the_distribution():
    generator = torch.Generator().manual_seed(0)
    ids = sample(LOGITS.expand(20000, 4), 1.0, None, None, generator)
    share = torch.bincount(ids, minlength=4) / 20000
    torch.testing.assert_close(share, LOGITS[0].exp(), atol=0.015, rtol=0)


def test_temperature_sharpens_and_zero_is_greedy():
    generator = torch.Generator().manual_seed(0)
    sharp = sample(LOGITS.expand(5000, 4), 0.25, None, None, generator)
    assert (sharp == 0).float().mean() > 0.85
    ties = torch.tensor([[1.0, 3.0, 3.0, 2.0]])
    assert sample(ties, 0.0, None, None, generator).tolist() == [1]


def test_a_seed_repeats():
    draws = [sample(LOGITS.expand(50, 4), 1.0, 3, 0.9, torch.Generator().manual_seed(4)) for _ in range(2)]
    assert torch.equal(*draws)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ((-0.1, None, None), "temperature"),
        ((1, 0, None), "top_k"),
        ((1, None, 0.0), "top_p"),
        ((1, None, 1.5), "top_p"),
    ],
)
def test_values_out_of_range_are_refused(options, name):
    with pytest.raises(UserError, match=name):
        check_sampling(*options)
