"""The curves of all trials on top of each other, coloured by group, and a legend as HTML.

Validation and training loss (and the metric of the sweep, if it is another one) against tokens, or steps. Diverged trials
are dashed. The vertical range is that of the other trials after their first steps, so that they can be distinguished; a
curve that leaves it is cut off there. That of the training loss is larger: it shows where diverged trials leave.
"""

import html
import statistics
from collections.abc import Sequence
from typing import Any

from lmfast.sweeps.groups import Group
from lmfast.sweeps.trial_runs import TrialRun
from lmfast.sweeps.trials import Results
from lmfast.sweeps.wording import metric_label, values_text
from lmfast.training.plotting import interval_medians, picture

SIZE, FONT = (4.7, 3.4), 9.5
START = 0.2  # share of the points of a run that do not decide the vertical range
MOST_CHIPS = 30  # of a legend that is open
POINTS = 120  # of a curve


def curve_plots(
    results: Results, groups: list[Group], runs: dict[int, TrialRun], colours: Sequence[str]
) -> list[str]:
    """The pictures, without those that no trial has points for."""
    metrics = list(dict.fromkeys([results.metric, "val_loss", "train_loss"]))
    x = "tokens" if any(run.tokens is not None for run in runs.values()) else "step"
    found = []
    for metric in metrics:
        if any(run.curve(x, metric)[0] for run in runs.values()):
            found.append(_plot(results, groups, runs, colours, x, metric))
    return found


def curve_legend(groups: list[Group], names: Sequence[str], colours: Sequence[str]) -> str:
    """A chip per group that highlights its curves. names: the settings in which the groups differ."""
    if len(groups) < 2:
        return ""
    chips = "".join(
        f'<button type="button" class="chip" data-group="g{group.index}">'
        f'<span class="key" style="background:{colours[group.index]}"></span>'
        f"{html.escape(values_text(group.values, names, named=False, separator=' · '))}</button>"
        for group in groups
    )
    heading = html.escape(", ".join(names))
    box = f'<div class="chips">{chips}</div>'
    if len(groups) > MOST_CHIPS:
        box = f"<details><summary>Colours of {len(groups)} combinations</summary>{box}</details>"
    dashed = any(trial.state == "diverged" for group in groups for trial in group.trials)
    return (
        f'<p class="note">Colours: {heading}.{" Dashed curves diverged." if dashed else ""} Point at a value, or select '
        "it, to highlight its curves.</p>"
        f"{box}"
    )


def _plot(
    results: Results,
    groups: list[Group],
    runs: dict[int, TrialRun],
    colours: Sequence[str],
    x: str,
    metric: str,
) -> str:
    label = metric_label(metric)
    spoken = f"{label} against {x}s".replace("tokenss", "tokens")

    def draw(axes: Any) -> None:
        from matplotlib.ticker import EngFormatter

        settled, lowest = [], []
        for group in groups:
            for trial in group.trials:
                xs, ys = runs[trial.number].curve(x, metric)
                if not xs:
                    continue
                xs, ys = interval_medians(xs, ys, POINTS)
                if trial.state not in ("diverged", "failed"):
                    settled.append(ys[int(START * len(ys)) :])
                elif metric == "train_loss":
                    lowest.append(min(ys))
                axes.plot(
                    xs, ys, color=colours[group.index], ls="--" if trial.state == "diverged" else "-",
                    lw=1.2, alpha=0.9, marker="o" if len(xs) == 1 else None, ms=3.5, gid=f"class:g{group.index}",
                )  # fmt: skip
        maximize = metric == results.metric and results.direction == "maximize"
        limits = vertical_range(settled, lowest, maximize)
        if limits:
            axes.set_ylim(*limits)
        axes.set_xlabel({"step": "steps"}.get(x, x))
        axes.set_ylabel(label).set_parse_math(False)
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.grid(alpha=0.25)

    return picture(f"{results.name}: {spoken}", draw, f"{spoken}, all trials", SIZE, FONT)


def vertical_range(
    curves: Sequence[Sequence[float]], lowest: Sequence[float] = (), maximize: bool = False
) -> tuple[float, float] | None:
    """Limits that show the curves (each without its first steps), but not the worst of far worse ones; None without any.

    Values worse than the median curve by more than five times the median extent do not count. lowest: of diverged curves,
    which the limits include."""
    if not curves:
        return None
    values = [value for curve in curves for value in curve]
    extent = statistics.median(max(curve) - min(curve) for curve in curves)
    reach = 5 * extent or 5 * abs(statistics.median(values)) or 1.0
    low, high = min(values), max(values)
    if maximize:
        low = max(low, statistics.median(min(curve) for curve in curves) - reach)
    else:
        limit = statistics.median(max(curve) for curve in curves) + reach
        high = max([min(high, limit), *(1.08 * value for value in lowest if value <= limit)])
    margin = 0.04 * (high - low) or 0.01 * abs(high) or 0.01
    return low - margin, high + margin
