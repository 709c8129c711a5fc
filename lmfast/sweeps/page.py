"""The page of a sweep: what was best, the plots, a table with the spread over seeds, and the best settings to copy.

Self-contained HTML that opens offline; plots are inline SVG by matplotlib, without which the tables remain. Reads the run
folders of the trials. May be written at any time, also while trials run.
"""

import html
from pathlib import Path
from typing import Any

from lmfast.counted import counted
from lmfast.files import atomic_write
from lmfast.sweeps import best_settings, tables
from lmfast.sweeps.axes import horizontal_setting, line_setting, numeric_settings
from lmfast.sweeps.colours import group_colours
from lmfast.sweeps.curve_plots import curve_legend, curve_plots
from lmfast.sweeps.group_plot import group_plot
from lmfast.sweeps.groups import Group, best_group, best_trial, group_trials, varying
from lmfast.sweeps.metric_plot import metric_plot
from lmfast.sweeps.scaling_section import scaling_section
from lmfast.sweeps.trial_runs import read_trials
from lmfast.sweeps.trials import Results
from lmfast.sweeps.wording import metric_label, score_text, values_text
from lmfast.training.html_page import document
from lmfast.training.plotting import can_plot

MOST_OTHERS = 4  # plots against further searched settings

STYLE = """
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; } sup { line-height: 0; }
h1 { overflow-wrap: anywhere; } p { margin: .4rem 0; } a { color: #1d4ed8; }
.best { font-size: 1.1rem; overflow-wrap: anywhere; }
.main { display: grid; grid-template-columns: minmax(0, 38rem) minmax(0, 1fr); gap: 1.5rem; align-items: center; }
.main svg { width: 100%; height: auto; } .main ul { padding-left: 1.1rem; margin: 0; } .main li { margin: .4rem 0; }
.scroll table.rows { min-width: 44rem; }
.scroll td { white-space: nowrap; } .scroll td:first-child:not(:has(.key)) { padding-left: 0; }
.scroll .message { white-space: normal; color: #a61e1e; min-width: 22em; }
.legend { display: flex; flex-wrap: wrap; gap: 0 1rem; font-size: 14px; }
.chips { display: flex; flex-wrap: wrap; gap: .3rem; margin: .5rem 0; }
.chip { font: inherit; font-size: 13px; border: 1px solid #e3e5e8; border-radius: 1em; background: #fff; color: inherit;
padding: .1rem .6rem; cursor: pointer; } .chip[aria-pressed=true] { border-color: #1c1e21; background: #f5f6f7; }
.curves.one g[class^=g] { opacity: .07; } .curves.one g.shown { opacity: 1; }
.copied { position: relative; } .copied pre { background: #f5f6f7; padding: .8rem 1rem; font-size: 14px; }
.copied button { position: absolute; right: .5rem; top: .5rem; font: inherit; font-size: 13px; }
@media (max-width: 800px) { .copied button { position: static; margin-bottom: .3rem; } .copied pre { margin-top: 0; }
.main { grid-template-columns: minmax(0, 1fr); } body { padding: 0 1rem; } }
"""

# Copying works from a file:// page too, where navigator.clipboard may be missing.
SCRIPT = """
for (const button of document.querySelectorAll(".copied button")) button.onclick = () => {
  const selection = getSelection();
  selection.selectAllChildren(button.parentElement.querySelector("pre"));
  button.textContent = document.execCommand("copy") ? "Copied" : "Press Ctrl+C";
};
let pressed = null;
const show = group => { for (const curves of document.querySelectorAll(".curves")) {
  curves.classList.toggle("one", group !== null);
  for (const curve of curves.querySelectorAll("g[class^=g]"))
    curve.classList.toggle("shown", curve.classList[0] === group);
} };
const chips = [...document.querySelectorAll(".chip")];
for (const chip of chips) {
  chip.setAttribute("aria-pressed", "false");
  chip.onmouseenter = () => show(chip.dataset.group);
  chip.onmouseleave = () => show(pressed);
  chip.onclick = () => {
    pressed = pressed === chip.dataset.group ? null : chip.dataset.group;
    for (const other of chips) other.setAttribute("aria-pressed", String(other.dataset.group === pressed));
    show(pressed);
  };
}
"""


