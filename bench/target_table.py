"""A table of targets: rows that judge themselves, printed as they are measured and saved with the machine.

In: rows one after another, a description of the machine (machine.py). Out: a line per row, and bench/results/NAME.json,
which is complete after every row and carries the time of the measurement. A result that differs from its reference
keeps its time and is marked WRONG; a row that raised is marked FAILED, with the traceback on stderr. Both make the
command exit with code 1. Used by tokenizer_table.py, generation_table.py, training_table.py and gpu_*.py.
"""

import argparse
import json
import os
import traceback
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from bench import machine
from bench.timing import seconds
from lmfast.files import atomic_write

WRONG, FAILED = "WRONG", "FAILED"
FIELDS = "name", "must", "aim", "value", "at_most", "predicted", "wrong", "shown", "data"


@dataclass
class Row:
    """A line of the table; `value` is what `must` and `aim` are compared with (greater is better unless `at_most`).

    Without `must` it is a figure that nobody has set a target for. predicted: what was expected before measuring.
    wrong: how the result differs from its reference, or why there is none; such a row meets no target."""

    name: str
    must: float | None
    aim: float | None
    value: float
    shown: str
    at_most: bool = False
    data: dict = field(default_factory=dict)
    predicted: str = ""
    wrong: str = ""

    @property
    def verdict(self) -> str:
        if self.wrong:
            return FAILED if self.wrong.startswith(FAILED) else WRONG

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
    predicted = f" [predicted {row.predicted}]" if row.predicted else ""
    wrong = f" {row.wrong};" if row.wrong else ""
    return f"{row.verdict:>6}  {row.name}{targets}:{wrong} {row.shown}{predicted}"


def attempt(name: str, make: Callable[[], Row]) -> Row:
    """make's row, or one that says why there is none: no error of one row keeps the next from being measured."""
    try:
        return make()
    except Exception as error:
        return failed(name, error)


def failed(name: str, error: Exception) -> Row:
    """The row that reports an error; its traceback goes to stderr."""
    traceback.print_exception(error)
    reason = str(error).strip().split("\n")[0][:200]
    return Row(name, None, None, 0.0, "", wrong=f"{FAILED}: {type(error).__name__}: {reason}")


def read_rows(path: Path) -> list[Row]:
    """The rows of a saved table; none where the file is missing, damaged or of another kind."""
    try:
        saved = json.loads(path.read_text())["rows"]
        return [Row(**{name: row[name] for name in FIELDS}) for row in saved]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def save(path: Path, described: dict, rows: list[Row], took: float) -> None:
    result = described | {
        "datetime": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": took,
        "rows": [{name: getattr(row, name) for name in FIELDS} | {"verdict": row.verdict} for row in rows],
    }
    save_json(path, result)


def save_json(path: Path, found: dict) -> None:
    """Writes the file in one step: whoever looks sees the old one or the new one."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")


def add_options(parser: argparse.ArgumentParser, names: Collection[str]) -> None:
    """--only, of these rows, and --output."""
    parser.add_argument("--only", nargs="+", choices=names, metavar="ROW", help=f"of {', '.join(names)}")
    add_output(parser)


def add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=Path, help="the JSON file; bench/results/<table>_<device>.json by default"
    )


def measure(device: str, described: dict, rows: Iterable[Row], output: Path | str) -> int:
    """Measures, prints and saves all rows; one with the name of the last takes its place. output: a path, or a name in
    bench/results.

    Returns the command's exit code: 1 where a row is WRONG or FAILED."""
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
            if done and done[-1].name == row.name:
                done.pop()  # the same row, of which more is known now
            done.append(row)
            print(line(row), flush=True)
            save(output, described, done, 0.0)

    took = seconds(measure_all)
    save(output, described, done, took)
    print(f"{took:.0f} s; {output}")
    return 1 if any(row.wrong for row in done) else 0
