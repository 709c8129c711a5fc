"""The tables of a sweep's page: a row per group, best first, and a row per trial."""

import html
import os
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from lmfast.sweeps.groups import Group, best_first, reference_of, varying
from lmfast.sweeps.spread import difference, standard_deviation
from lmfast.sweeps.trial_runs import TrialRun
from lmfast.sweeps.trials import Results, Trial
from lmfast.sweeps.wording import metric_label, score_text, setting_text
from lmfast.training.html_page import number, scrolling_table
from lmfast.units import duration

STATES = ("complete", "diverged", "pruned", "failed", "running")


def group_table(
    results: Results, groups: list[Group], runs: dict[int, TrialRun], colours: Sequence[str]
) -> str:
    """The table of groups, with notes on how to read it. colours: by index of the group; empty without plots."""
    names = varying(groups)
    compared = {g.index: r for g in groups if (r := reference_of(results, g, groups)) is not None}
    label = html.escape(metric_label(results.metric))
    several = any(len(group.scores) > 1 for group in groups)
    heads = [html.escape(name) for name in names] or ["settings"]
    heads += [f"{label}, mean" if several else label]
    heads += ["spread over seeds"] if several else []
    heads += [f"difference from {html.escape(next(iter(results.variants)))}"] if compared else []
    heads += ["tokens/s, median", "time", "trials"]
    rows = []
    for group in best_first(results, groups):
        key = f'<span class="key" style="background:{colours[group.index]}"></span>' if colours else ""
        cells = [html.escape(setting_text(group.values.get(name))) for name in names] or ["as configured"]
        cells[0] = key + cells[0]
        cells += [score_text(group.mean)]
        cells += [_spread(group.scores)] if several else []
        cells += [_difference(group, compared.get(group.index), results)] if compared else []
        own = [runs[trial.number] for trial in group.trials]
        cells += [
            number(_median([run.tokens_per_second for run in own]), 0),
            "" if (seconds := _median([run.seconds for run in own])) is None else duration(seconds),
            states_text(group.trials),
        ]
        rows.append("".join(f"<td>{cell}</td>" for cell in cells))
        messages = dict.fromkeys(
            f"{trial.state}: {trial.message}" for trial in group.trials if trial.message.strip()
        )
        if messages:
            text = html.escape("; ".join(messages))
            rows[-1] = rows[-1].removesuffix("</td>") + f'<div class="message">{text}</div></td>'
    return scrolling_table(heads, rows, "settings, best first") + _notes(several, bool(compared), results)


def trial_table(results: Results, runs: dict[int, TrialRun], page: Path) -> str:
    """The table of all trials with links to their reports, relative to the page."""
    names = list(dict.fromkeys(name for trial in results.trials for name in trial.values))
    label = html.escape(metric_label(results.metric))
    heads = ["trial", "state", *map(html.escape, names), label, "tokens", "time", ""]
    rows = []
    for trial in sorted(results.trials, key=lambda trial: trial.number):
        run = runs[trial.number]
        cells = [
            _link(trial, page),
            trial.state,
            *(html.escape(setting_text(trial.values[n])) if n in trial.values else "" for n in names),
            score_text(trial.value),
            number(run.tokens, 0),
            "" if run.seconds is None else duration(run.seconds),
            html.escape(trial.message),
        ]
        rows.append("".join(f"<td>{cell}</td>" for cell in cells))
    return scrolling_table(heads, rows, "all trials")


def report_link(trial: Trial, page: Path) -> str | None:
    """The address of the trial's report relative to the page; None if it has none."""
    report = trial.folder / "report.html"
    if not report.is_file():
        return None
    try:
        relative = os.path.relpath(report.resolve(), page.resolve().parent)
    except ValueError:  # another drive on Windows
        return None
    return quote(Path(relative).as_posix(), errors="replace")


def states_text(trials: Sequence[Trial]) -> str:
    """ "2 complete, 1 diverged" """
    counts = Counter(trial.state for trial in trials)
    return ", ".join(f"{counts[state]:,} {state}" for state in STATES if counts[state])


def _link(trial: Trial, page: Path) -> str:
    name = f"{trial.number:04}"
    link = report_link(trial, page)
    return name if link is None else f'<a href="{html.escape(link)}">{name}</a>'


def _spread(scores: Sequence[float]) -> str:
    """The extremes, and from three values on the standard deviation; empty for one."""
    if len(scores) < 2:
        return ""
    ends = f"{score_text(min(scores))} to {score_text(max(scores))}"
    return f"{ends}, sd {standard_deviation(scores):.2g}" if len(scores) > 2 else ends


def _difference(group: Group, reference: Group | None, results: Results) -> str:
    if reference is None:
        return "reference" if group.values.get("variant") == next(iter(results.variants)) else ""
    if not group.scores or not reference.scores:
        return ""
    found = difference(group.scores, reference.scores)
    text = score_text(found.value, signed=True)
    if found.margin is None:
        return text
    text += f" ± {score_text(found.margin)}"
    better = (found.value > 0) == (results.direction == "maximize")
    return f"<b>{text} {'better' if better else 'worse'}</b>" if found.exceeds_spread else text


def _notes(several: bool, compared: bool, results: Results) -> str:
    notes = []
    if several:
        notes.append(
            "Means and spread are over the complete trials of a row: lowest to highest value, with the standard "
            "deviation (sd) from three on."
        )
    if compared:
        notes.append(
            f"Differences are from the first variant, {html.escape(next(iter(results.variants)))}, with otherwise the same "
            "settings."
        )
        notes[-1] += (
            " After ± is the half-width of the 95 % confidence interval (Welch's t interval); bold ones exceed it, "
            "so the seeds alone hardly explain them. Among twenty variants that change nothing, one is bold on average."
            if several
            else " With one trial per row, they may be due to chance."
        )
    return "".join(f'<p class="note">{note}</p>' for note in notes)


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
