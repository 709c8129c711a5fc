import pytest

from lmfast.sweeps.scaling_law import Point, ScalingLaw
from lmfast.sweeps.scaling_plot import scaling_plot, shown_ranges

LAW = ScalingLaw(E=1.69, A=406.4, alpha=0.34, B=410.7, beta=0.28)
POINTS = [Point(n, d, LAW.loss(n, d)) for n in (1e6, 4e6, 1.6e7) for d in (2e7, 8e7, 3.2e8)]


def test_contours_trials_and_the_optimal_line():
    picture = scaling_plot("s", LAW, POINTS)
    assert ">compute-optimal</text>" in picture and ">trials</text>" in picture
    assert picture.count("<use") >= len(POINTS) and "contours of equal loss" in picture


def test_the_ranges_contain_trials_and_optima_but_no_distant_ones():
    (bottom, top), (left, right) = shown_ranges(LAW, POINTS)
    assert bottom < 1e6 and top > 1.6e7 and left < 2e7 and right > 3.2e8
    n, d = LAW.optimum(6 * 1.6e7 * 3.2e8)
    assert bottom < n < top and left < d < right
    far = shown_ranges(ScalingLaw(1, 1e9, 0.3, 1e-9, 0.3), POINTS)
    assert far[0][1] == pytest.approx(1.7 * 30 * 1.6e7) and far[1][0] == pytest.approx(2e7 / 30 / 1.7)
