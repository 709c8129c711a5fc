"""Saved runs as pages: `python -m bench.report [RUN.json …] [--output FOLDER]` writes bench.md and bench.html.

In: files that the suite saved (by default the newest one of each host, device and mode under `.benchmarks/`), and those
of bench/results/. Nothing is measured here and nothing is looked up: what a page says is in the files. Out: a Markdown
page, and one HTML page that opens offline: an overview, how many times as fast as the fastest peer; then each benchmark
beside its peers as bars, longer is faster; then all figures, with machine, versions, commit and the measured ceilings.
`--readme` puts the section of readme.py into README.md instead.
"""

import argparse
import html
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench import readme, saved, storage
from bench.saved import Entry, facts
from bench.table import CELLS, duration, times
from lmfast.cli.exit_codes import exit_on_user_error
from lmfast.errors import UserError
from lmfast.files import atomic_write

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1080px; margin: 2em auto; padding: 0 1em; color: #1b1f24; }
h1 { font-size: 1.5em; } h2 { font-size: 1.25em; margin-top: 2.5em; border-bottom: 1px solid #d0d7de; }
h3 { font-size: 1.05em; margin: 1.8em 0 .4em; } p.facts { color: #57606a; overflow-wrap: anywhere; }
figure { margin: 0 0 .9em; } figcaption { font-weight: 600; margin-bottom: .3em; } figcaption, td, th { font-size: 13px; }
svg { display: block; width: 100%; height: auto; } svg text { font: 13px system-ui, sans-serif; fill: #1b1f24; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { text-align: left; padding: .2em 1.1em .2em 0; border-bottom: 1px solid #e3e5e8; vertical-align: top; }
th { color: #57606a; font-weight: 600; white-space: nowrap; } td.short { white-space: nowrap; } nav { margin: 1em 0; }
"""
WIDTH, LABEL, BAR, GAP = 1040, 200, 18, 6  # pixels of a chart
NUMBERS = 380  # for the text behind the longest bar
LETTER = 7.2  # of a letter, generously
OURS, THEIRS, SLOWER = "#1f6feb", "#8c959f", "#d9480f"
TARGETS = ("row", "measured", "must", "aim", "reached")


def newest_runs() -> list[dict]:
    """The last whole run of each host, device, cores and mode, then what is in bench/results."""
    there = storage.FOLDER.iterdir() if storage.FOLDER.exists() else []
    folders = sorted(path for path in there if path.is_dir())
    found = [storage.last_whole(runs) for folder in folders if (runs := storage.saved_runs(folder))]
    return found + readme.results()


def grouped(run: Mapping) -> Iterator[tuple[str, list[Entry]]]:
    """(tokenizer, its entries), …"""
    groups: dict[str, list[Entry]] = {}
    for entry in saved.entries(run):
        groups.setdefault(entry.group, []).append(entry)
    yield from sorted(groups.items())


def columns(run: Mapping, entries: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """(heads, rows) of all figures of a group, without empty columns; the peers of the suite's results in the last."""
    if saved.is_suite(run):
        heads = [*CELLS, "times as fast as"]
        rows = [
            [*entry.cells, ", ".join(f"{peer.name} {times(peer.ratio)}" for peer in entry.peers)]
            for entry in entries
        ]
    else:
        heads, rows = list(TARGETS), [entry.cells for entry in entries]
    kept = [i for i in range(len(heads)) if any(row[i] for row in rows)]
    return [heads[i] for i in kept], [[row[i] for i in kept] for row in rows]


def markdown(runs: Sequence[Mapping]) -> str:
    """The page as Markdown."""
    pages = ["# Measured speed", ""]
    for run in runs:
        pages += ["## " + facts(run)[0], "", *(f"{text}  " for text in facts(run)[1:]), ""]
        for group, entries in grouped(run):
            heads, rows = columns(run, entries)
            pages += [f"### {group}", "", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
            pages += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
            pages.append("")
    return "\n".join(pages)


def bars(entry: Entry) -> list[tuple[str, float, str]]:
    """(who, how fast beside ours, what stands behind the bar): ours first, then peers from fast to slow. Speeds are those of
    the pairs, which a busy moment of the machine met alike; the medians behind them need not be."""
    found = [("lmfast", 1.0, entry.note)]
    for peer in sorted(entry.peers, key=lambda peer: peer.ratio["median"]):
        told = f"{duration(peer.seconds)}; ours {times(peer.ratio)}"
        found.append((peer.name, 1 / peer.ratio["median"], told))
    return found


def words(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def rectangle(x: float, y: float, width: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>'


def picture(title: str, height: float, parts: Sequence[str]) -> str:
    title = html.escape(title)
    return (
        f'<figure><figcaption>{title}</figcaption><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}">'
        f"{''.join(parts)}</svg></figure>"
    )


def chart(entry: Entry) -> str:
    """One benchmark beside its peers as bars of speed, an inline SVG."""
    entries = bars(entry)
    fastest = max(speed for _, speed, _ in entries)
    parts = []
    for i, (who, speed, text) in enumerate(entries):
        y, width = i * (BAR + GAP), max(2.0, (WIDTH - LABEL - NUMBERS) * speed / fastest)
        parts += [
            words(LABEL - 8, y + 14, who, "end"),
            rectangle(LABEL, y, width, THEIRS if i else OURS),
            words(LABEL + width + 8, y + 14, text),
        ]
    return picture(entry.name, len(entries) * (BAR + GAP), parts)


def overview(groups: Sequence[tuple[str, Sequence[Entry]]]) -> str:
    """How many times as fast as the fastest peer, on a logarithmic scale from a line: right of it is faster."""
    found = []
    for group, entries in groups:
        for entry in entries:
            if (peer := entry.fastest) is not None:
                name = f"{group} {entry.name}" if len(groups) > 1 else entry.name
                found.append((name, math.log2(peer.ratio["median"]), f"{times(peer.ratio)} {peer.name}"))
    if not found:
        return ""
    label = LETTER * max(len(name) for name, _, _ in found) + 8

    def side(sign: int) -> tuple[float, float]:
        """(longest bar, in doublings; pixels of the text behind it) to the right or to the left."""
        there = [(abs(value), len(told)) for _, value, told in found if value * sign > 0]
        longest, letters = max((v for v, _ in there), default=0.0), max((n for _, n in there), default=0)
        return longest, LETTER * letters + 12

    (right, room_right), (left, room_left) = side(1), side(-1)
    unit = min(90, (WIDTH - label - room_left - room_right) / max(right + left, 1.0))  # pixels a doubling
    line = label + room_left + unit * left
    parts, height = [], len(found) * (BAR + GAP) + 18
    for i, (name, value, told) in enumerate(found):
        y, width = i * (BAR + GAP), max(1.0, unit * abs(value))
        parts.append(words(label - 8, y + 14, name, "end"))
        if value >= 0:
            parts += [rectangle(line, y, width, OURS), words(line + width + 6, y + 14, told)]
        else:
            parts += [rectangle(line - width, y, width, SLOWER), words(line - width - 6, y + 14, told, "end")]
    parts.append(f'<line x1="{line:.1f}" x2="{line:.1f}" y1="0" y2="{height - 18}" stroke="#1b1f24"/>')
    parts.append(words(line, height - 4, "1x", "middle"))
    return picture("Times as fast as the fastest peer, logarithmic", height, parts)


def figures(run: Mapping, entries: Sequence[Entry]) -> str:
    """All figures of a group as a table."""
    heads, rows = columns(run, entries)
    short = [max(map(len, (row[i] for row in rows))) <= 16 for i in range(len(heads))]
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=short' * few}>{html.escape(cell)}</td>" for cell, few in zip(row, short))
        + "</tr>"
        for row in rows
    )
    return f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{body}</table>"


def page(runs: Sequence[Mapping]) -> str:
    """The page as HTML, with nothing that is loaded from elsewhere."""
    links = [f'<a href="#run-{i}">{html.escape(run["source"])}</a>' for i, run in enumerate(runs)]
    body = [
        "<h1>Measured speed</h1>",
        "<p>Ours is blue. Longer bars are faster. Ratios are medians over pairs that were timed one after the other, "
        "with their quartiles; all of it is from saved runs.</p>",
        f"<nav>{' · '.join(links)}</nav>" if len(links) > 1 else "",
    ]
    for i, run in enumerate(runs):
        told = [html.escape(text) for text in facts(run)]
        body += [f'<h2 id="run-{i}">{told[0]}</h2>', f'<p class="facts">{"<br>".join(told[1:])}</p>']
        groups = list(grouped(run))
        body.append(overview(groups))
        for group, entries in groups:
            body.append(f"<h3>{html.escape(group)}</h3>")
            body += [chart(entry) for entry in entries if entry.peers]
            body.append(figures(run, entries))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>lmfast: measured speed</title>'
        f"<style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__.split("\n")[0])
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN.json", help="saved runs; by default the newest"
    )
    parser.add_argument(
        "--output", type=Path, help="folder for bench.md and bench.html; .benchmarks by default"
    )
    parser.add_argument(
        "--readme", action="store_true", help="instead: README's section from the files in bench/results"
    )
    arguments = parser.parse_args()
    with exit_on_user_error():
        if arguments.readme:
            if arguments.runs or arguments.output:
                raise UserError("--readme takes what is in bench/results; leave the files and --output out")
            readme.refresh(readme.README, readme.section(readme.results()))
            print(readme.README)
            return
        runs = saved.read(arguments.runs) if arguments.runs else newest_runs()
        if not runs:
            raise UserError(f"{storage.FOLDER}: no saved runs yet; run `pytest bench/` first")
        output = arguments.output or storage.FOLDER
        output.mkdir(parents=True, exist_ok=True)
        for name, text in (("bench.md", markdown(runs)), ("bench.html", page(runs))):
            with atomic_write(output / name) as beside:
                beside.write_text(text, encoding="utf-8")
            print(output / name)


if __name__ == "__main__":
    main()
