"""Is every kernel right on this device? `python -m bench.gpu_correctness`:
lmfast_kernels.check --what correct, all at once, and the whole model against plain PyTorch (the row `agreement` of
gpu_training.py).

Compilation takes most of the time and the host has enough cores, so each operator has a process of its own, which also
leaves compiled kernels in Triton's cache for later steps. Sizes beyond 2³¹ elements are left to lmfast_kernels.check itself:
they need the whole memory of the device.

Out: one file, rewritten whenever an operator is done, {machine, operators: {name: what lmfast_kernels.check keeps, or
rows}, exit_codes}. Exit code 0 if all is right, 1 if a result is wrong or a process failed.
"""

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import machine
from bench.target_table import save_json
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
    """Whether each operator's process found everything right; `output` holds what they found."""
    found: dict = described | {"operators": {}, "exit_codes": {}}
    with tempfile.TemporaryDirectory() as name:
        paths = {operator: Path(name) / f"{operator}.json" for operator in operators}
        running = {
            operator: subprocess.Popen(make(operator, path), cwd=machine.ROOT)
            for operator, path in paths.items()
        }
        try:
            while running:
                for operator in [name for name, child in running.items() if child.poll() is not None]:
                    found["exit_codes"][operator] = running.pop(operator).returncode
                for operator, path in paths.items():
                    if path.exists():
                        kept = json.loads(path.read_text())
                        found["operators"] |= kept.get("operators") or {operator: {"rows": kept["rows"]}}
                save_json(output, found)
                time.sleep(0.2)
        finally:
            for child in running.values():
                child.kill()
    return not any(found["exit_codes"].values())


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu_correctness", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--output", type=Path, help="the JSON file; in bench/results by default")
    parser.add_argument("--rehearse", action="store_true", help="without a device, at tiny sizes")
    arguments = parser.parse_args()
    described = machine.describe(machine.gpu_name())
    name = f"gpu_correctness_{machine.slug(described['gpu'] or described['cpu'])}.json"
    output = arguments.output or machine.ROOT / "bench" / "results" / name
    output.parent.mkdir(parents=True, exist_ok=True)
    make = functools.partial(command, rehearse=arguments.rehearse)
    return 0 if check([MODEL, *CHECKS], output, described, make) else 1


if __name__ == "__main__":
    sys.exit(main())
