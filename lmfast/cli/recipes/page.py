"""FOLDER/recipe.html: the stages of a recipe with their results, time and memory, and how to use the model."""

import html
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from lmfast.cli.recipes.graph import Step
from lmfast.cli.recipes.records import Record
from lmfast.cli.recipes.results import Result, result
from lmfast.cli.recipes.specification import Recipe
from lmfast.files import atomic_write
from lmfast.training.html_page import document
from lmfast.units import data_size, duration

PAGE = "recipe.html"
HEADING = "<h2>The recipe</h2>"
"""in every page of a recipe"""
STYLE = """
.wide { overflow-x: auto; } .wide table { min-width: 34rem; } td.number { white-space: nowrap; }
.off { color: #c92a2a; } dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .3rem 0;
font-variant-numeric: tabular-nums; } dt { color: #555; } dd { margin: 0; overflow-wrap: anywhere; }
pre { background: #f5f6f7; padding: .6rem 1rem; font-size: 13px; }
pre.output { max-height: 24rem; overflow: auto; } blockquote { max-height: 24rem; overflow: auto;
overflow-wrap: anywhere; font-size: 14px; } h3 { font-size: 1rem; margin: 1.4rem 0 .2rem; }
h3 .note { font-weight: 400; } @media (max-width: 500px) { dl { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); }
body { padding: 0 .8rem; } pre:not(.output) { white-space: pre-wrap; overflow-wrap: anywhere; }
.wide table { min-width: 30rem; }
.command { display: none; } :is(th, td) { font-size: 14px; } }
"""


def write_page(recipe: Recipe, steps: list[Step], records: Mapping[str, Record | None]) -> Path:
    """Writes the page for the stages as they are now; returns its path."""
    results = {step.name: result(step) if records[step.name] else Result([]) for step in steps}
    done = [record for record in records.values() if record is not None]
    total = sum(record.seconds for record in done)
    finished = sum(record.finished for record in done)
    state = "all done" if finished == len(steps) else f"{finished} of {len(steps)} stages done"
    body = "".join(
        [
            f"<h1>{html.escape(recipe.path.stem)}</h1>",
            f'<p class="note">{html.escape(recipe.about)}</p>' if recipe.about else "",
            f"<p>{state} in {duration(total)}</p>",
            _table(steps, records),
            "<h2>Results</h2>",
            *[_section(recipe, step, records[step.name], results[step.name]) for step in steps],
            _next(steps, records),
            f"{HEADING}<pre>{html.escape(recipe.text)}</pre>",
        ]
    )
    path = recipe.folder / PAGE
    with atomic_write(path) as temporary:
        temporary.write_text(document(recipe.path.stem, body, STYLE), encoding="utf-8", errors="replace")
    return path


def _table(steps: list[Step], records: Mapping[str, Record | None]) -> str:
    head = "<tr><th>stage</th><th class='command'>command</th><th>state</th><th>time</th><th>predicted</th><th>memory</th>"
    rows = [head + "<th>predicted</th></tr>"]
    for step in steps:
        record = records[step.name] or Record()
        state = "done" if record.finished else "interrupted" if record.settings else "not run"
        ran = record.finished
        cells = [
            f"<td>{html.escape(step.name)}</td>",
            f'<td class="command">{html.escape(step.command.name)}</td><td>{state}</td>',
            _number(duration(record.seconds) if ran else ""),
            _predicted(record.predicted_seconds, record.seconds if ran else None, duration),
            _number(data_size(record.memory) if ran and record.memory else ""),
            _predicted(record.predicted_memory, record.memory if ran else None, data_size),
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    note = (
        "Memory: the largest sum of anonymous and shared memory of the stage's processes, without file pages. "
        "Predictions were made before the first stage started."
    )
    on_gpu = [(name, r.device_memory) for name, r in records.items() if r is not None and r.device_memory]
    if on_gpu:
        note += " On the GPU: " + ", ".join(f"{name} {data_size(size or 0)}" for name, size in on_gpu) + "."
    return f'<div class="wide"><table>{"".join(rows)}</table></div><p class="note">{note}</p>'


def _number(text: str) -> str:
    return f'<td class="number">{html.escape(text)}</td>'


def _predicted(predicted: float | None, measured: float | None, show) -> str:
    """The prediction, and by how much it is off; not for parts of a second."""
    if predicted is None:
        return _number("")
    text = html.escape(show(predicted))
    if measured and max(measured, predicted) >= 1:
        text += f' <span class="note">({predicted / measured - 1:+.0%})</span>'
    return f'<td class="number">{text}</td>'


def _section(recipe: Recipe, step: Step, record: Record | None, found: Result) -> str:
    where = f'<span class="note">{html.escape(str(step.output))}</span>'
    parts = [f"<h3>{html.escape(step.name)} {where}</h3>"]
    if record is None or not record.finished:
        return "".join([*parts, '<p class="note">not done</p>'])
    if found.numbers:
        items = "".join(
            f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in found.numbers
        )
        parts.append(f"<dl>{items}</dl>")
    if found.text:
        # Tables of `evaluate` need a fixed width.
        start, end = ("<blockquote>", "</blockquote>")
        if step.command.name != "generate":
            start, end = '<pre class="output" tabindex="0">', "</pre>"
        parts.append(f"{start}{html.escape(found.text)}{end}")
    if found.link is not None:
        target = quote(os.path.relpath(found.link, recipe.folder).replace(os.sep, "/"))
        parts.append(f'<p><a href="{target}">report of the run</a>: curves, samples, settings</p>')
    return "".join(parts)


def _next(steps: list[Step], records: Mapping[str, Record | None]) -> str:
    """Commands for the last model."""
    runs = [s for s in steps if s.command.kind == "run" and (r := records[s.name]) is not None and r.finished]
    if not runs:
        return ""
    last = runs[-1]
    chats = any(step.command.name in ("sft", "dpo") for step in [last])
    talk = " --chat" if chats else " --prompt 'Once upon a time'"
    run = shlex.quote(str(last.output))
    lines = [
        f"lmfast generate --checkpoint {run}{talk}",
        f"lmfast serve {run}",
        f"lmfast evaluate {run} --samples 20",
    ]
    return f"<h2>Use the model</h2><pre>{html.escape(chr(10).join(lines))}</pre>"
