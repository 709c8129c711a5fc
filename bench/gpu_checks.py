"""Named checks on a device, one after another: the command line shared by gpu_smoke_decoding.py and gpu_smoke_fp8.py.

Prints each check's result or its traceback; exit code 1 if any failed. Then, if all were chosen and a device is present,
prints costs.
"""

import argparse
import time
import traceback
from collections.abc import Callable, Iterable, Mapping

import torch

Check = Callable[[torch.device], str]


def parser_of(module: str, description: str, checks: Mapping[str, Check]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m bench.{module}", description=description.split("\n")[0])
    parser.add_argument("--rehearse", action="store_true", help="the checks on a CPU")
    parser.add_argument(
        "--only", nargs="+", choices=checks, help="checks to run (default: all, then the costs)"
    )
    return parser


def run(
    options: argparse.Namespace,
    checks: Mapping[str, Check],
    costs: Callable[[torch.device], Iterable[str]],
    why_not: Callable[[torch.device], str | None] = lambda device: None,
) -> int:
    """Raises SystemExit where `why_not` names a reason that the device cannot run them, or where there is none."""
    device = torch.device("cpu" if options.rehearse else "cuda")
    if not options.rehearse:
        reason = why_not(device) if torch.cuda.is_available() else "needs a CUDA device, or --rehearse"
        if reason:
            raise SystemExit(reason)
    failed = []

    def attempt(name: str, call: Callable[[], str]) -> None:
        torch.manual_seed(0)
        torch._dynamo.reset()
        begin = time.perf_counter()
        try:
            print(f"{name}: {call()} ({time.perf_counter() - begin:.1f} s)", flush=True)
        except Exception:
            failed.append(name)
            print(f"{name}: FAILED\n{traceback.format_exc()}", flush=True)

    for name in options.only or checks:
        attempt(name, lambda name=name: checks[name](device))
    if not options.rehearse and not options.only:
        attempt("costs", lambda: "\n".join(["", *costs(device)]))
    print(f"failed: {', '.join(failed)}" if failed else "all passed", flush=True)
    return 1 if failed else 0
