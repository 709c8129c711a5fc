"""The curves of report.html, as pictures.

One picture per entry of PLOTS that a run has values for, with a line per run. Text statistics and tasks: of one run, a
picture with a line per name; of several runs, a picture per name.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from lmfast.training.plotting import add_legend, can_plot, colour, interval_medians, line_style, picture
from lmfast.training.run_metrics import RunMetrics
from lmfast.training.task_metrics import task_names

NAMED = 4  # maximum number of runs in a legend; more would hide the curves, and the table has the colours
TASKS = 6  # maximum number of tasks in a picture


class Plot(NamedTuple):
    """A picture. names: of its metrics. by_name: one run, with a colour per name."""

    title: str
    x: str
    names: tuple[str, ...]
    x_label: str
    y_label: str
    by_name: bool = False


PLOTS = (
    Plot("Loss against steps", "step", ("train_loss", "val_loss"), "step", "loss"),
    Plot("Loss against time", "seconds", ("train_loss", "val_loss"), "seconds", "loss"),
    Plot("Loss against tokens", "tokens", ("train_loss", "val_loss"), "tokens", "loss"),
    Plot("Bits per byte", "step", ("bits_per_byte",), "step", "bits per byte"),
    Plot(
        "Pairs ranked correctly",
        "step",
        ("rewards/accuracies", "val_rewards/accuracies"),
        "step",
        "share of pairs",
    ),
    Plot(
        "Reward margin", "step", ("rewards/margins", "val_rewards/margins"), "step", "chosen − rejected, nats"
    ),
    Plot(
        "Log-probability of the chosen answers",
        "step",
        ("logps/chosen", "val_logps/chosen"),
        "step",
        "nats per answer",
    ),
    Plot("Largest share of an expert", "step", ("expert_load_max",), "step", "share of tokens"),
    Plot("Smallest share of an expert", "step", ("expert_load_min",), "step", "share of tokens"),
    Plot("Learning rate", "step", ("learning_rate",), "step", "learning rate"),
    Plot("Throughput", "step", ("tokens_per_second",), "step", "tokens per second"),
)
QUALITY = 4
"""of PLOTS, those before the curves of text and tasks"""
TEXT = ("distinct_1", "distinct_2", "distinct_3", "repetition", "known_words")
"""statistics of the samples (lmfast/data/text_statistics.py)"""


def plots(runs: Sequence[RunMetrics]) -> str:
    """All pictures as HTML."""
    if not can_plot():
        return '<p class="note">No curves: matplotlib is not installed.</p>'
    pictures = [
        _picture(runs, plot)
        for plot in [*PLOTS[:QUALITY], *_text_plots(runs), *_task_plots(runs), *PLOTS[QUALITY:]]
        if any(run.series(plot.x, name)[0] for run in runs for name in plot.names)
    ]
    return "".join(pictures) or '<p class="note">Nothing was logged yet.</p>'


def _text_plots(runs: Sequence[RunMetrics]) -> list[Plot]:
    if len(runs) == 1:
        return [Plot("Text of the samples", "step", TEXT, "step", "share", by_name=True)]
    return [Plot(f"Samples: {_label(name)}", "step", (name,), "step", "share") for name in TEXT]


def _task_plots(runs: Sequence[RunMetrics]) -> list[Plot]:
    names = sorted({name for run in runs for line in run.metrics for name in task_names(line)})
    if len(runs) > 1:
        return [
            Plot(": ".join(name.rsplit("/", 1)), "step", (name,), "step", _metric(name)) for name in names
        ]
    found: list[Plot] = []
    for metric in dict.fromkeys(map(_metric, names)):
        chosen = [name for name in names if _metric(name) == metric]
        for i in range(0, len(chosen), TASKS):
            title = f"Tasks: {metric}" + (f" ({i // TASKS + 1})" if len(chosen) > TASKS else "")
            part = tuple(chosen[i : i + TASKS])
            found.append(Plot(title, "step", part, "step", metric, by_name=True))
    return found


def _metric(name: str) -> str:
    """acc of arc_easy/acc."""
    return name.rpartition("/")[2]


def _label(name: str) -> str:
    """A metric in a legend: the name of its task, or its own."""
    return name.rpartition("/")[0] if task_names([name]) else name.replace("_", " ")


def _picture(runs: Sequence[RunMetrics], plot: Plot) -> str:
    title, x, names, x_label, y_label, by_name = plot
    first = names[0]
    thin = any(sum(bool(run.series(x, name)[0]) for name in names) > 1 for run in runs)
    if y_label == "loss":
        y_label = f"loss, {loss_unit(runs)}"
    if len(runs) > 1 and thin:
        title += " (thin: training)"

    def draw(axes: Any) -> None:
        from matplotlib.ticker import EngFormatter

        values, tops, legend = [], [], []
        for i, run in enumerate(runs):
            there = [name for name in names if run.series(x, name)[0]]
            for place, name in enumerate(there):
                xs, ys = run.series(x, name)
                if name == "tokens_per_second":
                    xs, ys = interval_medians(xs, ys)
                finite = [y for y in ys if math.isfinite(y)]
                values += finite
                tops += sorted(finite)[int(0.97 * len(finite)) :][:1]
                style: dict[str, Any] = (
                    {"lw": 1.0, "alpha": 0.55}
                    if len(names) > 1 and not by_name and not name.startswith("val_")
                    else {"lw": 1.8}
                )
                sparse = name.startswith("val_") or name in ("bits_per_byte", *TEXT) or task_names([name])
                marker = "o" if sparse or len(finite) == 1 else None  # a single point has no line
                look = {"color": colour(place if by_name else i), "ls": line_style(i), "marker": marker}
                (line,) = axes.plot(xs, ys, ms=3.5, **look, **style)
                if len(runs) == 1:
                    legend.append((line, _label(name)))
                elif name == there[-1] and len(runs) <= NAMED:
                    legend.append((line, run.name))  # one legend entry per run
        if "bits_per_byte" in names:
            floors = {run.facts.get("floor_bits_per_byte") for run in runs}
            for floor in sorted(floor for floor in floors if floor is not None):
                line = axes.axhline(floor, color="#495057", ls=":", lw=1.2)
                legend.append((line, f"floor {floor:.3f}"))
                values.append(floor)
        axes.set(title=title, xlabel=x_label, ylabel=y_label)
        for axis, name in ((axes.xaxis, x), (axes.yaxis, first)):
            if name.startswith("tokens"):
                axis.set_major_formatter(EngFormatter(sep=" "))
        if "loss" in y_label and len(values) > 20:
            # The losses of the first steps would flatten the curve. Limits come from each curve, as runs may be short.
            low, top = min(values), max(tops)
            if max(values) - low > 1.5 * (top - low):
                axes.set_ylim(low - 0.03 * (top - low), top)
        if len(legend) > (len(runs) <= NAMED and not by_name):  # a single curve needs no legend
            add_legend(axes, legend)
        axes.grid(alpha=0.25)

    return picture(title, draw)


def loss_unit(runs: Sequence[RunMetrics]) -> str:
    """The unit of the loss: nats per token, or per pair for preferences."""
    of_pairs = [run.facts.get("stage") == "dpo" for run in runs]
    if all(of_pairs):
        return "mean over pairs"
    return "nats per token" + (" (dpo: mean over pairs)" if any(of_pairs) else "")
