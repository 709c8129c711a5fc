import random

import pytest

from lmfast.sweeps.scaling_law import (
    Point,
    ScalingLaw,
    distinct,
    distinct_pairs,
    fit,
    leave_one_out,
    problem_of,
)

pytest.importorskip("scipy")
LAW = ScalingLaw(E=1.69, A=406.4, alpha=0.34, B=410.7, beta=0.28)
SIZES, COUNTS = (1e6, 4e6, 1.6e7), (2e7, 8e7, 3.2e8)


def points(law=LAW, noise=0.0, sizes=SIZES, counts=COUNTS):
    rng = random.Random(1)
    return [Point(n, d, law.loss(n, d) * (1 + noise * rng.gauss(0, 1))) for n in sizes for d in counts]


@pytest.mark.parametrize("law", [LAW, ScalingLaw(E=1.0, A=20.0, alpha=0.25, B=300.0, beta=0.4)])
def test_parameters_are_recovered(law):
    found = fit(points(law))
    for name in ("E", "A", "alpha", "B", "beta"):
        assert getattr(found, name) == pytest.approx(getattr(law, name), rel=1e-3), name
    assert not found.at_limits


def test_one_bad_run_hardly_changes_the_fit():
    """The Huber loss; with squares, the exponents would change by half."""
    bad = points()
    bad[4] = bad[4]._replace(loss=bad[4].loss * 1.2)
    found = fit(bad)
    assert found.alpha == pytest.approx(LAW.alpha, abs=0.05) and found.beta == pytest.approx(
        LAW.beta, abs=0.05
    )


def test_leaving_one_out_predicts_its_loss():
    cells = leave_one_out(points())
    assert [cell for _, cell in cells] == [[point] for point in points()]
    for law, (point,) in cells:
        assert law.loss(point.parameters, point.tokens) == pytest.approx(point.loss, rel=1e-3)
        assert law.alpha == pytest.approx(LAW.alpha, rel=0.02)


def test_the_optimum_has_the_lowest_loss_for_its_compute():
    for flops in (1e15, 1e20):
        n, d = LAW.optimum(flops)
        assert 6 * n * d == pytest.approx(flops)
        assert all(LAW.loss(n, d) < LAW.loss(n * factor, d / factor) for factor in (0.9, 0.99, 1.01, 1.1))


def test_an_exponent_at_its_limit_is_reported():
    assert ScalingLaw(1, 1, 2.0, 1, 0.3).at_limits and ScalingLaw(1, 1, 0.3, 1, 0.01).at_limits
    assert not LAW.at_limits


def test_data_without_dependence_on_the_size_put_an_exponent_at_its_limit_or_have_no_term():
    flat = [Point(n, d, 2 + 400 / d**0.3) for n in SIZES for d in COUNTS]
    found = fit(flat)
    assert found.loss(1e6, 8e7) == pytest.approx(2 + 400 / 8e7**0.3, rel=1e-3)
    assert found.A * 1e6**-found.alpha < 0.01 or found.at_limits


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (points(sizes=SIZES[:2]), "6 combinations of 2 sizes and 3 counts"),
        (points(counts=COUNTS[:1]), "3 combinations of 3 sizes and 1 count."),
        ([], "0 combinations of 0 sizes and 0 counts"),
        ([point._replace(loss=2.0) for point in points()], "same loss"),
        ([*points(), Point(1e6, 0, 2.0)], "must be positive"),
        ([*points(), Point(1e6, 1e6, float("nan"))], "must be positive"),
    ],
)
def test_data_that_do_not_determine_the_law_are_refused(given, message):
    assert message in (problem_of(given) or "")
    assert problem_of(points()) is None


def test_nearly_equal_sizes_are_one():
    """Token counts are rounded to whole steps."""
    assert distinct([100, 101, 200]) == 2 and distinct([]) == 0
    cells = distinct_pairs([Point(1e6, 1e8, 3.0), Point(1e6, 1.01e8, 3.1), Point(2e6, 1e8, 2.9)])
    assert [len(cell) for cell in cells] == [2, 1]
