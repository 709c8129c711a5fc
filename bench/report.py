"""Saved runs as pages: `python -m bench.report [RUN.json …] [--output FOLDER]` writes bench.md and bench.html.

In: files that the suite saved (by default the newest one of each host, device and mode under `.benchmarks/`), or those
of bench/results/. Nothing is measured here and nothing is looked up: what a page says is in the files. Out: a Markdown
page, and one HTML page that opens offline: for each benchmark ours beside its peers as bars, with machine, versions,
commit and the measured ceilings. Bars are rates relative to ours, so longer is faster.
"""

import argparse
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.storage import FOLDER, saved_runs
from bench.table import HEAD, amount, ceiling_line, duration, line, name_of
from lmfast.errors import UserError, exit_on_user_error
from lmfast.files import written_beside

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1080px; margin: 2em auto; padding: 0 1em; color: #1b1f24; }
h1 { font-size: 1.5em; } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #d0d7de; }
p.facts { color: #57606a; } figure { margin: 1em 0; } figcaption { font-weight: 600; }
svg { display: block; width: 100%; height: auto; } svg text { font: 13px system-ui, sans-serif; fill: #1b1f24; }
"""
WIDTH, LABEL, BAR, GAP = 1040, 190, 20, 6  # pixels of a chart; the right third is for numbers
ROOM = WIDTH - LABEL - 330


def newest_runs() -> list[dict]:
    """The last run of each host, device and mode."""
    folders = sorted(path for path in FOLDER.iterdir() if path.is_dir()) if FOLDER.exists() else []
    return [runs[-1] for folder in folders if (runs := saved_runs(folder))]


def read(paths: Sequence[Path]) -> list[dict]:
    """Runs from files. Raises UserError for one that is none."""
    runs = []
    for path in paths:
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path}: cannot be read as JSON ({error}); name a run that the suite saved"
            ) from None
        if not isinstance(run, dict) or "benchmarks" not in run:
            raise UserError(f"{path}: holds no benchmarks; name a run that the suite saved")
        runs.append(run | {"source": path.stem})
    return runs


def facts(run: Mapping) -> list[str]:
    """Where and with what a run was measured, in lines."""
    here = run["machine_info"]
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    changed = " with uncommitted changes" if here["dirty"] else ""
    lines = [
        f"{here['gpu'] or here['cpu']}, {here['cores']} cores, {here['system']}, host {here['host']}",
        f"{run['datetime'][:16].replace('T', ' ')} UTC, commit {here['commit']}{changed}, {here['mode']} sizes",
        f"from {run['source']}.json",
        versions,
    ]
    return lines + ([ceiling_line(here["ceilings"])] if here.get("ceilings") else [])


def by_file(run: Mapping) -> Iterator[tuple[str, list[dict]]]:
    """(tokenizer, its results), …"""
    groups: dict[str, list[dict]] = {}
    for result in run["benchmarks"]:
        groups.setdefault(name_of(result).split(" ")[0], []).append(result)
    yield from sorted(groups.items())


def markdown(runs: Sequence[Mapping]) -> str:
    """The page as Markdown."""
    pages = ["# Measured speed", ""]
    for run in runs:
        pages += ["## " + facts(run)[0], "", *(f"{text}  " for text in facts(run)[1:]), ""]
        for group, results in by_file(run):
            rows = [line(result)[:-1] for result in results]  # no column of changes
            kept = [i for i in range(len(HEAD) - 1) if any(row[i] for row in rows)]
            pages += [
                f"### {group}",
                "",
                "| " + " | ".join(HEAD[i] for i in kept) + " |",
                "|---" * len(kept) + "|",
            ]
            pages += ["| " + " | ".join(row[i].replace("|", "\\|") for i in kept) + " |" for row in rows]
            pages.append("")
    return "\n".join(pages)


def bars(result: Mapping) -> list[tuple[str, float, str]]:
    """(who, speed relative to ours, what stands behind the bar): ours first, then peers from fast to slow."""
    info, median = result["extra_info"], result["stats"]["median"]
    rates = info.get("rates", {})
    unit = next(
        (unit for unit in ("tokens", "bytes", "flops", "moved") if f"{unit}_per_second" in rates), None
    )
    letter = {"tokens": "tokens/s", "bytes": "B/s", "flops": "FLOP/s", "moved": "B/s"}.get(unit)

    def shown(speed: float) -> str:
        rate = f", {amount(rates[f'{unit}_per_second'] * speed, letter)}" if unit else ""
        return f"{duration(median / speed)}{rate}"

    fraction = info.get("fraction")
    share = f", {100 * fraction['value']:.0f} % of {fraction['of']}" if fraction else ""
    found = [("lmfast", 1.0, shown(1.0) + share)]
    peers = [(name, peer["ratio"]) for name, peer in info.get("peers", {}).items()]
    for name, ratio in sorted(peers, key=lambda peer: peer[1]["median"]):
        spread = f" ({ratio['low']:.2f}-{ratio['high']:.2f})" if ratio["rounds"] > 1 else ", one round"
        found.append(
            (name, 1 / ratio["median"], f"{shown(1 / ratio['median'])}; ours {ratio['median']:.2f}x{spread}")
        )
    return found


def chart(result: Mapping) -> str:
    """One benchmark as bars, an inline SVG."""
    entries = bars(result)
    longest = max(speed for _, speed, _ in entries)
    parts = []
    for i, (who, speed, text) in enumerate(entries):
        y, width = i * (BAR + GAP), max(2.0, ROOM * speed / longest)
        colour = "#1f6feb" if i == 0 else "#8c959f"
        parts.append(
            f'<text x="{LABEL - 8}" y="{y + 15}" text-anchor="end">{html.escape(who)}</text>'
            f'<rect x="{LABEL}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>'
            f'<text x="{LABEL + width + 8:.1f}" y="{y + 15}">{html.escape(text)}</text>'
        )
    height = len(entries) * (BAR + GAP)
    title = html.escape(name_of(result))
    return (
        f"<figure><figcaption>{title}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}">{"".join(parts)}</svg></figure>'
    )


def page(runs: Sequence[Mapping]) -> str:
    """The page as HTML, with nothing that is loaded from elsewhere."""
    body = [
        "<h1>Measured speed</h1>",
        "<p>Longer bars are faster; ours is blue. From saved runs of the bench suite.</p>",
    ]
    for run in runs:
        told = [html.escape(text) for text in facts(run)]
        body += [f"<h2>{told[0]}</h2>", f'<p class="facts">{"<br>".join(told[1:])}</p>']
        for group, results in by_file(run):
            body += [f"<h3>{html.escape(group)}</h3>", *(chart(result) for result in results)]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>lmfast: measured speed</title>'
        f"<style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__.split("\n")[0])
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN.json", help="saved runs; by default the newest"
    )
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder for bench.md and bench.html")
    arguments = parser.parse_args()
    with exit_on_user_error():
        runs = read(arguments.runs) if arguments.runs else newest_runs()
        if not runs:
            raise UserError(f"{FOLDER}: no saved runs yet; run `pytest bench/` first")
        arguments.output.mkdir(parents=True, exist_ok=True)
        for name, text in (("bench.md", markdown(runs)), ("bench.html", page(runs))):
            with written_beside(arguments.output / name) as beside:
                beside.write_text(text, encoding="utf-8")
            print(arguments.output / name)


if __name__ == "__main__":
    main()
