"""Saved runs as one page: `python -m bench.report [RUN.json …] [--output FOLDER]` writes bench.html.

In: files of results (results.py), by default those of bench/results/ and the newest run of each host, device and mode
under `.benchmarks/`. Out: an HTML page that opens offline: for each run the machine, versions, commit and measured
ceilings, how many times as fast as each peer as bars, and all figures. Nothing is measured or looked up here. `--readme`
puts the section of readme.py into README.md instead.
"""

import html
import math
from collections.abc import Sequence
from pathlib import Path

from bench import readme, results, storage
from bench.results import Peer, Row, Run
from bench.table import CELLS, against_peers, by_group, cells, facts, times
from bench.target_table import parser_of
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
WIDTH, BAR, GAP = 1040, 18, 6  # pixels of a chart
LETTER = 7.2  # generous width of a letter
OURS, SLOWER = "#1f6feb", "#d9480f"
HEADS = (*CELLS, "times as fast as", "measured", "must", "aim", "reached")


def newest_runs() -> list[Run]:
    """The last whole run of each host, device, cores and mode, then what is in bench/results."""
    there = storage.FOLDER.iterdir() if storage.FOLDER.exists() else []
    folders = sorted(path for path in there if path.is_dir())
    found = [storage.last_whole(runs) for folder in folders if (runs := storage.saved_runs(folder))]
    return found + readme.saved_results()


def figures(rows: Sequence[Row]) -> list[list[str]]:
    """The heads, then a line per row, without empty columns; what was timed in the suite states its rates instead of
    `shown`."""
    lines = []
    for row in rows:
        limit = "≤" if row.at_most else "≥"
        targets = [f"{limit} {target:g}" if target else "" for target in (row.must, row.aim)]
        reached = row.verdict if row.must or row.wrong else ""
        measured = (
            [against_peers(row), ""] if row.work else ["", " ".join(filter(None, [row.wrong, row.shown]))]
        )
        lines.append(
            [
                *(cells(row) if row.work else [row.name, *[""] * (len(CELLS) - 1)]),
                *measured,
                *targets,
                reached,
            ]
        )
    kept = [i for i in range(len(HEADS)) if any(line[i] for line in lines)]
    return [[line[i] for i in kept] for line in [HEADS, *lines]]


def words(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def rectangle(x: float, y: float, width: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>'


def bars(title: str, pairs: Sequence[tuple[str, Peer]]) -> str:
    """How many times as fast as a peer, on a logarithmic scale from a line: right of it is faster. In: (what was timed,
    whom it is compared with); out: an inline SVG."""
    found = [(name, math.log2(peer.ratio.median), f"{times(peer.ratio)} {peer.name}") for name, peer in pairs]
    label = LETTER * max(len(name) for name, _, _ in found) + 8

    def side(sign: int) -> tuple[float, float]:
        """(longest bar, in doublings; pixels of the text behind it) to the right or to the left."""
        there = [(abs(value), len(text)) for _, value, text in found if value * sign > 0]
        longest, letters = max((v for v, _ in there), default=0.0), max((n for _, n in there), default=0)
        return longest, LETTER * letters + 12

    (right, text_right), (left, text_left) = side(1), side(-1)
    unit = min(90, (WIDTH - label - text_left - text_right) / max(right + left, 1.0))  # pixels per doubling
    line = label + text_left + unit * left
    parts, height = [], len(found) * (BAR + GAP) + 18
    for i, (name, value, text) in enumerate(found):
        y, width = i * (BAR + GAP), max(1.0, unit * abs(value))
        parts.append(words(label - 8, y + 14, name, "end"))
        if value >= 0:
            parts += [rectangle(line, y, width, OURS), words(line + width + 6, y + 14, text)]
        else:
            parts += [rectangle(line - width, y, width, SLOWER), words(line - width - 6, y + 14, text, "end")]
    parts.append(f'<line x1="{line:.1f}" x2="{line:.1f}" y1="0" y2="{height - 18}" stroke="#1b1f24"/>')
    parts.append(words(line, height - 4, "1x", "middle"))
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}">{"".join(parts)}</svg>'


def table(rows: Sequence[Row]) -> str:
    """All figures of a group."""
    heads, *lines = figures(rows)
    short = [max(len(line[i]) for line in lines) <= 16 for i in range(len(heads))]
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=short' * few}>{html.escape(cell)}</td>" for cell, few in zip(line, short))
        + "</tr>"
        for line in lines
    )
    return f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{body}</table>"


def page(runs: Sequence[Run]) -> str:
    """The page as HTML, with nothing that is loaded from elsewhere."""
    links = [f'<a href="#run-{i}">{html.escape(run.source)}</a>' for i, run in enumerate(runs)]
    body = [
        "<h1>Measured speed</h1>",
        "<p>Longer blue bars are faster. Ratios are medians over pairs that were timed one after the other, with their "
        "quartiles; everything is from saved runs.</p>",
        f"<nav>{' · '.join(links)}</nav>" if len(links) > 1 else "",
    ]
    for i, run in enumerate(runs):
        lines = [html.escape(text) for text in facts(run)]
        body += [f'<h2 id="run-{i}">{lines[0]}</h2>', f'<p class="facts">{"<br>".join(lines[1:])}</p>']
        for group, rows in by_group(run.rows):
            body.append(f"<h3>{html.escape(group or run.table)}</h3>")
            if pairs := [(row.name, peer) for row in rows for peer in row.peers]:
                title = "Times as fast as each peer, logarithmic"
                body.append(f"<figure><figcaption>{title}</figcaption>{bars(title, pairs)}</figure>")
            body.append(table(rows))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>lmfast: measured speed</title>'
        f"<style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def main() -> None:
    parser = parser_of("report", __doc__)
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN.json", help="saved runs (default: the newest)"
    )
    parser.add_argument(
        "--readme", action="store_true", help="update README's section from bench/results instead"
    )
    arguments = parser.parse_args()
    with exit_on_user_error():
        if arguments.readme:
            if arguments.runs or arguments.output:
                raise UserError("--readme reads bench/results; leave the files and --output out")
            readme.refresh(readme.README, readme.section(readme.saved_results()))
            print(readme.README)
            return
        runs = [results.read(path) for path in arguments.runs] or newest_runs()
        if not runs:
            raise UserError(f"{storage.FOLDER}: no saved runs yet; run `pytest bench/` first")
        folder = arguments.output or storage.FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / "bench.html") as temporary:
            temporary.write_text(page(runs), encoding="utf-8")
        print(folder / "bench.html")


if __name__ == "__main__":
    main()
