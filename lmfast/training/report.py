"""report.html: one run, or several side by side, on a self-contained page.

Reads run folders (metrics.jsonl, run.json, config.yaml, samples/, evaluations/). Up to three runs are columns of the
table, more are rows. Plots are inline SVG from matplotlib; without matplotlib the page has only tables.
"""

import html
import io
import math
import statistics
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmfast.files import atomic_write
from lmfast.training.report_tasks import task_section
from lmfast.training.run_folder import read_facts, read_metrics
from lmfast.units import duration

COLOURS = ("#2563eb", "#d9480f", "#2b8a3e", "#9c36b5", "#0b7285", "#a61e4d", "#5c940d", "#495057")
LINES = ("-", "--", ":")  # the next style when all colours are used
COLUMNS = 3  # maximum number of runs shown as columns; more are rows
NAMED = 4  # maximum number of runs in a legend; more would hide the curves, and the table has the colours
POINTS = 200  # points of the throughput curve
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

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1e21; background: #fff; max-width: 1160px; margin: 2rem auto;
       padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
.plots { display: grid; grid-template-columns: repeat(2, 1fr); gap: 1rem; } .plots svg { width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #e3e5e8; vertical-align: top; }
th { color: #555; font-weight: 600; } .note { color: #555; } .key { display: inline-block; width: .8em; height: .8em;
margin-right: .4em; border-radius: 2px; box-sizing: border-box; }
table.rows :is(td, th) { font-size: 13px; padding-right: .6rem; }
table.rows td:first-child { overflow-wrap: anywhere; min-width: 8em; position: relative; padding-left: 1.3em; }
table.rows .key { position: absolute; left: 0; top: .65em; }
blockquote { margin: .6rem 0; padding: .6rem 1rem; background: #f5f6f7;
border-left: 3px solid #c9ccd1; white-space: pre-wrap; } details { margin: .6rem 0; } pre { overflow-x: auto; }
@media (max-width: 800px) { .plots { grid-template-columns: 1fr; } }
"""


def write_report(folders: Sequence[Path], output: Path) -> None:
    """Writes the page for the run folders to `output`, atomically."""
    runs = [_Run(Path(folder)) for folder in folders]
    if len({run.name for run in runs}) < len(runs):
        for run, folder in zip(runs, folders, strict=True):
            run.name = str(folder)
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(output) as temporary:
        temporary.write_text(_page(runs), encoding="utf-8", errors="replace")  # a path need not be UTF-8


class _Run:
    """The contents of a run folder."""

    def __init__(self, folder: Path):
        self.name, self.folder = folder.name or str(folder), folder
        self.metrics = [_numbers(line) for line in read_metrics(folder) if isinstance(line, dict)]
        self.facts = read_facts(folder)
        config = folder / "config.yaml"
        self.config = _text(config) if config.exists() else ""
        samples = sorted((folder / "samples").glob("step_*.txt"))
        self.samples = [path for path in samples if path.stem.removeprefix("step_").isdecimal()]

    def series(self, x: str, y: str) -> tuple[list, list]:
        points = [(m[x], m[y]) for m in self.metrics if x in m and y in m]
        return [p[0] for p in points], [p[1] for p in points]

    def last(self, name: str):
        return next((m[name] for m in reversed(self.metrics) if name in m), None)

    def median(self, name: str):
        """The median of a metric, which is robust against slow steps on a busy machine."""
        values = sorted(m[name] for m in self.metrics if name in m)
        return values[len(values) // 2] if values else None


def _numbers(line: dict) -> dict:
    """The numbers in a line of metrics; another program may have added text or null."""
    return {name: value for name, value in line.items() if isinstance(value, int | float)}


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
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _summary(runs: list[_Run]) -> str:
    """A table with one column per run, or with many runs one row per run, without values that no run has."""
    figures = [
        ("steps", [_number(run.last("step")) for run in runs]),
        ("tokens", [_number(run.last("tokens")) for run in runs]),
        ("time", ["" if (s := run.last("seconds")) is None else duration(s) for run in runs]),
        ("parameters", [_number(run.facts.get("parameters")) for run in runs]),
        ("training loss, last step", [_number(run.last("train_loss"), 4) for run in runs]),
        ("validation loss", [_number(run.last("val_loss"), 4) for run in runs]),
        ("bits per byte", [_number(run.last("bits_per_byte"), 4) for run in runs]),
        ("held-out pairs ranked correctly", [_percent(run.last("val_rewards/accuracies")) for run in runs]),
        ("held-out reward margin", [_number(run.last("val_rewards/margins"), 3) for run in runs]),
        (
            "change of the log-probability of held-out chosen answers",
            [_percent(run.last("val_logps/chosen_change")) for run in runs],
        ),
        (
            "entropy of the corpus, bits per byte (floor)",
            [_number(run.facts.get("floor_bits_per_byte"), 4) for run in runs],
        ),
        ("tokens per second, median", [_number(run.median("tokens_per_second"), 0) for run in runs]),
        ("MFU, median", [_percent(run.median("mfu")) for run in runs]),
        ("device", [run.facts.get("device", "") for run in runs]),
        ("peak for MFU", [_peak(run.facts) for run in runs]),
        ("software", [_software(run.facts) for run in runs]),
    ]
    figures = [(name, cells) for name, cells in figures if any(cells)]
    names = _headings(runs)
    if len(runs) <= COLUMNS:
        head = "".join(f"<th>{name}</th>" for name in names)
        body = "".join(f"<tr><th>{name}</th>{_cells(cells)}</tr>" for name, cells in figures)
        return f"<table><tr><th></th>{head}</tr>{body}</table>"
    shared = [(name, cells[0]) for name, cells in figures if name in SHARED and len(set(cells)) == 1]
    figures = [figure for figure in figures if (figure[0], figure[1][0]) not in shared]
    common = "".join(f"<br>{name}: {html.escape(cell)}" for name, cell in shared)
    head = "".join(f"<th>{name}</th>" for name, _ in figures)
    body = "".join(
        f"<tr><td>{name}</td>{_cells([cells[i] for _, cells in figures])}</tr>"
        for i, name in enumerate(names)
    )
    return (
        f'<p class="note">All {len(runs)} runs:{common}</p>' if shared else ""
    ) + f'<table class="rows"><tr><th>run</th>{head}</tr>{body}</table>'


def _headings(runs: list[_Run]) -> list[str]:
    """The names of the runs with their colours."""
    return [f"{_key(i)}{html.escape(run.name)}" for i, run in enumerate(runs)]


def _cells(cells: Sequence[str]) -> str:
    return "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)


def _key(i: int) -> str:
    """The colour key of a run, with a dashed border if its curves are dashed."""
    style = f"background:{_colour(i)}" if _line(i) == "-" else f"border:2px dashed {_colour(i)}"
    return f'<span class="key" style="{style}"></span>'


def _plots(runs: list[_Run]) -> str:
    try:
        import matplotlib
    except ImportError:
        return '<p class="note">No curves: matplotlib is not installed.</p>'
    matplotlib.use("svg")
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    pictures = []
    for title, x, names, x_label, y_label in PLOTS:
        if not any(run.series(x, name)[0] for run in runs for name in names):
            continue
        # Fixed ids and no date, so that equal metrics give equal pages.
        with rc_context({"svg.hashsalt": title, "font.size": 10, "svg.fonttype": "none"}):
            figure = Figure(figsize=(5.6, 3.4), layout="constrained")
            axes = figure.add_subplot()
            values, tops, legend, thin = [], [], [], False
            for i, run in enumerate(runs):
                there = [name for name in names if run.series(x, name)[0]]
                thin |= len(there) > 1
                for name in there:
                    xs, ys = run.series(x, name)
                    if name == "tokens_per_second":
                        xs, ys = _medians(xs, ys)
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
                    (line,) = axes.plot(xs, ys, color=_colour(i), ls=_line(i), marker=marker, ms=3.5, **style)
                    if len(runs) == 1:
                        legend.append((line, name.replace("_", " ")))
                    elif name == there[-1] and len(runs) <= NAMED:
                        legend.append((line, run.name))  # one legend entry per run
            if names == ("bits_per_byte",):
                floors = {run.facts.get("floor_bits_per_byte") for run in runs}
                for floor in sorted(floor for floor in floors if floor is not None):
                    line = axes.axhline(floor, color="#495057", ls=":", lw=1.2)
                    legend.append((line, f"floor {floor:.3f}"))
                    values.append(floor)
            if y_label == "loss":
                y_label = f"loss, {_loss_unit(runs)}"
            if len(runs) > 1 and thin:
                title += " (thin: training)"
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
                _add_legend(axes, legend)
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.25)
            buffer = io.StringIO()
            with warnings.catch_warnings():  # the browser renders the text with its own fonts
                warnings.filterwarnings("ignore", "Glyph .* missing from font")
                figure.savefig(buffer, format="svg", metadata={"Date": None})
            pictures.append(
                "<figure style='margin:0'>"
                + buffer.getvalue().split("?>", 1)[1].split(">", 1)[1]
                + "</figure>"
            )
    return "".join(pictures) or '<p class="note">Nothing was logged yet.</p>'


def _add_legend(axes, legend: list) -> None:
    """A legend with literal names: matplotlib would parse $x$ as mathematics and hide names starting with an underscore."""
    lines = [line for line, _ in legend]
    shown = axes.legend(lines, [f"{i}" for i in range(len(lines))], edgecolor="none", framealpha=0.85)
    for text, (_, name) in zip(shown.get_texts(), legend, strict=True):
        text.set_parse_math(False)
        text.set_text(name)


def _medians(xs: list, ys: list) -> tuple[list, list]:
    """Medians of POINTS intervals: 20,000 noisy points would look like a solid block."""
    size = math.ceil(len(xs) / POINTS)
    starts = range(0, len(xs), max(size, 1))
    return [xs[min(i + size // 2, len(xs) - 1)] for i in starts], [
        statistics.median(ys[i : i + size]) for i in starts
    ]


def _loss_unit(runs: list[_Run]) -> str:
    """The unit of the loss: nats per token, or per pair for preferences."""
    of_pairs = [run.facts.get("stage") == "dpo" for run in runs]
    if all(of_pairs):
        return "mean over pairs"
    return "nats per token" + (" (dpo: mean over pairs)" if any(of_pairs) else "")


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _line(i: int) -> str:
    return LINES[i // len(COLOURS) % len(LINES)]


def _number(value, digits: int | None = None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if digits is None else f"{value:,.{digits}f}"


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
