"""A table of targets: rows that judge themselves, printed as they are measured and saved with the machine.

In: rows one after another, a description of the machine (machine.py). Out: a line a row, and bench/results/NAME.json,
with the time at which it was measured, which is whole after every row. What the tables of issues share:
tokenizer_table.py, generation_table.py.
"""

import argparse
import json
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from bench import machine
from bench.timing import seconds


@dataclass
class Row:
    """A line of the table; `value` is what `must` and `aim` are compared with (greater is better unless `at_most`).

    Without `must` it is a figure that nobody has set a target for."""

    name: str
    must: float | None
    aim: float | None
    value: float
    shown: str
    at_most: bool = False
    data: dict = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        def reaches(target: float) -> bool:
            return self.value <= target if self.at_most else self.value >= target

        if self.aim is not None and reaches(self.aim):
            return "aim"
        if self.must is None:
            return "-"
        return "must" if reaches(self.must) else "missed"


def line(row: Row) -> str:
    """The row as it is printed."""
    limit = "at most" if row.at_most else "at least"
    targets = "" if row.must is None else f" ({limit} {row.must}, aim {row.aim})"
    return f"{row.verdict:>6}  {row.name}{targets}: {row.shown}"


def save(path: Path, described: dict, rows: list[Row], took: float) -> None:
    result = described | {
        "datetime": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": took,
        "rows": [
            {
                name: getattr(row, name)
                for name in ("name", "must", "aim", "value", "at_most", "verdict", "shown", "data")
            }
            for row in rows
        ],
    }
    beside = path.with_name(f".{path.name}.partial")
    beside.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(beside, path)


def add_options(parser: argparse.ArgumentParser, names: Collection[str]) -> None:
    """--only, of these rows, and --output."""
    parser.add_argument("--only", nargs="+", choices=names, metavar="ROW", help=f"of {', '.join(names)}")
    add_output(parser)


def add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=Path, help="the JSON file; bench/results/<table>_<device>.json by default"
    )


def measure(device: str, described: dict, rows: Iterable[Row], output: Path | str) -> None:
    """Measures, prints and saves all rows. output: a path, or a name in bench/results."""
    output = output if isinstance(output, Path) else machine.ROOT / "bench" / "results" / output
    output.parent.mkdir(parents=True, exist_ok=True)
    print(
        f"{device}, commit {described['commit']}{' with changes' if described['dirty'] else ''}; "
        f"load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    done: list[Row] = []

    def measure_all() -> None:
        for row in rows:
            done.append(row)
            print(line(row), flush=True)
            save(output, described, done, 0.0)

    took = seconds(measure_all)
    save(output, described, done, took)
    print(f"{took:.0f} s; {output}")
