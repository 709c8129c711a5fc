"""Everything that wants a CUDA device, in one go and under nine minutes: `bash bench/gpu.sh [--only STEP …] [--minutes M]`.

The steps, most important first, each a process of its own with a time limit and a JSON file of its own, which holds what
was measured so far whenever it is looked at:

    correctness    kernels right or wrong, all operators at once      bench/gpu_correctness.py
    training       the compiled 124M step: MFU, memory, syncs         bench/gpu_training.py
    run            a short tinystories_17m run, extrapolated          bench/gpu_run.py
    decoding       124M, one sequence and 16                          bench/gpu_decoding.py
    kernels        each kernel beside its peers                       kernels/check.py --what speed
    alternatives   which implementation belongs into the step         bench/gpu_alternatives.py

A step that fails or outlasts its limit is said and does not stop the next; when the minutes are over, what was not begun is
said too. On request only: `beyond`, kernels.check with tensors beyond 2³¹ elements, and `whole-run`, all 327.68M tokens.

Out: one JSON file a step, and gpu.json, which says how each ended; in --output, else in $OUT, else in bench/results. Exit
code 0 when every step asked for ended well, 1 otherwise, 2 without a CUDA device. Needs torch, triton, numpy, numba, regex,
safetensors, pyyaml, rich, matplotlib; transformers for peers. Nothing is installed, nothing is fetched.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import machine
from bench.target_table import Row, line

LEAST = 15.0  # seconds; a step is not begun with less
GRACE = 5.0  # seconds a step gets to end by itself when it is asked to


@dataclass(frozen=True)
class Step:
    """A module that is run with `arguments` and `--output` (or what `to` says) FILE, for at most `limit` seconds."""

    module: str
    limit: float
    arguments: tuple[str, ...] = ()
    to: str = "--output"

    def command(self, output: Path) -> list[str]:
        return [sys.executable, "-m", self.module, *self.arguments, self.to, str(output)]


STEPS: dict[str, Step] = {
    "correctness": Step("bench.gpu_correctness", 120),
    "training": Step("bench.gpu_training", 170),
    "run": Step("bench.gpu_run", 110),
    "decoding": Step("bench.gpu_decoding", 110),
    "kernels": Step("kernels.check", 200, ("--what", "speed"), "--json"),
    "alternatives": Step("bench.gpu_alternatives", 200),
}
ON_REQUEST: dict[str, Step] = {
    "beyond": Step("kernels.check", 500, ("--what", "correct"), "--json"),
    "whole-run": Step("bench.gpu_run", 500, ("--minutes", "7.5")),
}


def run(step: Step, output: Path, limit: float) -> str:
    """How the step ended, in words: "done", or what went wrong. Its processes are gone afterwards."""
    child = subprocess.Popen(step.command(output), cwd=machine.ROOT, start_new_session=True)
    try:
        code = child.wait(limit)
        return "done" if code == 0 else f"failed with exit code {code}"
    except subprocess.TimeoutExpired:
        return f"stopped at its limit of {limit:.0f} s"
    finally:
        _end(child)


def _end(child: subprocess.Popen) -> None:
    """Ends a step's whole process group: asked first, then not asked."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
            child.wait(GRACE)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def save(path: Path, found: dict) -> None:
    beside = path.with_name(f".{path.name}.partial")
    beside.write_text(json.dumps(found, indent=1) + "\n")
    os.replace(beside, path)


def run_all(steps: Mapping[str, Step], folder: Path, described: dict, seconds: float) -> dict[str, dict]:
    """{step: {ended, seconds, limit, file}}, kept in folder/gpu.json after every step."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict] = {}
    end = time.monotonic() + seconds
    for name, step in steps.items():
        output = folder / f"gpu_{name}.json"
        began = time.monotonic()
        limit = min(step.limit, end - began)
        print(f"== {name}: at most {max(0.0, limit):.0f} s", flush=True)
        ended = run(step, output, limit) if limit >= LEAST else "not begun: the time is over"
        took = time.monotonic() - began
        found[name] = {"ended": ended, "seconds": took, "limit": limit, "file": output.name}
        print(f"== {name}: {ended}, {took:.0f} s", flush=True)
        save(folder / "gpu.json", described | {"steps": found})
    return found


def summary(folder: Path, found: Mapping[str, dict]) -> list[str]:
    """How each step ended, and the rows that it left behind, if it is one of those that leave rows."""
    lines = []
    for name, entry in found.items():
        lines.append(f"{name}: {entry['ended']}, {entry['seconds']:.0f} s")
        try:
            left = json.loads((folder / entry["file"]).read_text())
        except (OSError, ValueError):
            continue
        for row in left.get("rows", []):
            given = {key: row[key] for key in ("name", "must", "aim", "value", "shown", "at_most")}
            lines.append("  " + line(Row(**given)))
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bash bench/gpu.sh", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--only", nargs="+", choices=[*STEPS, *ON_REQUEST], metavar="STEP", help="in this order"
    )
    parser.add_argument("--minutes", type=float, default=8.75, help="for all of it")
    parser.add_argument("--output", type=Path, help="a folder")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    gpu = machine.gpu_name()
    if gpu is None:
        print(
            "bench/gpu.sh: needs a CUDA device; without one, python -m kernels.aot inspects the kernels",
            file=sys.stderr,
        )
        return 2
    described = machine.describe(gpu)
    folder = options.output or Path(os.environ.get("OUT") or machine.ROOT / "bench" / "results")
    known = STEPS | ON_REQUEST
    steps = {name: known[name] for name in options.only or STEPS}
    print(
        f"{gpu}, commit {described['commit']}{' with changes' if described['dirty'] else ''}, {described['versions']}"
    )
    found = run_all(steps, folder, described, 60 * options.minutes - (time.monotonic() - began))
    print("\n".join(["", *summary(folder, found), "", f"{time.monotonic() - began:.0f} s; {folder}"]))
    return 0 if all(entry["ended"] == "done" for entry in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
