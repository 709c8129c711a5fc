"""Checks every kernel on this device: `python -m bench.gpu_correctness`: `lmfast_kernels.check --what correct` of all
operators at once, and the whole model against plain PyTorch (the row `agreement` of gpu_training.py).

Compilation takes most of the time and the host has enough cores, so each operator has a separate process, which also
leaves compiled kernels in Triton's cache for later steps. Sizes beyond 2³¹ elements are left to lmfast_kernels.check:
they need all of the device's memory.

Out: one file of results, rewritten while operators finish: a row per operator, and one for each process that failed. Exit
code 0 if all is correct, 1 if a result is wrong or a process failed.
"""

import functools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import gpu_kernels, machine, results
from bench.results import FAILED, Row, Run
from bench.target_table import default_path, parser_of
from lmfast_kernels.check_correct import CHECKS

MODEL = "agreement"


def command(operator: str, path: Path, rehearse: bool = False) -> list[str]:
    if operator == MODEL:
        words = ["bench.gpu_training", "--only", MODEL, "--output", str(path)]
    else:
        words = [
            "lmfast_kernels.check",
            "--what",
            "correct",
            "--usual-sizes",
            "--only",
            operator,
            "--json",
            str(path),
        ]
    return [sys.executable, "-m", *words, *(["--rehearse"] if rehearse else [])]


def check(
    operators: Sequence[str], output: Path, described: dict, make: Callable[[str, Path], list[str]] = command
) -> bool:
    """Whether each operator's process found everything correct; `output` has their findings."""
    run = Run("gpu_correctness", described, [])
    with tempfile.TemporaryDirectory() as name:
        paths = {operator: Path(name) / f"{operator}.json" for operator in operators}
        running = {
            operator: subprocess.Popen(make(operator, path), cwd=machine.ROOT)
            for operator, path in paths.items()
        }
        failures: list[Row] = []
        try:
            while running:
                for operator in [name for name, child in running.items() if child.poll() is not None]:
                    if code := running.pop(operator).returncode:
                        failures.append(Row(operator, code, wrong=f"{FAILED}: exit code {code}"))
                saved = [path for path in paths.values() if path.exists()]
                run.rows = [row for path in saved for row in gpu_kernels.rows_of([path])] + failures
                results.write(output, run)
                time.sleep(0.2)
        finally:
            for child in running.values():
                child.kill()
    return not failures


def main() -> int:
    parser = parser_of("gpu_correctness", __doc__)
    parser.add_argument("--rehearse", action="store_true", help="without a device, at tiny sizes")
    arguments = parser.parse_args()
    described = machine.describe(machine.gpu_name())
    output = arguments.output or default_path("gpu_correctness", described["gpu"] or described["cpu"])
    output.parent.mkdir(parents=True, exist_ok=True)
    make = functools.partial(command, rehearse=arguments.rehearse)
    return 0 if check([MODEL, *CHECKS], output, described, make) else 1


if __name__ == "__main__":
    sys.exit(main())
