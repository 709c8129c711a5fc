"""report.html: one run, or several side by side, on a self-contained page.

Reads run folders (metrics.jsonl, run.json, config.yaml, samples/, evaluations/). Up to three runs are columns of the
table, more are rows. Plots are inline SVG from matplotlib; without matplotlib the page has only tables.
"""

import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmfast.files import atomic_write
from lmfast.training.html_page import data_cells, document, number
from lmfast.training.plotting import add_legend, can_plot, colour, interval_medians, line_style, picture
from lmfast.training.report_tasks import task_section
from lmfast.training.run_metrics import RunMetrics
from lmfast.units import duration

COLUMNS = 3  # maximum number of runs shown as columns; more are rows
NAMED = 4  # maximum number of runs in a legend; more would hide the curves, and the table has the colours
SHARED = ("entropy of the corpus, bits per byte (floor)", "device", "peak for MFU", "software")
"""values printed above a table of rows if they are equal for all runs"""

PLOTS = (
    ("Loss against steps", "step", ("train_loss", "val_loss"), "step", "loss"),
    ("Loss against time", "seconds", ("train_loss", "val_loss"), "seconds", "loss"),
    ("Loss against tokens", "tokens", ("train_loss", "val_loss"), "tokens", "loss"),
    ("Bits per byte", "step", ("bits_per_byte",), "step", "bits per byte"),
    (
        "Pairs ranked correctly",
        "step",
        ("rewards/accuracies", "val_rewards/accuracies"),
        "step",
        "share of pairs",
    ),
    ("Reward margin", "step", ("rewards/margins", "val_rewards/margins"), "step", "chosen − rejected, nats"),
    (
        "Log-probability of the chosen answers",
        "step",
        ("logps/chosen", "val_logps/chosen"),
        "step",
        "nats per answer",
    ),
    ("Learning rate", "step", ("learning_rate",), "step", "learning rate"),
    ("Throughput", "step", ("tokens_per_second",), "step", "tokens per second"),
)


def write_report(folders: Sequence[Path], output: Path) -> None:
    """Writes the page for the run folders to `output`, atomically."""
    runs = [_Run(Path(folder)) for folder in folders]
    if len({run.name for run in runs}) < len(runs):
        for run, folder in zip(runs, folders, strict=True):
            run.name = str(folder)
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(output) as temporary:
        temporary.write_text(_page(runs), encoding="utf-8", errors="replace")  # a path need not be UTF-8


