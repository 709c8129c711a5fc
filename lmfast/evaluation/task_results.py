"""The results of tasks as a JSON file and as a table. Does not import lm_eval.

The file is RUN/evaluations/CHECKPOINT_TASKS[_Nshot][_first_N][_chat].json; the same evaluation replaces it.
lmfast/training/report_tasks.py reads it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lmfast.files import atomic_write

LONGEST_NAME = 80  # characters of the task names in a file's name


class Metric(NamedTuple):
    """A row of the table. stderr: None if lm-eval computes none. higher_is_better: None if unknown."""

    task: str
    metric: str
    value: float
    stderr: float | None
    shots: int | None
    examples: int | None
    higher_is_better: bool | None


def metrics_of(found: Mapping[str, Any]) -> list[Metric]:
    """The numbers in lm-eval's results, tasks first, then groups. A filter other than "none" is part of the name."""
    rows = []
    for task, values in {**found["results"], **found.get("groups", {})}.items():
        for key, value in values.items():
            name, _, chosen_filter = key.partition(",")
            if not chosen_filter or name.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = values.get(f"{name}_stderr,{chosen_filter}")
            better = found.get("higher_is_better", {}).get(task, {}).get(name)
            shown = name if chosen_filter == "none" else f"{name} ({chosen_filter})"
            counts = found.get("n-samples", {}).get(task, {})
            rows.append(
                Metric(
                    task,
                    shown,
                    float(value),
                    float(stderr) if isinstance(stderr, int | float) else None,
                    found.get("n-shot", {}).get(task),
                    counts.get("effective", values.get("sample_len")),
                    better,
                )
            )
    return rows


def table(metrics: Sequence[Metric]) -> str:
    """A table in plain text, whose columns are aligned. The column of standard errors is left out if it is empty."""
    rows = [("task", "metric", "value", "± stderr", "shots", "examples")]
    for m in metrics:
        arrow = {True: " ↑", False: " ↓", None: ""}[m.higher_is_better]
        stderr = "" if m.stderr is None else f"{m.stderr:.4f}"
        shots, examples = ("" if n is None else f"{n:,}" for n in (m.shots, m.examples))
        rows.append((m.task, m.metric + arrow, f"{m.value:.4f}", stderr, shots, examples))
    if all(m.stderr is None for m in metrics):
        rows = [row[:3] + row[4:] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def result_path(run: Path, checkpoint: str, settings: Mapping[str, Any]) -> Path:
    """The file of an evaluation. settings: tasks, num_fewshot, limit and apply_chat_template."""
    name = "+".join(settings["tasks"])
    if len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}+"
    if settings["num_fewshot"] is not None:
        name += f"_{settings['num_fewshot']}shot"
    if settings["limit"] is not None:
        name += f"_first_{settings['limit']:g}"
    if settings["apply_chat_template"]:
        name += "_chat"
    return run / "evaluations" / f"{checkpoint}_{name.replace('/', '-')}.json"


def write_results(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON, atomically, and creates the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(
            json.dumps(content, indent=1, ensure_ascii=False, default=_plain) + "\n", encoding="utf-8"
        )


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's; other objects, which tasks may have in their results, as text."""
    return value.item() if hasattr(value, "item") else str(value)
