"""report.html: one run, or several side by side, on a self-contained page.

Reads run folders (metrics.jsonl, run.json, config.yaml, samples/, evaluations/). Up to three runs are columns of the
table, more are rows. Plots are inline SVG from matplotlib; without matplotlib the page has only tables.
"""

import html
from collections.abc import Sequence
from pathlib import Path

from lmfast.files import atomic_write
from lmfast.training.html_page import data_cells, document, number, scrolling
from lmfast.training.plotting import colour, line_style
from lmfast.training.report_plots import loss_unit, plots
from lmfast.training.report_tasks import task_section
from lmfast.training.run_metrics import RunMetrics
from lmfast.units import duration

COLUMNS = 3  # maximum number of runs shown as columns; more are rows
TEXT_FIGURES = {
    "distinct_2": "distinct pairs of words in the samples",
    "repetition": "repeated 4-grams in the samples",
    "known_words": "known words in the samples",
}
SHARED = ("entropy of the corpus, bits per byte (floor)", "device", "peak for MFU", "software")
"""values printed above a table of rows if they are equal for all runs"""


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


def _page(runs: Sequence[_Run]) -> str:
    # With many runs, the names are in the rows of the table.
    title = " · ".join(run.name for run in runs) if len(runs) <= COLUMNS else f"{len(runs)} runs"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="note">Loss: {loss_unit(runs)}. MFU = 3 × (2 × matmul parameters + 4 × layers × d_model × T) FLOPs per '
        "token (T at most the window in windowed layers) × tokens/s ÷ the peak rate given below.</p>",
        _summary(runs),
        task_section(_headings(runs), [run.folder for run in runs]),
        f'<h2>Curves</h2><div class="plots">{plots(runs)}</div>',
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


def _summary(runs: Sequence[_Run]) -> str:
    """A table with one column per run, or with many runs one row per run, without values that no run has."""
    figures = [
        ("steps", [number(run.last("step")) for run in runs]),
        ("tokens", [number(run.last("tokens")) for run in runs]),
        ("time", ["" if (s := run.last("seconds")) is None else duration(s) for run in runs]),
        ("parameters", [number(run.facts.get("parameters")) for run in runs]),
        ("training loss, last step", [number(run.last("train_loss"), 4) for run in runs]),
        ("validation loss", [number(run.last("val_loss"), 4) for run in runs]),
        ("bits per byte", [number(run.last("bits_per_byte"), 4) for run in runs]),
        *((name, [_percent(run.last(key)) for run in runs]) for key, name in TEXT_FIGURES.items()),
        ("largest share of tokens of an expert", [_percent(run.last("expert_load_max")) for run in runs]),
        ("smallest share of tokens of an expert", [_percent(run.last("expert_load_min")) for run in runs]),
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
        return scrolling(f"<table><tr><th></th>{head}</tr>{body}</table>", "runs")
    shared = [(name, cells[0]) for name, cells in figures if name in SHARED and len(set(cells)) == 1]
    figures = [figure for figure in figures if (figure[0], figure[1][0]) not in shared]
    common = "".join(f"<br>{name}: {html.escape(cell)}" for name, cell in shared)
    head = "".join(f"<th>{name}</th>" for name, _ in figures)
    body = "".join(
        f"<tr><td>{name}</td>{data_cells([cells[i] for _, cells in figures])}</tr>"
        for i, name in enumerate(names)
    )
    return (f'<p class="note">All {len(runs)} runs:{common}</p>' if shared else "") + scrolling(
        f'<table class="rows"><tr><th>run</th>{head}</tr>{body}</table>', "runs"
    )


def _headings(runs: Sequence[_Run]) -> list[str]:
    """The names of the runs with their colours."""
    return [f"{_key(i)}{html.escape(run.name)}" for i, run in enumerate(runs)]


def _key(i: int) -> str:
    """The colour key of a run, with a dashed border if its curves are dashed."""
    style = f"background:{colour(i)}" if line_style(i) == "-" else f"border:2px dashed {colour(i)}"
    return f'<span class="key" style="{style}"></span>'


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