class _Run(RunMetrics):
    """The contents of a run folder."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        config = folder / "config.yaml"
        self.config = _text(config) if config.exists() else ""
        samples = sorted((folder / "samples").glob("step_*.txt"))
        self.samples = [path for path in samples if path.stem.removeprefix("step_").isdecimal()]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _page(runs: list[_Run]) -> str:
    # With many runs, the names are in the rows of the table.
    title = " · ".join(run.name for run in runs) if len(runs) <= COLUMNS else f"{len(runs)} runs"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="note">Loss: {_loss_unit(runs)}. MFU = 3 × (2 × matmul parameters + 4 × layers × d_model × T) FLOPs per '
        "token (T at most the window in windowed layers) × tokens/s ÷ the peak rate given below.</p>",
        _summary(runs),
        task_section(_headings(runs), [run.folder for run in runs]),
        f'<h2>Curves</h2><div class="plots">{_plots(runs)}</div>',
    ]
    for run in runs:
        if run.samples:
            parts.append(f"<h2>Samples: {html.escape(run.name)}</h2>")
            for i, path in enumerate(reversed(run.samples)):
                step = int(path.stem.removeprefix("step_"))
                body = html.escape(_text(path).strip())
                opened = " open" if i == 0 else ""
                parts.append(
                    f"<details{opened}><summary>step {step:,}</summary><blockquote>{body}</blockquote></details>"
                )
    for run in runs:
        text = html.escape(run.config)
        parts.append(
            f"<details><summary>config.yaml: {html.escape(run.name)}</summary><pre>{text}</pre></details>"
        )
    return document(title, "".join(parts))


def _summary(runs: list[_Run]) -> str:
    """A table with one column per run, or with many runs one row per run, without values that no run has."""
    figures = [
        ("steps", [number(run.last("step")) for run in runs]),
        ("tokens", [number(run.last("tokens")) for run in runs]),
        ("time", ["" if (s := run.last("seconds")) is None else duration(s) for run in runs]),
        ("parameters", [number(run.facts.get("parameters")) for run in runs]),
        ("training loss, last step", [number(run.last("train_loss"), 4) for run in runs]),
        ("validation loss", [number(run.last("val_loss"), 4) for run in runs]),
        ("bits per byte", [number(run.last("bits_per_byte"), 4) for run in runs]),
        ("held-out pairs ranked correctly", [_percent(run.last("val_rewards/accuracies")) for run in runs]),
        ("held-out reward margin", [number(run.last("val_rewards/margins"), 3) for run in runs]),
        (
            "change of the log-probability of held-out chosen answers",
            [_percent(run.last("val_logps/chosen_change")) for run in runs],
        ),
        (
            "entropy of the corpus, bits per byte (floor)",
            [number(run.facts.get("floor_bits_per_byte"), 4) for run in runs],
        ),
        ("tokens per second, median", [number(run.median("tokens_per_second"), 0) for run in runs]),
        ("MFU, median", [_percent(run.median("mfu")) for run in runs]),
        ("device", [run.facts.get("device", "") for run in runs]),
        ("peak for MFU", [_peak(run.facts) for run in runs]),
        ("software", [_software(run.facts) for run in runs]),
    ]
    figures = [(name, cells) for name, cells in figures if any(cells)]
    names = _headings(runs)
    if len(runs) <= COLUMNS:
        head = "".join(f"<th>{name}</th>" for name in names)
        body = "".join(f"<tr><th>{name}</th>{data_cells(cells)}</tr>" for name, cells in figures)
        return f"<table><tr><th></th>{head}</tr>{body}</table>"
    shared = [(name, cells[0]) for name, cells in figures if name in SHARED and len(set(cells)) == 1]
    figures = [figure for figure in figures if (figure[0], figure[1][0]) not in shared]
    common = "".join(f"<br>{name}: {html.escape(cell)}" for name, cell in shared)
    head = "".join(f"<th>{name}</th>" for name, _ in figures)
    body = "".join(
        f"<tr><td>{name}</td>{data_cells([cells[i] for _, cells in figures])}</tr>"
        for i, name in enumerate(names)
    )
    return (
        f'<p class="note">All {len(runs)} runs:{common}</p>' if shared else ""
    ) + f'<table class="rows"><tr><th>run</th>{head}</tr>{body}</table>'


def _headings(runs: list[_Run]) -> list[str]:
    """The names of the runs with their colours."""
    return [f"{_key(i)}{html.escape(run.name)}" for i, run in enumerate(runs)]


def _key(i: int) -> str:
    """The colour key of a run, with a dashed border if its curves are dashed."""
    style = f"background:{colour(i)}" if line_style(i) == "-" else f"border:2px dashed {colour(i)}"
    return f'<span class="key" style="{style}"></span>'


def _plots(runs: list[_Run]) -> str:
    if not can_plot():
        return '<p class="note">No curves: matplotlib is not installed.</p>'
    pictures = [
        _plot(runs, *plot)
        for plot in PLOTS
        if any(run.series(plot[1], name)[0] for run in runs for name in plot[2])
    ]
    return "".join(pictures) or '<p class="note">Nothing was logged yet.</p>'


def _plot(runs: list[_Run], title: str, x: str, names: tuple[str, ...], x_label: str, y_label: str) -> str:
    thin = any(sum(bool(run.series(x, name)[0]) for name in names) > 1 for run in runs)
    if y_label == "loss":
        y_label = f"loss, {_loss_unit(runs)}"
    if len(runs) > 1 and thin:
        title += " (thin: training)"

    def draw(axes: Any) -> None:
        from matplotlib.ticker import EngFormatter

        values, tops, legend = [], [], []
        for i, run in enumerate(runs):
            there = [name for name in names if run.series(x, name)[0]]
            for name in there:
                xs, ys = run.series(x, name)
                if name == "tokens_per_second":
                    xs, ys = interval_medians(xs, ys)
                finite = [y for y in ys if math.isfinite(y)]
                values += finite
                tops += sorted(finite)[int(0.97 * len(finite)) :][:1]
                style: dict[str, Any] = (
                    {"lw": 1.0, "alpha": 0.55}
                    if len(names) > 1 and not name.startswith("val_")
                    else {"lw": 1.8}
                )
                sparse = name.startswith("val_") or name == "bits_per_byte"
                marker = "o" if sparse or len(finite) == 1 else None  # a single point has no line
                (line,) = axes.plot(xs, ys, color=colour(i), ls=line_style(i), marker=marker, ms=3.5, **style)
                if len(runs) == 1:
                    legend.append((line, name.replace("_", " ")))
                elif name == there[-1] and len(runs) <= NAMED:
                    legend.append((line, run.name))  # one legend entry per run
        if "bits_per_byte" in names:
            floors = {run.facts.get("floor_bits_per_byte") for run in runs}
            for floor in sorted(floor for floor in floors if floor is not None):
                line = axes.axhline(floor, color="#495057", ls=":", lw=1.2)
                legend.append((line, f"floor {floor:.3f}"))
                values.append(floor)
        axes.set(title=title, xlabel=x_label, ylabel=y_label)
        for axis, name in ((axes.xaxis, x), (axes.yaxis, names[0])):
            if name.startswith("tokens"):
                axis.set_major_formatter(EngFormatter(sep=" "))
        if "loss" in y_label and len(values) > 20:
            # The losses of the first steps would flatten the curve. Limits come from each curve, as runs may be short.
            low, top = min(values), max(tops)
            if max(values) - low > 1.5 * (top - low):
                axes.set_ylim(low - 0.03 * (top - low), top)
        if len(legend) > (len(runs) <= NAMED):  # a single curve needs no legend
            add_legend(axes, legend)
        axes.grid(alpha=0.25)

    return picture(title, draw)


def _loss_unit(runs: list[_Run]) -> str:
    """The unit of the loss: nats per token, or per pair for preferences."""
    of_pairs = [run.facts.get("stage") == "dpo" for run in runs]
    if all(of_pairs):
        return "mean over pairs"
    return "nats per token" + (" (dpo: mean over pairs)" if any(of_pairs) else "")


def _percent(value) -> str:
    return "" if value is None else f"{value:.1%}"


def _peak(facts: dict) -> str:
    if "peak_flops" not in facts:
        return ""
    rate = facts["peak_flops"]
    shown = f"{rate / 1e12:.3g} TFLOP/s" if rate >= 1e12 else f"{rate / 1e9:.3g} GFLOP/s"
    return f"{shown} ({facts['peak_source']})"


def _software(facts: dict) -> str:
    return ", ".join(f"{name} {facts[name]}" for name in ("torch", "python", "system") if name in facts)
