"""The pictures of README and docs, from saved results alone: `python -m bench.pictures` writes docs/pictures/*.svg.

In: bench/results/quickstart (metrics.jsonl, run.json and config.yaml of a quickstart run), and the comparisons with peers
in bench/results/*.json that README quotes. Out: report.svg, the run report's loss and bits per byte; bench.svg, how many
times as fast as the fastest peer. A test compares both with what these files give.
"""

import argparse
import hashlib
import re
import tempfile
from pathlib import Path

from bench import machine, readme, report, results
from lmfast.files import atomic_write
from lmfast.training.report import write_report

PICTURES = machine.ROOT / "docs" / "pictures"
RUN = results.RESULTS / "quickstart"
CURVES = ("Loss against tokens", "Bits per byte")
WIDTH, HEIGHT = 403.2, 244.8  # points of one figure of the report
STYLE = "<style>text { font: 13px system-ui, sans-serif; fill: #1b1f24 }</style>"
WHITE = '<rect width="100%" height="100%" fill="#fff"/>'


def source_hash() -> str:
    """sha256 of the files that report.svg shows."""
    return hashlib.sha256(b"".join((RUN / n).read_bytes() for n in ("metrics.jsonl", "run.json"))).hexdigest()


def run_report() -> str:
    """The report's figures named in CURVES, next to each other."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        write_report([RUN], page)
        figures = re.findall(r"<svg.*?</svg>", page.read_text(encoding="utf-8"), re.DOTALL)
    parts = []
    for i, title in enumerate(CURVES):
        figure = next(figure for figure in figures if f">{title}<" in figure)
        figure = re.sub(r"<metadata>.*?</metadata>", "", figure, flags=re.DOTALL)
        parts.append(figure.replace("<svg ", f'<svg x="{i * WIDTH}" ', 1).replace('pt"', '"'))
    inside = re.sub(r"[ \t]+$", "", "".join(parts), flags=re.MULTILINE)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {len(CURVES) * WIDTH:g} {HEIGHT:g}">'
        f"<!-- from {source_hash()} -->{WHITE}{inside}</svg>\n"
    )


def benchmarks() -> str:
    """The bars of everything that README compares on a CPU, each with its fastest peer."""
    found = readme.comparisons(readme.saved_results())
    pairs = [(f"{table} {row.name}", row.peers[0]) for table, row, _ in found]
    svg = report.bars("Times as fast as the fastest peer, logarithmic", pairs)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {svg.removeprefix("<svg ")}'
    return head.replace(">", f">{STYLE}{WHITE}", 1) + "\n"


def main() -> None:
    argparse.ArgumentParser(prog="python -m bench.pictures", description=__doc__.split("\n")[0]).parse_args()
    for name, draw in (("report.svg", run_report), ("bench.svg", benchmarks)):
        with atomic_write(PICTURES / name) as temporary:
            temporary.write_text(draw(), encoding="utf-8")
        print(PICTURES / name)


if __name__ == "__main__":
    main()
