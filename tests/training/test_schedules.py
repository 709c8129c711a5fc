import pytest

from lmfast.training.schedules import cosine_with_warmup


def rate(step):
    return cosine_with_warmup(step, peak=1.0, floor=0.1, warmup_iters=10, decay_iters=110)


def test_linear_warmup_reaches_the_peak_at_its_last_step():
    assert [rate(s) for s in (1, 5, 10)] == [0.1, 0.5, 1.0]


def test_half_a_cosine_to_the_floor_at_exactly_the_last_step():
    assert rate(60) == pytest.approx(0.55)
    assert rate(35) == pytest.approx(0.1 + 0.9 * (0.5 + 0.5 * 2**-0.5))
    assert rate(110) == rate(1000) == 0.1


def test_no_warmup_and_no_decay():
    assert cosine_with_warmup(1, 1.0, 0.0, 0, 2) == pytest.approx(0.5)
    assert cosine_with_warmup(5, 1.0, 0.2, 5, 5) == 0.2
