"""The part of report.html with results on tasks: RUN/evaluations/*.json, which `lmfast evaluate --tasks` writes.

A row per task and metric, a column per run. If a run was evaluated at several steps, the newest is shown. Damaged files are
skipped.
"""

import contextlib
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lmfast.counted import counted

Key = tuple[str, str, str]
"""(task, metric, settings as text)"""


class Value(NamedTuple):
    step: int
    value: float
    stderr: float | None


def task_section(names: Sequence[str], folders: Sequence[Path]) -> str:
    """The section as HTML, empty if no run has results. names: of the runs, as HTML."""
    runs = [read_task_values(folder) for folder in folders]
    keys = sorted({key for values in runs for key in values})
    if not keys:
        return ""
    rows = []
    for task, metric, how in keys:
        note = f' <span class="note">{html.escape(how)}</span>' if how else ""
        cells = "".join(f"<td>{_cell(values.get((task, metric, how)))}</td>" for values in runs)
        rows.append(f"<tr><th>{html.escape(task)}{note}</th><td>{html.escape(metric)}</td>{cells}</tr>")
    head = "".join(f"<th>{name}</th>" for name in names)
    return f"<h2>Tasks</h2><table><tr><th>task</th><th>metric</th>{head}</tr>{''.join(rows)}</table>"


def read_task_values(folder: Path) -> dict[Key, Value]:
    """The results in a run folder, each at its newest step."""
    found: dict[Key, Value] = {}
    for path in sorted((folder / "evaluations").glob("*.json")):
        # Another program may have written the file.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            content = json.loads(path.read_text(encoding="utf-8"))
            for m in content["metrics"]:
                key = (str(m["task"]), str(m["metric"]), _settings(content["settings"], m))
                value = Value(int(content["step"]), float(m["value"]), m["stderr"])
                if key not in found or found[key].step <= value.step:
                    found[key] = value
    return found


def _settings(settings: dict[str, Any], metric: dict[str, Any]) -> str:
    """What distinguishes two evaluations of a task."""
    parts = []
    if metric["shots"]:
        parts.append(counted(metric["shots"], "shot"))
    if settings["limit"] is not None:
        parts.append(f"first {settings['limit']:g}")
    if settings["apply_chat_template"]:
        parts.append("chat")
    parts += [name for name in ("bf16", "fp16") if settings[name]]
    return ", ".join(parts)


def _cell(value: Value | None) -> str:
    if value is None:
        return ""
    spread = "" if value.stderr is None else f" ± {value.stderr:.4f}"
    return f'{value.value:.4f}{spread} <span class="note">step {value.step:,}</span>'
