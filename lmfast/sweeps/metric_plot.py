"""The metric against a numeric setting: every trial as a point, a line through the means over seeds.

Diverged trials are crosses in a strip at the edge where bad values are, pruned trials are hollow, and values outside the
range of good runs are triangles at the edge. If further settings were searched, a line joins the best mean at each value.
"""

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

from lmfast.sweeps.axes import good_range, is_power_of_two, numbers_of, value_of
from lmfast.sweeps.groups import Group, choice_position, finite, resolved, score
from lmfast.sweeps.trials import Results, Trial
from lmfast.sweeps.wording import metric_label, setting_text
from lmfast.training.plotting import colour, picture

SIZE = (4.7, 3.4)  # inches; a phone shows it at three quarters of this size, a desktop enlarges it by a third
FONT = 9.5
MOST_TICKS = 10  # values of a setting that are all labelled
STRIP = 0.11  # height of the strip of diverged trials, as a share of the plot
BAD = "#c92a2a"
GREY = "#495057"


class Mark(NamedTuple):
    """A trial in the plot. line: number of its line. y: None if it is in the strip."""

    trial: Trial
    x: float
    line: int
    y: float | None


def metric_plot(
    results: Results, groups: list[Group], x: str, lines: str | None = None, join: bool = True
) -> str:
    """The picture, with a legend. lines: the setting with a line per value, or None. join: draw the lines."""
    keys = _line_values(results, groups, lines)
    marks = _marks(results, groups, x, lines, keys)
    shown = [mark.y for mark in marks if mark.y is not None and mark.trial.state == "complete"]
    label, maximize = metric_label(results.metric), results.direction == "maximize"

    def draw(axes: Any) -> None:
        edges = _limits(axes, shown, maximize, any(mark.y is None for mark in marks))
        for i in range(len(keys)):
            xs, ys = _means(results, groups, x, lines, keys[i])
            style = "-" if join and len(xs) > 1 and _is_grid(results, x) else "none"
            axes.plot(xs, ys, color=colour(i), ls=style, lw=1.6)
        inside = [mark for mark in marks if mark.y is not None and edges[0] <= mark.y <= edges[1]]
        for mark in inside:
            hollow = {"mfc": "white"} if mark.trial.state == "pruned" else {}
            axes.plot(
                [mark.x], [mark.y], "o", color=colour(mark.line), ms=4.2, alpha=0.85, zorder=3, **hollow
            )
        _scale(axes, numbers_of(results, groups, x))
        _draw_outside(axes, [mark for mark in marks if mark.y is not None and mark not in inside], edges)
        _draw_strip(axes, [mark for mark in marks if mark.y is None], maximize)
        axes.set_xlabel(x)
        axes.set_ylabel(label).set_parse_math(False)
        axes.grid(alpha=0.25)

    spoken = f"{label} against {x}" + (f", by {lines}" if lines else "")
    return _legend(lines, keys) + picture(f"{results.name}: {spoken}", draw, spoken, SIZE, FONT)


def _legend(lines: str | None, keys: Sequence[Any]) -> str:
    """Above the picture, as HTML, because long names would not fit into it."""
    if len(keys) < 2:
        return ""
    entries = "".join(
        f'<span><span class="key" style="background:{colour(i)}"></span>{html.escape(setting_text(key))}</span>'
        for i, key in enumerate(keys)
    )
    return f'<p class="legend">{html.escape(lines or "")}: {entries}</p>'


def _line_values(results: Results, groups: list[Group], lines: str | None) -> list[Any]:
    if lines is None:
        return [None]
    values = {repr(value): value for group in groups for value in [value_of(results, group, lines)]}
    return sorted(values.values(), key=lambda value: choice_position(results, lines, value))


def _marks(
    results: Results, groups: list[Group], x: str, lines: str | None, keys: Sequence[Any]
) -> list[Mark]:
    found = []
    for group in groups:
        place = finite(resolved(results, group).get(x))
        line = keys.index(value_of(results, group, lines)) if lines else 0
        for trial in group.trials:
            value = score(trial) if trial.state != "pruned" else finite(trial.value)
            if place is not None and (value is not None or trial.state == "diverged"):
                found.append(Mark(trial, place, line, None if trial.state == "diverged" else value))
    return found


def _means(
    results: Results, groups: list[Group], x: str, lines: str | None, key: Any
) -> tuple[list[float], list[float]]:
    """The best mean over seeds at each x, of the groups on a line."""
    best: dict[float, float] = {}
    choose = max if results.direction == "maximize" else min
    for group in groups:
        place, mean = finite(resolved(results, group).get(x)), group.mean
        if place is None or mean is None or (lines and value_of(results, group, lines) != key):
            continue
        best[place] = choose(best.get(place, mean), mean)
    return sorted(best), [best[place] for place in sorted(best)]


