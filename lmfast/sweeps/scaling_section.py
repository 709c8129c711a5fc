"""The part of a sweep's page on the scaling law: the fit, its plot, how well it holds, and compute-optimal models.

N is the number of all parameters (run.json), D the number of training tokens (the last line of metrics.jsonl), and compute
is C = 6 N D FLOPs. If other settings than size and length were searched, the best ones of each (N, D) are fitted.
"""

import html
import math
from collections.abc import Sequence
from typing import Any

from lmfast.sweeps.groups import Group, score
from lmfast.sweeps.scaling_law import (
    ENOUGH_POINTS,
    Point,
    ScalingLaw,
    distinct_pairs,
    fit,
    leave_one_out,
    problem_of,
)
from lmfast.sweeps.scaling_plot import scaling_plot
from lmfast.sweeps.trial_runs import TrialRun
from lmfast.sweeps.trials import Results
from lmfast.sweeps.wording import metric_label, score_text
from lmfast.training.html_page import data_cells, scrolling_table

BUDGETS = (0.1, 1, 10, 100, 1000)  # times the compute of the most expensive trial
UNSTABLE = (
    1.5  # ratio of the largest to the smallest exponent without one point, from which on the page warns
)

CONVENTION = (
    "N counts all parameters, embeddings included and tied weights once, as Hoffmann et al. (2022) do; Kaplan et al. (2020) "
    "leave embeddings out. D counts training tokens, and compute is C = 6 N D FLOPs, without the attention scores. The "
    "law is fitted as in approach 3 of Hoffmann et al.: Huber loss on log L (δ = 0.001), L-BFGS from a grid of starts."
)


def scaling_section(results: Results, groups: list[Group], runs: dict[int, TrialRun], plots: bool) -> str:
    """The section, or a sentence on why there is no fit. plots: whether matplotlib is installed."""
    return f"<h2>Scaling law</h2>{_content(results, groups, runs, plots)}"


def _content(results: Results, groups: list[Group], runs: dict[int, TrialRun], plots: bool) -> str:
    if results.direction == "maximize":
        return _note("No fit: a scaling law describes a loss, and this sweep maximises its metric.")
    points = fitted_points(results, groups, runs)
    problem = problem_of(points)
    if problem is not None:
        return _note(f"No fit. {problem}")
    try:
        law = fit(points)
    except ImportError:
        return _note("No fit: scipy is not installed; install the extra `sweep`.")
    without = leave_one_out(points) if len(distinct_pairs(points)) >= ENOUGH_POINTS else []
    equation = (
        f"L(N, D) = {law.E:.4g} + {law.A:.4g} / N<sup>{law.alpha:.3f}</sup> + "
        f"{law.B:.4g} / D<sup>{law.beta:.3f}</sup>"
    )
    remarks = "".join(f"<li>{html.escape(remark)}</li>" for remark in _remarks(law, points, without))
    figure = scaling_plot(results.name, law, points) if plots else ""
    return (
        f'<p class="best">{equation}</p><div class="main">{figure}<ul>{remarks}</ul></div>'
        f"<h3>Compute-optimal models</h3>{_budget_table(law, points)}"
        f"<h3>Residuals</h3>{_residual_table(results, law, points, without)}{_note(CONVENTION)}"
    )


def fitted_points(results: Results, groups: list[Group], runs: dict[int, TrialRun]) -> list[Point]:
    """The complete trials with N, D and loss; of groups with the same N and D, those of the best one."""
    candidates: list[tuple[float, list[Point]]] = []
    for group in groups:
        own = []
        for trial in group.trials:
            run, loss = runs[trial.number], score(trial)
            if loss is not None and run.parameters is not None and run.tokens is not None:
                own.append(Point(run.parameters, run.tokens, loss))
        if own and group.mean is not None:
            candidates.append((group.mean, own))
    kept: list[Point] = []
    for _, own in sorted(candidates, key=lambda candidate: candidate[0]):
        if len(distinct_pairs([*kept, *own])) > len(distinct_pairs(kept)):
            kept += own
    return sorted(kept)


def _remarks(law: ScalingLaw, points: Sequence[Point], without: Sequence[Any]) -> list[str]:
    share = law.beta / (law.alpha + law.beta)
    remarks = [
        f"The optimal N grows as C to the power of {share:.2f}, the optimal D as C to the power of {1 - share:.2f}.",
        f"The typical residual is {_typical(law, points):.2%} of the loss.",
    ]
    if law.at_limits:
        remarks.append(
            "An exponent is at the limit of its range: the trials do not determine it. Do not extrapolate."
        )
    if not without:
        remarks.append(
            f"Warning: fewer than {ENOUGH_POINTS} combinations of N and D for five parameters. Do not extrapolate."
        )
        return remarks
    spans = {"α": [other.alpha for other, _ in without], "β": [other.beta for other, _ in without]}
    ranges = " and ".join(f"{name} between {min(s):.3f} and {max(s):.3f}" for name, s in spans.items())
    remarks.append(f"Fits that leave out one combination of N and D have {ranges}.")
    if any(max(span) > UNSTABLE * min(span) for span in spans.values()):
        remarks.append(
            "Warning: a single combination changes an exponent by more than half. Do not extrapolate."
        )
    return remarks


def _typical(law: ScalingLaw, points: Sequence[Point]) -> float:
    """The root mean square of the residuals of log L."""
    squares = [math.log(p.loss / law.loss(p.parameters, p.tokens)) ** 2 for p in points]
    return math.sqrt(sum(squares) / len(squares))


def _budget_table(law: ScalingLaw, points: Sequence[Point]) -> str:
    largest = max(6 * point.parameters * point.tokens for point in points)
    rows = []
    for factor in BUDGETS:
        flops = factor * largest
        parameters, tokens = law.optimum(flops)
        times = f"{factor:g} ×"
        rows.append([
            f"{flops:.2e}", times, _quantity(parameters), _quantity(tokens), f"{tokens / parameters:.3g}",
            score_text(law.loss(parameters, tokens)) + (" (extrapolated)" if factor > 1 else ""),
        ])  # fmt: skip
    heads = ["C, FLOPs", "of the most expensive trial", "N", "D", "tokens per parameter", "predicted loss"]
    return scrolling_table(heads, [data_cells(row) for row in rows], "compute-optimal models")


def _residual_table(
    results: Results,
    law: ScalingLaw,
    points: Sequence[Point],
    without: Sequence[tuple[ScalingLaw, list[Point]]],
) -> str:
    rows = []
    for point in points:
        other = next((other for other, cell in without if point in cell), None)
        left_out = "" if other is None else _residual(other, point)
        rows.append([
            _quantity(point.parameters), _quantity(point.tokens), score_text(point.loss),
            score_text(law.loss(point.parameters, point.tokens)), _residual(law, point), left_out,
        ])  # fmt: skip
    heads = [
        "N",
        "D",
        html.escape(metric_label(results.metric)),
        "fitted",
        "residual",
        "residual if left out",
    ]
    return scrolling_table(heads, [data_cells(row) for row in rows], "residuals of the scaling law")


def _residual(law: ScalingLaw, point: Point) -> str:
    return f"{point.loss / law.loss(point.parameters, point.tokens) - 1:+.2%}".replace("-", "−")


def _quantity(value: float) -> str:
    """12.3 M

    >>> [_quantity(x) for x in (950, 12_345_678, 2e9, 3e12)]
    ['950', '12.3 M', '2 B', '3 T']
    """
    for unit, name in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{float(f'{value / unit:.3g}'):,g}{name}"
    return f"{value:.3g}"


def _note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>'
