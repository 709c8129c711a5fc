import pytest

from lmfast.sweeps.spread import difference, standard_deviation, t_quantile


def test_one_value_has_no_spread():
    assert standard_deviation([1.0]) is None and standard_deviation([1.0, 3.0]) == pytest.approx(2**0.5)
    found = difference([1.0], [3.0, 3.1])
    assert found.value == pytest.approx(-2.05) and found.margin is None and not found.exceeds_spread


def test_the_margin_is_that_of_welch():
    """The interval that scipy computes, with the degrees of freedom rounded down (never narrower)."""
    a, b = [1.61, 1.60, 1.63, 1.58], [1.70, 1.60, 1.82]
    found = difference(a, b)
    # By hand: variances 0.00043333 / 4 and 0.01213333 / 3, 2.11 degrees of freedom; t(2) = 4.303.
    assert found.value == pytest.approx(-0.10167, abs=1e-4)
    assert found.margin == pytest.approx(4.303 * (0.00043333 / 4 + 0.01213333 / 3) ** 0.5, rel=1e-3)
    assert not found.exceeds_spread
    assert difference([1.0, 1.01, 0.99], [2.0, 2.01, 1.99]).exceeds_spread


def test_equal_values_of_each_side_have_no_margin():
    assert difference([1.0, 1.0], [2.0, 2.0]) == (-1.0, 0.0)
    assert difference([1.0, 1.0], [2.0, 2.0]).exceeds_spread
    assert not difference([1.0, 1.0], [1.0, 1.0]).exceeds_spread


def test_quantiles_are_students():
    stats = pytest.importorskip("scipy.stats")
    for freedom in (1, 2, 5, 10, 30, 60, 200):
        assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-3)
    assert t_quantile(0.4) == t_quantile(1) and t_quantile(2.9) == t_quantile(2)
