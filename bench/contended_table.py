"""What is left of the speed next to other busy processes: `python -m bench.contended_table [--only ROW …] [--quick]`.

In turns, each kind of work alone and next to one process that only computes (a tiny model also next to two); everything
in processes with the environment of our commands (worker.py). A row's value is the share of the quiet rate, by total
time; on two cores with one neighbour the scheduler's fair share is two thirds, with two a half.

Out: the table, and bench/results/contended_<cpu>.json.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator

from bench.results import Row
from bench.target_table import measure, parser_of
from bench.worker import Worker

# (kind of work, neighbours): (must, repetitions a round)
TARGETS = {
    ("training 5.3M", 1): (0.62, 10),
    ("training 0.2M", 1): (0.40, 300),
    ("training 0.2M", 2): (0.15, 300),
    ("decoding 5.3M", 1): (0.62, 40),
    ("evaluation 5.3M", 1): (0.62, 30),
}
ROWS = {f"{kind}, {count} busy": (kind, count) for kind, count in TARGETS}


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Processes that compute and nothing else."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    time.sleep(0.3)  # until they have started
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def share(name: str, rounds: int, repetitions: int | None = None) -> Row:
    """The row of ROWS with this name."""
    kind, count = ROWS[name]
    must, usual = TARGETS[kind, count]
    quiet: list[float] = []
    contended: list[float] = []
    with Worker(kind) as work:
        for _ in range(rounds):
            quiet.append(sum(work(repetitions or usual)))
            with neighbours(count):
                contended.append(sum(work(repetitions or usual)))
    value = sum(quiet) / sum(contended)
    shown = f"{value:.0%} of the quiet rate"
    return Row(name, value, shown, must, times={"ours": contended}, data={"quiet": quiet})


def main() -> int:
    parser = parser_of("contended_table", __doc__, ROWS)
    parser.add_argument("--quick", action="store_true", help="one short round: only proves that it works")
    arguments = parser.parse_args()
    rows = (share(name, *((1, 2) if arguments.quick else (5, None))) for name in arguments.only or ROWS)
    return measure("contended", rows, arguments.output, suffix="_quick" if arguments.quick else "")


if __name__ == "__main__":
    raise SystemExit(main())