def _is_grid(results: Results, x: str) -> bool:
    """Whether x takes values from a list; random values are not joined by lines."""
    return isinstance(results.space.get(x, []), list)


def _limits(axes: Any, values: Sequence[float], maximize: bool, strip: bool) -> tuple[float, float]:
    """Sets the vertical limits; returns those without the strip."""
    low, high = good_range(values, maximize) if values else (0.0, 1.0)
    margin = 0.07 * (high - low) or 0.01 * abs(high) or 0.01
    low, high = low - margin, high + margin
    extra = (high - low) * STRIP / (1 - STRIP) if strip else 0.0
    axes.set_ylim(low - extra * maximize, high + extra * (not maximize))
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= high] if values else [])
    return low, high


def _scale(axes: Any, values: Sequence[float]) -> None:
    """A log axis if the values are positive and spread over a factor of three, with base 2 for powers of two."""
    from matplotlib.ticker import EngFormatter, FixedLocator, FuncFormatter, NullLocator

    if not values:
        return
    if values[0] > 0 and values[-1] >= 3 * values[0]:
        axes.set_xscale("log", base=2 if all(is_power_of_two(value) for value in values) else 10)
        axes.set_xlim(
            values[0] * (values[0] / values[-1]) ** 0.08, values[-1] * (values[-1] / values[0]) ** 0.08
        )
    if len(values) <= MOST_TICKS:
        axes.xaxis.set_major_locator(FixedLocator(list(values)))
        axes.xaxis.set_minor_locator(NullLocator())
        short = (
            EngFormatter(sep=" ")
            if values[0] >= 1 and values[-1] >= 10_000
            else FuncFormatter(lambda value, _: f"{value:.3g}")
        )
        axes.xaxis.set_major_formatter(short)
        if len(values) > 7:
            axes.tick_params(axis="x", labelrotation=35)


def _draw_outside(axes: Any, marks: Sequence[Mark], edges: tuple[float, float]) -> None:
    """Triangles at the edge, with the worst value of each."""
    low, high = edges
    for below in (True, False):
        at, sign, shift = (low, "▼", 10) if below else (high, "▲", -10)
        outside = [m for m in marks if m.y is not None and (m.y < low if below else m.y > high)]
        for x in sorted({mark.x for mark in outside}):
            here = [mark for mark in outside if mark.x == x]
            _draw_row(axes, sign, here, at, 9)
            values = {f"{mark.y:.3g}" for mark in here}
            worst = (min if below else max)(values, key=float).replace("-", "−")
            axes.annotate(
                worst if len(values) == 1 else f"to {worst}", (x, at), (0, shift), textcoords="offset points",
                ha="center", va="center", fontsize=7, color=GREY,
                bbox={"fc": "white", "ec": "none", "alpha": 0.8, "pad": 0.6},
            )  # fmt: skip


def _draw_row(axes: Any, sign: str, marks: Sequence[Mark], y: float, size: float) -> None:
    """Trials with the same x next to each other."""
    for i, mark in enumerate(sorted(marks, key=lambda mark: (mark.line, mark.trial.number))):
        axes.annotate(
            sign, (mark.x, y), (7 * (i - (len(marks) - 1) / 2), 0), textcoords="offset points", ha="center",
            va="center", fontsize=size, color=colour(mark.line), weight="bold", annotation_clip=False,
        )  # fmt: skip


def _draw_strip(axes: Any, marks: Sequence[Mark], maximize: bool) -> None:
    """Crosses of diverged trials."""
    from matplotlib.patches import Rectangle

    if not marks:
        return
    bottom = 0.0 if maximize else 1 - STRIP
    middle = bottom + STRIP / 2
    strip = Rectangle((0, bottom), 1, STRIP, transform=axes.transAxes, color="#fff0ee", lw=0, zorder=2.5)
    axes.add_patch(strip)  # hides lines that leave the range
    low, high = axes.get_ylim()
    xs = sorted({mark.x for mark in marks})
    for x in xs:
        _draw_row(axes, "×", [mark for mark in marks if mark.x == x], low + middle * (high - low), 13)
    left, right = axes.transAxes.inverted().transform(axes.transData.transform([(xs[0], 0), (xs[-1], 0)]))[
        :, 0
    ]
    place, side = ((0.015, middle), "left") if left > 0.3 else ((0.985, middle), "right")
    if left <= 0.3 and right >= 0.7:  # crosses on both sides
        place, side = (1, 1 + STRIP / 2), "right"
    axes.text(
        *place, "diverged", transform=axes.transAxes, ha=side, va="center", color=BAD, fontsize=8.5, zorder=3
    )
