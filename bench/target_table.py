"""A table of targets: rows with verdicts, printed as they are measured and saved with the machine.

In: rows one after another. Out: a line per row, and bench/results/TABLE_DEVICE.json (results.py), complete after every
row. A result that differs from its reference keeps its time and is marked WRONG; a row that raised is marked FAILED,
with the traceback on stderr. Both make the command exit with code 1.
"""

import argparse
import os
import traceback
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from bench import machine
from bench.results import FAILED, RESULTS, Row, Run, write
from bench.timing import seconds


def attempt(name: str, make: Callable[[], Row]) -> Row:
    """The row that `make` returns, or one with its error: an error in one row does not stop the next."""
    try:
        return make()
    except Exception as error:
        return failed(name, error)


def failed(name: str, error: Exception) -> Row:
    """The row that reports an error; its traceback goes to stderr."""
    traceback.print_exception(error)
    reason = str(error).strip().split("\n")[0][:200]
    return Row(name, 0.0, wrong=f"{FAILED}: {type(error).__name__}: {reason}")


def compared(
    name: str, times: dict[str, list[float]], shown: str, must: float | None = None, aim: float | None = None, **data
) -> Row:  # fmt: skip
    """The row of ours and one peer: its value is how many times as fast we are, which precedes `shown`."""
    row = Row(name, 0.0, must=must, aim=aim, times=times, data=data)
    found = row.peers[0].ratio
    row.value, row.shown = found.median, f"{found} x {shown}"
    return row


def parser_of(module: str, description: str, rows: Collection[str] = ()) -> argparse.ArgumentParser:
    """A parser of `python -m bench.MODULE` with --output and, where there are rows to choose from, --only."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{module}", description=description.split("\n")[0])
    if rows:
        parser.add_argument("--only", nargs="+", choices=rows, metavar="ROW", help=f"of {', '.join(rows)}")
    parser.add_argument(
        "--output", type=Path, help="JSON file (default: bench/results/<table>_<device>.json)"
    )
    return parser


def default_path(table: str, device: str, suffix: str = "") -> Path:
    return RESULTS / f"{table}_{machine.slug(device)}{suffix}.json"


def measure(
    table: str, rows: Iterable[Row], output: Path | None = None, gpu: str | None = None, suffix: str = "", **settings
) -> int:  # fmt: skip
    """Measures, prints and saves all rows; one with the name of the last replaces it.

    gpu: the device's name, None for a CPU. Returns the command's exit code: 1 where a row is WRONG or FAILED."""
    run = Run(table, machine.describe(gpu), [], settings=settings)
    output = output or default_path(table, gpu or run.machine["cpu"], suffix)
    output.parent.mkdir(parents=True, exist_ok=True)
    changed = " with changes" if run.machine["dirty"] else ""
    print(f"{run.device}, commit {run.machine['commit']}{changed}; load {os.getloadavg()[0]:.1f}", flush=True)

    def measure_all() -> None:
        for row in rows:
            if run.rows and run.rows[-1].name == row.name:
                run.rows.pop()  # the same row, of which more is known now
            run.rows.append(row)
            print(row.line, flush=True)
            write(output, run)

    run.seconds = seconds(measure_all)
    write(output, run)
    print(f"{run.seconds:.0f} s; {output}")
    return 1 if any(row.wrong for row in run.rows) else 0
