"""Everything that needs a CUDA device, in one command: `bash bench/gpu.sh [--smoke] [--only STEP …] [--minutes M]`.

`--smoke` (under three minutes) runs every GPU path once at small sizes, all at the same time, and times nothing:
bench/gpu_smoke.py; `--smoke CHECK …` runs only these checks. Without it, the
measurements, most important first, each step with its own time limit:

    correctness    operators at real sizes and the whole model, while caches are filled       bench/gpu_correctness.py
    training       the compiled 124M step with cuDNN's attention and ours, and Hugging
                   Face's, in FP8: MFU, memory                                        bench/gpu_training.py
    kernels        each kernel against its peers                                       lmfast_kernels/check.py --what speed
    run            a short tinystories_17m run, extrapolated                                  bench/gpu_run.py
    decoding       124M, one sequence and 16                                                  bench/gpu_decoding.py

A step that fails or exceeds its limit is reported and does not stop the next; steps for which no time is left are
reported too. On request only: `options`, the step of two layers with windows and other choices; `scaling`, the tokenizer
with 1, 2, 4, … workers (bench/tokenizer_scaling.py); `tiles`, the sweep; `profile`, the kernels of the step; `recipes`, the
rates of two configs (bench/gpu_recipes.py); `warm` and `warm-others`, the caches alone, two rows at a time, as many as
fit 80 GB; `beyond`, lmfast_kernels.check with tensors beyond 2³¹ elements; `whole-run`, all 327.68M tokens.
`--rehearse` runs the same steps on a machine without a device, in float32 and at tiny sizes.

Out, in --output, else $OUT, else bench/results: one JSON file per step, complete after every row; gpu.json, which says how
each step ended; gpu.log, everything that every process printed. Exit code 0 if every step succeeded, 1 otherwise, 2
without a CUDA device. Needs torch, triton, numpy, numba, regex, safetensors, pyyaml, rich, matplotlib; transformers for
peers. Nothing is installed or downloaded.
"""

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import machine, results
from bench.gpu_jobs import Log, Step, run_step
from bench.gpu_smoke import CHECKS
from bench.gpu_steps import ON_REQUEST, STEPS, smoke_steps
from bench.results import FAILED, Row, Run

LEAST = 12.0  # seconds; a step is not started with less
MINUTES, SMOKE_MINUTES = 7.5, 2.85
NOT_STARTED = "not started: no time left"


def run_all(
    steps: Mapping[str, Step], folder: Path, described: dict, seconds: float, clock=time.monotonic
) -> list[Row]:
    """A row for each step: its seconds, how it ended, its limit and jobs; saved in folder/gpu.json after every step."""
    folder.mkdir(parents=True, exist_ok=True)
    run, end = Run("gpu", described, []), clock() + seconds
    with Log(folder / "gpu.log") as log:
        for name, step in steps.items():
            began = clock()
            limit, jobs, ended = max(0.0, min(step.limit, end - began)), {}, NOT_STARTED
            if limit >= LEAST:
                log.write(f"== {name}: at most {limit:.0f} s")
                jobs = run_step(step, folder, limit, log, clock)
                ended = "; ".join(f"{job}: {how}" for job, how in jobs.items() if how != "done") or "done"
            took = clock() - began
            log.write(f"== {name}: {ended}, {took:.0f} s")
            wrong = "" if ended == "done" else f"{FAILED}: {ended}"
            run.rows.append(Row(name, took, ended, wrong=wrong, data={"limit": limit, "jobs": jobs}))
            results.write(folder / "gpu.json", run)
    return run.rows


def summary(folder: Path, steps: Mapping[str, Step], found: Sequence[Row]) -> list[str]:
    """How each step ended, and the rows that its jobs left."""
    lines = []
    for step in found:
        lines.append(f"{step.name}: {step.shown}, {step.value:.0f} s")
        outputs = [folder / job.output for job in steps[step.name].jobs if job.output is not None]
        lines += [f"  {row.line}" for run in results.readable(outputs) for row in run.rows]
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bash bench/gpu.sh", description=__doc__.split("\n")[0])
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--smoke",
        nargs="*",
        choices=CHECKS,
        metavar="CHECK",
        help="these GPU paths once, or all, nothing timed",
    )
    kind.add_argument(
        "--only", nargs="+", choices=[*STEPS, *ON_REQUEST], metavar="STEP", help="in this order"
    )
    parser.add_argument(
        "--rehearse", action="store_true", help="without a device: the same steps at tiny sizes"
    )
    parser.add_argument(
        "--minutes", type=float, help=f"for all of it; {MINUTES}, or {SMOKE_MINUTES} with --smoke"
    )
    parser.add_argument("--output", type=Path, help="a folder")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    gpu = machine.gpu_name()
    if gpu is None and not options.rehearse:
        print(
            "bench/gpu.sh: needs a CUDA device; without one, --rehearse runs the same steps at tiny sizes and "
            "python -m lmfast_kernels.aot inspects the kernels",
            file=sys.stderr,
        )
        return 2
    described = machine.describe(gpu)
    default = machine.ROOT / ("runs/gpu_rehearsal" if options.rehearse else "bench/results")
    folder = options.output or Path(os.environ.get("OUT") or default)
    known = STEPS | ON_REQUEST
    smoke = options.smoke is not None
    steps = smoke_steps(options.smoke) if smoke else {name: known[name] for name in options.only or STEPS}
    if options.rehearse:
        steps = {name: step.rehearsed() for name, step in steps.items()}
    minutes = options.minutes or (60.0 if options.rehearse else SMOKE_MINUTES if smoke else MINUTES)
    print(
        f"{gpu or described['cpu']}, commit {described['commit']}{' with changes' if described['dirty'] else ''}, "
        f"{described['versions']}",
        flush=True,
    )
    found = run_all(steps, folder, described, 60 * minutes - (time.monotonic() - began))
    print("\n".join(["", *summary(folder, steps, found), "", f"{time.monotonic() - began:.0f} s; {folder}"]))
    return 1 if any(step.wrong for step in found) else 0


if __name__ == "__main__":
    sys.exit(main())
