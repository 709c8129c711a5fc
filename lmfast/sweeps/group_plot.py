"""The metric of each group, one row per group, for sweeps without a numeric setting, such as ablations.

Points are trials, a bar is the mean, a dashed line is the mean of the first variant. Diverged trials are crosses at the
edge where bad values are.
"""

from collections.abc import Sequence
from typing import Any

from lmfast.sweeps.axes import good_range
from lmfast.sweeps.groups import Group, best_first, finite, reference_of, score
from lmfast.sweeps.trials import Results
from lmfast.sweeps.wording import metric_label, shortened, values_text
from lmfast.training.plotting import picture

MOST_ROWS = 40
LONGEST_NAME = 30  # characters of a group
WIDTH, FONT = 4.7, 9.5
BAD = "#c92a2a"


def group_plot(results: Results, groups: list[Group], names: Sequence[str], colours: Sequence[str]) -> str:
    """The picture. names: the settings in which the groups differ. colours: by index of the group."""
    rows = best_first(results, groups)[:MOST_ROWS]
    label, maximize = metric_label(results.metric), results.direction == "maximize"
    values = [value for group in rows for value in group.scores]
    references = [g for g in (reference_of(results, group, groups) for group in rows) if g is not None]

    def draw(axes: Any) -> None:
        low, high = good_range(values, maximize) if values else (0.0, 1.0)
        margin = 0.07 * (high - low) or 0.01 * abs(high) or 0.01
        low, high = low - margin, high + margin
        axes.set_xlim(low, high)
        bad, marker = (low, "<") if maximize else (high, ">")
        for y, group in enumerate(rows):
            ink = colours[group.index]
            for trial in group.trials:
                value = score(trial) if trial.state != "pruned" else finite(trial.value)
                hollow = {"mfc": "white"} if trial.state == "pruned" else {}
                if trial.state == "diverged":
                    axes.plot([bad], [y], "x", color=BAD, ms=7, mew=2, clip_on=False, zorder=4)
                elif value is not None and not low <= value <= high:
                    axes.plot([bad], [y], marker, color=ink, ms=6, clip_on=False, **hollow)
                elif value is not None:
                    axes.plot([value], [y], "o", color=ink, ms=4.2, alpha=0.85, **hollow)
            if group.mean is not None and low <= group.mean <= high:
                axes.plot([group.mean], [y], "|", color=ink, ms=13, mew=2.2)
            if any(trial.state == "diverged" for trial in group.trials):
                side, shift = ("left", 7) if maximize else ("right", -7)
                axes.annotate(
                    "diverged", (bad, y), (shift, 0), textcoords="offset points", ha=side, va="center",
                    color=BAD, fontsize=8.5,
                )  # fmt: skip
        if len({group.index for group in references}) == 1 and references[0].mean is not None:
            axes.axvline(references[0].mean, color="#868e96", ls="--", lw=1, zorder=0)
        labels = [shortened(values_text(group.values, names, len(names) > 1), LONGEST_NAME) for group in rows]
        for text in axes.set_yticks(range(len(rows)), labels) and axes.get_yticklabels():
            text.set_parse_math(False)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(label).set_parse_math(False)
        axes.grid(alpha=0.25)

    size = (WIDTH, 0.9 + 0.27 * len(rows))
    return picture(
        f"{results.name}: {label} by group", draw, f"{label} of each group, best first", size, FONT
    )
