"""The part of report.html with results on tasks: RUN/evaluations/*.json, which `lmfast evaluate --tasks` writes, and the
last results in metrics.jsonl, of training with eval_tasks.

A row per task, metric and way of evaluating, a column per run. If a run was evaluated at several steps, the newest is shown.
Damaged files are skipped.
"""

import contextlib
import html
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lmfast.counted import counted
from lmfast.training.html_page import scrolling
from lmfast.training.run_folder import read_metrics
from lmfast.training.task_metrics import from_metrics

Key = tuple[str, str, str]
"""(task, settings as text, metric)"""


class Value(NamedTuple):
    step: int
    value: float
    stderr: float | None


def task_section(names: Sequence[str], folders: Sequence[Path]) -> str:
    """The section as HTML, empty if no run has results. names: of the runs, as HTML."""
    runs = [read_task_values(folder) | read_training_values(folder) for folder in folders]
    keys = sorted({key for values in runs for key in values})
    if not keys:
        return ""
    rows = []
    for _, of_task in itertools.groupby(keys, key=lambda key: key[0]):
        rows += _rows(list(of_task), runs)
    head = "".join(f"<th>{name}</th>" for name in names)
    heads = f"<tr><th>task</th><th>evaluated on</th><th>metric</th>{head}</tr>"
    return "<h2>Tasks</h2>" + scrolling(f"<table>{heads}{''.join(rows)}</table>", "tasks")


def _rows(keys: list[Key], runs: Sequence[dict[Key, Value]]) -> list[str]:
    """The rows of a task, whose name and settings span several."""
    rows = []
    ways = [how for _, how, _ in keys]
    for i, key in enumerate(keys):
        task, how, metric = key
        name = f'<th rowspan="{len(keys)}">{html.escape(task)}</th>' if i == 0 else ""
        way = f'<td rowspan="{ways.count(how)}">{html.escape(how)}</td>' if ways.index(how) == i else ""
        values = "".join(f"<td>{_cell(run.get(key))}</td>" for run in runs)
        rows.append(f"<tr>{name}{way}<td>{html.escape(metric)}</td>{values}</tr>")
    return rows


def read_task_values(folder: Path) -> dict[Key, Value]:
    """The results of `lmfast evaluate` in a run folder, each at its newest step."""
    found: dict[Key, Value] = {}
    for path in sorted((folder / "evaluations").glob("*.json")):
        # Another program may have written the file.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            content = json.loads(path.read_text(encoding="utf-8"))
            for m in content["metrics"]:
                key = (str(m["task"]), _settings(content["settings"], m["shots"]), str(m["metric"]))
                value = Value(int(content["step"]), float(m["value"]), m["stderr"])
                if key not in found or found[key].step <= value.step:
                    found[key] = value
    return found


def read_training_values(folder: Path) -> dict[Key, Value]:
    """The last results of each task while the model was trained."""
    found: dict[Key, Value] = {}
    settings: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
        loaded = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        settings = loaded if isinstance(loaded, dict) else {}
    chosen = {"limit": settings.get("eval_tasks_limit") or None, "apply_chat_template": False}
    chosen |= {name: settings.get(name) for name in ("bf16", "fp16")}
    how = _settings(chosen, None) + ", while training"
    for line in read_metrics(folder):
        with contextlib.suppress(KeyError, TypeError, ValueError):
            for task, metric, value, stderr in from_metrics(line):
                found[task, how, metric] = Value(int(line["step"]), float(value), stderr)
    return found


def _settings(settings: dict[str, Any], shots: int | None) -> str:
    """What distinguishes two evaluations of a task."""
    limit = settings["limit"]
    parts = ["all examples"]
    if limit is not None:  # a task may have fewer
        parts = [f"first {limit:.0%}" if limit < 1 else f"first {limit:g} at most"]
    if shots:
        parts.append(counted(shots, "shot"))
    if settings["apply_chat_template"]:
        parts.append("chat")
    parts += [name for name in ("bf16", "fp16") if settings[name]]
    return ", ".join(parts)


def _cell(value: Value | None) -> str:
    if value is None:
        return ""
    spread = "" if value.stderr is None else f" ± {value.stderr:.4f}"
    return f'{value.value:.4f}{spread} <span class="note">step {value.step:,}</span>'
