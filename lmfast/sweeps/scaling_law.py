"""L(N, D) = E + A / N^α + B / D^β fitted to runs: loss L, N parameters, D training tokens.

As in Hoffmann et al. 2022 (arXiv:2203.15556), approach 3: the Huber loss (δ = 0.001) of the residuals of log L, minimised by
L-BFGS from a grid of starts. Exponents are kept in 0.01 to 2. Needs scipy (extra `sweep`).

Rejects data that do not determine the five parameters: fewer than 5 points, or fewer than 3 values of N or of D.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lmfast.counted import counted

HUBER = 1e-3
EXPONENTS = (0.01, 2.0)  # limits
REFINED = 24  # starts of the grid that L-BFGS refines
FEWEST_POINTS = 5
FEWEST_VALUES = 3  # of N and of D
ENOUGH_POINTS = 6  # for leaving one out
SAME = 0.02  # relative difference below which two N or two D count as one


class Point(NamedTuple):
    """parameters N, tokens D and loss of a run"""

    parameters: float
    tokens: float
    loss: float


@dataclass(frozen=True)
class ScalingLaw:
    """The fitted parameters. E: irreducible loss; A, alpha: of the parameters; B, beta: of the tokens."""

    E: float
    A: float
    alpha: float
    B: float
    beta: float

    def loss(self, parameters: Any, tokens: Any) -> Any:
        """L of numbers or arrays."""
        return self.E + self.A * parameters**-self.alpha + self.B * tokens**-self.beta

    def optimum(self, flops: float) -> tuple[float, float]:
        """(N, D) of the lowest loss with 6 N D = flops."""
        scale = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        parameters = scale * (flops / 6) ** (self.beta / (self.alpha + self.beta))
        return parameters, flops / 6 / parameters

    @property
    def at_limits(self) -> bool:
        """Whether an exponent is at its limit, so that the data do not determine it."""
        low, high = EXPONENTS
        return any(not 1.01 * low < x < 0.99 * high for x in (self.alpha, self.beta))


def problem_of(points: Sequence[Point]) -> str | None:
    """Why the points do not determine the law, as a sentence; None if they do."""
    if any(not (math.isfinite(x) and x > 0) for point in points for x in point):
        return "Losses, parameters and tokens must be positive numbers."
    sizes, lengths = (distinct([p[i] for p in points]) for i in (0, 1))
    cells = len(distinct_pairs(points))
    if cells < FEWEST_POINTS or min(sizes, lengths) < FEWEST_VALUES:
        return (
            f"The law has five parameters: it needs at least {FEWEST_POINTS} combinations of model size and token "
            f"count, with at least {FEWEST_VALUES} sizes and {FEWEST_VALUES} counts. The complete trials have "
            f"{counted(cells, 'combination')} of {counted(sizes, 'size')} and {counted(lengths, 'count')}."
        )
    losses = [point.loss for point in points]
    if max(losses) - min(losses) < 1e-6 * max(losses):
        return "All trials have the same loss."
    return None


def distinct(values: Sequence[float]) -> int:
    """The number of values that differ by more than 2 %."""
    ordered = sorted(values)
    return bool(ordered) + sum(b > a * (1 + SAME) for a, b in itertools.pairwise(ordered))


def distinct_pairs(points: Sequence[Point]) -> list[list[Point]]:
    """The points, those with the same N and D (within 2 %) together."""
    cells: list[list[Point]] = []
    for point in points:
        cell = next((c for c in cells if all(abs(point[i] / c[0][i] - 1) <= SAME for i in (0, 1))), None)
        cells.append([point]) if cell is None else cell.append(point)
    return cells


def fit(points: Sequence[Point], refined: int = REFINED) -> ScalingLaw:
    """The law with the smallest Huber loss. The points must have no problem (`problem_of`). refined: starts to refine."""
    import numpy as np

    data = np.array(points, dtype=np.float64)
    # Terms are expressed at the geometric means of N and D: the exponents then hardly correlate with the factors.
    centre = np.log(data[:, :2]).mean(0)
    logs, target = np.log(data[:, :2]) - centre, np.log(data[:, 2])
    starts = _grid(data[:, 2])
    costs = np.array([_cost(start, logs, target)[0] for start in starts])
    found = [_minimise(starts[i], logs, target) for i in np.argsort(costs, kind="stable")[:refined]]
    _, (a, b, e, alpha, beta) = min(found, key=lambda result: result[0])
    factors = np.exp([a + alpha * centre[0], b + beta * centre[1], e])
    return ScalingLaw(float(factors[2]), float(factors[0]), float(alpha), float(factors[1]), float(beta))


def leave_one_out(points: Sequence[Point]) -> list[tuple[ScalingLaw, list[Point]]]:
    """For each combination of N and D: the law fitted without it, and its points. Omits those that leave too few."""
    found = []
    for cell in distinct_pairs(points):
        others = [point for point in points if point not in cell]
        if problem_of(others) is None:
            found.append((fit(others, REFINED // 3), cell))
    return found


def _grid(losses: Any) -> list[Any]:
    """Starts (log of both terms at the centre, log E, α, β): shares of the typical loss, and exponents."""
    import numpy as np

    middle, lowest = float(np.median(losses)), float(losses.min())
    shares, exponents = (0.03, 0.1, 0.3), (0.1, 0.3, 0.5, 0.8, 1.2)
    return [
        np.array([math.log(a * middle), math.log(b * middle), math.log(e * lowest), alpha, beta])
        for a in shares
        for b in shares
        for e in (0.3, 0.7, 0.95)
        for alpha in exponents
        for beta in exponents
    ]


def _cost(parameters: Any, logs: Any, target: Any) -> tuple[float, Any]:
    """The mean Huber loss divided by δ², and its gradient."""
    import numpy as np

    a, b, e, alpha, beta = parameters
    terms = np.stack(
        [a - alpha * logs[:, 0], b - beta * logs[:, 1], np.full(len(logs), e)]
    )  # logs of the terms
    largest = terms.max(0)
    shares = np.exp(terms - largest)
    total = shares.sum(0)
    residuals = (largest + np.log(total) - target) / HUBER
    size = np.abs(residuals)
    slopes = np.clip(residuals, -1, 1) / len(logs) / HUBER * (shares / total)
    gradient = [*slopes.sum(1), -(slopes[0] * logs[:, 0]).sum(), -(slopes[1] * logs[:, 1]).sum()]
    return float(np.where(size <= 1, 0.5 * size**2, size - 0.5).mean()), np.array(gradient)


def _minimise(start: Any, logs: Any, target: Any) -> tuple[float, Any]:
    from scipy.optimize import minimize

    bounds = [(-60.0, 60.0)] * 3 + [EXPONENTS] * 2
    options = {"maxiter": 1000, "maxcor": 20, "ftol": 1e-13, "gtol": 1e-9}
    result = minimize(_cost, start, (logs, target), "L-BFGS-B", jac=True, bounds=bounds, options=options)
    return float(result.fun), result.x