def write_page(results: Results, output: Path) -> None:
    """Writes the page of the sweep to `output`, atomically."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(output) as temporary:
        temporary.write_text(_page(results, output), encoding="utf-8", errors="replace")


def _page(results: Results, output: Path) -> str:
    groups, runs = group_trials(results), read_trials(results)
    best, plots = best_group(results, groups), can_plot()
    colours = group_colours(len(groups)) if plots else []
    names = varying(groups)
    parts = [f"<h1>{html.escape(results.name)}</h1>", _head(results, groups, best, output)]
    if plots and groups:
        parts.append(_main_plot(results, groups, best, names, colours))
    elif groups:
        parts.append('<p class="note">No plots: matplotlib is not installed.</p>')
        parts.append(_list(_remarks(results, groups, best)))
    if results.page.get("fit") == "scaling_law":
        parts.append(scaling_section(results, groups, runs, plots))
    if plots and groups:
        curves = "".join(curve_plots(results, groups, runs, colours))
        legend = curve_legend(groups, names, colours) if curves else ""
        nothing = '<p class="note">No trial has logged anything yet.</p>'
        parts.append(
            f'<h2>Curves</h2>{legend}<div class="plots curves">{curves}</div>{"" if curves else nothing}'
        )
    if groups:
        parts.append(f"<h2>Settings, best first</h2>{tables.group_table(results, groups, runs, colours)}")
        parts.append(
            f"<details><summary>Each trial ({len(results.trials)})</summary>"
            f"{tables.trial_table(results, runs, output)}</details>"
        )
    if best is not None:
        parts.append(_best_settings(results, best))
    return document(results.name, "".join(parts) + f"<script>{SCRIPT}</script>", STYLE)


def _head(results: Results, groups: list[Group], best: Group | None, output: Path) -> str:
    states = tables.states_text(results.trials)
    label = html.escape(metric_label(results.metric))
    goal = "highest" if results.direction == "maximize" else "lowest"
    lines = [f'<p class="note">{counted(len(results.trials), "trial")}{f": {states}" if states else ""}</p>']
    if best is None:
        lines.append(f"<p>No trial has completed with a value of {label} yet.</p>")
        return "".join(lines)
    trial = best_trial(results, best)
    over = f" (mean of {len(best.scores)} seeds)" if len(best.scores) > 1 else ""
    values = values_text(best.values, [name for name in best.values if name in varying(groups)])
    link = tables.report_link(trial, output)
    name = f"trial {trial.number:04}"
    run = name if link is None else f'<a href="{html.escape(link)}">report of {name}</a>'
    lines.append(
        f'<p class="best">{goal.capitalize()} {label}: <b>{score_text(best.mean)}</b>{over}'
        f"{f' with <b>{html.escape(values)}</b>' if values else ''}; {run}</p>"
    )
    return "".join(lines)


def _main_plot(
    results: Results, groups: list[Group], best: Group | None, names: list[str], colours: list[str]
) -> str:
    """The metric against the searched settings, and remarks next to it."""
    label = html.escape(metric_label(results.metric))
    remarks = _remarks(results, groups, best)
    x = horizontal_setting(results, groups)
    if x is None:
        if not any(trial.value is not None for group in groups for trial in group.trials):
            return _list(remarks)
        if len(groups) == 1:
            return _list(remarks)
        plot = group_plot(results, groups, names, colours)
        return f'<h2>{_initial(label)}</h2><div class="main">{plot}{_list(remarks)}</div>'
    lines = line_setting(results, groups, x)
    further = [name for name in names if name not in (x, lines)]
    if best is not None and isinstance(results.space.get(x, []), list):
        if any(len(group.trials) > 1 for group in groups):
            remarks.append("A point is a trial; a line joins the means over seeds.")
        if further:
            remarks.append(
                f"Where several settings share a point of a line, it is the best: of {', '.join(further)}."
            )
    parts = [
        f"<h2>{_initial(label)} against {html.escape(x)}</h2>",
        f'<div class="main"><div>{metric_plot(results, groups, x, lines)}</div>{_list(remarks)}</div>',
    ]
    others = [name for name in numeric_settings(results, groups) if name not in (x, lines)][:MOST_OTHERS]
    if others:
        pictures = "".join(metric_plot(results, groups, name, join=False) for name in others)
        parts.append(f'<h2>Other settings</h2><div class="plots">{pictures}</div>')
    return "".join(parts)


def _initial(text: str) -> str:
    return text[:1].upper() + text[1:]


def _remarks(results: Results, groups: list[Group], best: Group | None) -> list[str]:
    remarks = [] if best is None else best_settings.edge_notes(results, groups, best)
    unstable = [g for g in groups if g.broke and g.scores]
    if unstable:
        remarks.append(
            f"{counted(len(unstable), 'combination')} of settings diverged or failed with some seeds only; such rows are "
            "listed behind the others."
        )
    return remarks


def _list(remarks: list[str]) -> str:
    items = "".join(f"<li>{html.escape(remark)}</li>" for remark in remarks)
    return f"<ul>{items}</ul>" if items else ""


def _best_settings(results: Results, best: Group) -> str:
    length: list[Any] = [
        name for name in best_settings.LENGTHS if best_settings.resolved(results, best).get(name)
    ]
    note = (
        "This trains four times as long. The best learning rate may be lower for longer runs."
        if length
        else "Give the length, for example as <code>--total-tokens</code>."
    )
    if best_settings.fixed_decay(results, best):
        note += " Change <code>lr_decay_iters</code> accordingly."
    return (
        f"<h2>Best settings</h2><p>Save as <code>best.yaml</code>:</p>{_copied(best_settings.best_config(results, best))}"
        f"<p>Then:</p>{_copied(best_settings.longer_command(results, best))}<p class='note'>{note}</p>"
    )


def _copied(text: str) -> str:
    return f'<div class="copied"><button type="button">Copy</button><pre>{html.escape(text)}</pre></div>'
