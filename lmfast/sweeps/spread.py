"""Spread over seeds, and whether a difference exceeds it.

The margin of a difference of means is the half-width of its 95 % confidence interval by Welch (1947): two samples whose
variances may differ. One value has no spread, and no margin is invented for it.
"""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom.
T_QUANTILES = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
NORMAL_QUANTILE = 1.960


class Difference(NamedTuple):
    """A difference of means. margin: None if one side has fewer than two values."""

    value: float
    margin: float | None

    @property
    def exceeds_spread(self) -> bool:
        return self.margin is not None and abs(self.value) > self.margin


def standard_deviation(values: Sequence[float]) -> float | None:
    """With n − 1 in the denominator; None for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def difference(values: Sequence[float], reference: Sequence[float]) -> Difference:
    """mean(values) − mean(reference). Both need at least one value."""
    value = statistics.fmean(values) - statistics.fmean(reference)
    if min(len(values), len(reference)) < 2:
        return Difference(value, None)
    errors = [statistics.variance(sample) / len(sample) for sample in (values, reference)]  # squared
    if sum(errors) == 0:
        return Difference(value, 0.0)
    freedom = sum(errors) ** 2 / sum(
        error**2 / (len(sample) - 1) for error, sample in zip(errors, (values, reference), strict=True)
    )
    return Difference(value, t_quantile(freedom) * math.sqrt(sum(errors)))


def t_quantile(freedom: float) -> float:
    """The 97.5 % quantile of Student's t, for the next lower whole number of degrees of freedom (at least 1)."""
    whole = max(1, math.floor(freedom + 1e-9))
    if whole <= len(T_QUANTILES):
        return T_QUANTILES[whole - 1]
    return NORMAL_QUANTILE + (T_QUANTILES[-1] - NORMAL_QUANTILE) * len(T_QUANTILES) / whole
