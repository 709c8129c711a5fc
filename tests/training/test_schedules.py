import pytest

from lmfast.training.schedules import Schedule


def make(kind="cosine", **changes):
    options = {"peak": 1.0, "floor": 0.1, "warmup_iters": 10, "decay_iters": 110} | changes
    return Schedule(kind, **options)


@pytest.mark.parametrize("kind", ["cosine", "linear", "wsd"])
def test_linear_warmup_reaches_the_peak_at_its_last_step(kind):
    assert [make(kind)(s) for s in (1, 5, 10)] == [pytest.approx(r) for r in (0.1, 0.5, 1.0)]


def test_half_a_cosine_to_the_floor_at_exactly_the_last_step():
    rate = make()
    assert rate(60) == pytest.approx(0.55)
    assert rate(35) == pytest.approx(0.1 + 0.9 * (0.5 + 0.5 * 2**-0.5))
    assert rate(109) > rate(110) == rate(1000) == 0.1


def test_linear_ends_at_exactly_zero_at_exactly_the_last_step():
    rate = make("linear", floor=0.0)
    assert [rate(s) for s in (60, 85)] == [pytest.approx(r) for r in (0.5, 0.25)]
    assert rate(109) == pytest.approx(0.01) and rate(110) == 0.0


def test_wsd_is_stable_until_the_decay_begins():
    rate = make("wsd", floor=0.0, decay_fraction=0.25)
    assert {rate(s) for s in range(10, 86)} == {1.0}
    assert [rate(s) for s in (95, 100)] == [pytest.approx(r) for r in (0.6, 0.4)]
    assert rate(109) > rate(110) == 0.0
    assert make("wsd", decay_fraction=0.0)(109) == 1.0


def test_no_warmup_and_no_decay():
    assert make(floor=0.0, warmup_iters=0, decay_iters=2)(1) == pytest.approx(0.5)
    assert make(floor=0.2, warmup_iters=5, decay_iters=5)(5) == 0.2


@pytest.mark.parametrize("kind", ["cosine", "linear", "wsd"])
def test_the_clock_takes_over_when_it_is_ahead(kind):
    stepped, timed = make(kind), make(kind, decay_iters=None)
    assert timed(60, 0.9) == stepped(100)  # nine tenths of the way, either by steps or by time
    assert stepped(100, 0.3) == stepped(100) and stepped(20, 0.9) == stepped(100)
    assert timed(60, 1.0) == timed(60, 1.5) == timed(3, 1.0) == 0.1
    assert timed(10**6) == 1.0
