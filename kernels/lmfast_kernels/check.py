"""Checks the correctness and the speed of every operator on a CUDA device: `python -m lmfast_kernels.check`.

For each operator, the most time-consuming first: compares bf16 with float32 at real sizes and above 2³¹ elements
(check_correct.py), then times it and its peers relative to the device's measured ceilings (check_speed.py). Prints each
result immediately and saves it to a JSON file, so an interrupted run loses nothing; `--resume` skips operators that are
complete in the file for this device, these versions and this commit. An operator that raises is reported with its
traceback, and the next one follows. `--quick` times few sizes and no peer that Inductor compiles; `--small` checks small
shapes; `--rehearse` runs the same code without a device, at tiny sizes. Needs torch, triton and numpy. Exit code
0 if all results are correct, 1 if a result is wrong or an operator raised, 2 without a CUDA device.
"""

import argparse
import dataclasses
import sys
import time
import traceback
from pathlib import Path

import torch

from lmfast_kernels import backend
from lmfast_kernels.check_correct import CHECKS
from lmfast_kernels.check_correct import Sizes as CheckSizes
from lmfast_kernels.check_report import Report, machine, row, target_table
from lmfast_kernels.check_speed import IN_A_COMPILED_STEP, SPEEDS, compiled_step
from lmfast_kernels.check_speed import Sizes as SpeedSizes

CEILING_ELEMENTS, CEILING_SIDE = 2**30, 8192
SMALL = CheckSizes(
    rows=256, width=512, seq=256, head_dims=(64, 128, 80), lengths=((1, 1), (113, 203)),
    decode=((1, 12, 12), (3, 8, 2)), linear=((768, 2304), (2560, 768), (333, 101)), vocab=1000, huge=0,
)  # fmt: skip
QUICK = SpeedSizes(attention_seqs=(4096,), compiled_peers=False, linear_rows=(1, 4))
TINY_CHECK = CheckSizes(
    rows=16,
    width=64,
    seq=24,
    head_dims=(16,),
    lengths=((3, 5),),
    decode=((1, 2, 2),),
    linear=((24, 10),),
    vocab=64,
    huge=0,
)
TINY_SPEED = SpeedSizes(
    rows=16, width=64, d_ff=48, tokens=32, attention_seqs=(16,), attention_width=64, d_model=64, vocab=64,
    context=32, decode_batches=(1,), linear=((24, 10),), linear_rows=(1,), cache_bytes=1,
)  # fmt: skip


def run(
    report: Report, operators: list[str], what: str, check_sizes: CheckSizes, speed_sizes: SpeedSizes
) -> None:
    """Checks, then times, each of `operators`; `what` is all, correct or speed."""
    for operator in operators:
        start = time.monotonic()
        report.begin(operator)
        try:
            _run_one(report, operator, what, check_sizes, speed_sizes)
        except Exception as problem:
            traceback.print_exc()
            reason = f"{type(problem).__name__}: {str(problem).splitlines()[0][:160] if str(problem) else ''}"
            report.check(operator, f"raised {reason}", float("nan"), 0.0)
        report.finish(operator)
        report.echo(f"{operator}: {time.monotonic() - start:.0f} s")


def _run_one(
    report: Report, operator: str, what: str, check_sizes: CheckSizes, speed_sizes: SpeedSizes
) -> None:
    if what != "speed":
        CHECKS[operator](report, check_sizes)
        checks = report.operators[operator]["checks"]
        passed = sum(entry.get("passed") is True for entry in checks)
        skipped = sum("skipped" in entry for entry in checks)
        report.echo(f"{operator}: {passed} of {len(checks) - skipped} comparisons passed, {skipped} skipped")
    if what != "correct":
        SPEEDS[operator](report, speed_sizes)
        if operator in IN_A_COMPILED_STEP and speed_sizes.compiled_peers:
            compiled_step(report, operator, speed_sizes)


def summary(report: Report) -> list[str]:
    """All timings, the targets, and the failed comparisons."""
    lines = ["", "timings:"]
    for operator, results in report.operators.items():
        lines += [row(operator, entry) for entry in results["timings"] if "ms" in entry]
    lines += ["", "targets for an H100:", *target_table(report)]
    wrong = report.wrong()
    lines += ["", f"{len(wrong)} comparisons failed" if wrong else "all comparisons passed"]
    return lines + [f"  {operator}: {entry['what']}: {entry['error']:.3g}" for operator, entry in wrong]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lmfast_kernels.check", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument(
        "--only", action="append", choices=sorted(CHECKS), help="check only this operator; may be repeated"
    )
    parser.add_argument(
        "--what", choices=("all", "correct", "speed"), default="all", help="what to check (default: all)"
    )
    parser.add_argument(
        "--usual-sizes",
        action="store_true",
        help="skip the checks above 2³¹ elements, which need tens of gigabytes",
    )
    parser.add_argument("--small", action="store_true", help="check only small shapes")
    parser.add_argument("--quick", action="store_true", help="time few sizes, without compiled peers")
    parser.add_argument("--rehearse", action="store_true", help="run without a device, at tiny sizes")
    parser.add_argument(
        "--json",
        type=Path,
        default=Path("runs/kernels_check.json"),
        help="file for the results (default: runs/kernels_check.json)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="skip operators that are complete in the --json file"
    )
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available() and not options.rehearse:
        print(
            "lmfast_kernels.check: needs a CUDA device; without one, use --rehearse or python -m lmfast_kernels.aot",
            file=sys.stderr,
        )
        return 2
    if backend.triton is None or backend.INTERPRETING or backend.MODE != "auto":
        print(
            "lmfast_kernels.check: needs Triton; install it and unset TRITON_INTERPRET and LMFAST_KERNELS",
            file=sys.stderr,
        )
        return 2
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    torch.manual_seed(0)
    report = Report(device, options.json, machine(device))
    try:
        report.load()
    except ValueError as problem:
        print(f"lmfast_kernels.check: {problem}", file=sys.stderr)
        return 2
    print(" ".join(f"{key} {value}" for key, value in report.machine.items()))
    if options.what != "correct":
        report.measure_ceilings(*((CEILING_ELEMENTS, CEILING_SIDE) if cuda else (2**16, 64)))
    check_sizes = SMALL if options.small else CheckSizes()
    speed_sizes = QUICK if options.quick else SpeedSizes()
    if options.usual_sizes:
        check_sizes = dataclasses.replace(check_sizes, huge=0)
    if options.rehearse and not cuda:
        check_sizes, speed_sizes = TINY_CHECK, TINY_SPEED
    operators = [name for name in CHECKS if options.only is None or name in options.only]
    if options.resume:
        operators = [name for name in operators if not report.operators.get(name, {}).get("done")]
    run(report, operators, options.what, check_sizes, speed_sizes)
    print("\n".join(summary(report)))
    return 1 if report.wrong() else 0


if __name__ == "__main__":
    sys.exit(main())
