"""Which implementation belongs into a compiled step? `python -m bench.gpu_alternatives [--layers N] [--only NAME …]`.

The step of a config with fewer layers (each alternative compiles anew), its batch size kept; one thing is changed at a
time: an operator's other implementation (kernels/backend.py's CHOICES has a column for compiled code), Inductor's
search for matrix products. A row says how many times as fast as without the change, and
is saved as it comes; the first and the last row are the unchanged step, whose difference is the noise. Before it is
timed, an alternative's first loss and gradient norm must be those of the uncompiled step.
"""

import argparse
import contextlib
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace

import torch

from bench import machine
from bench.gpu_training import CONFIG, Job, attempt, read_config, speed
from bench.target_table import Row, add_options, measure
from kernels import backend
from lmfast.model.device import make_deterministic, pick_device


@contextlib.contextmanager
def choosing(operator: str, what: str) -> Iterator[None]:
    """Within, `operator` is `what` in compiled code."""
    before = backend.CHOICES[operator]
    backend.CHOICES[operator] = (before[0], what)
    try:
        yield
    finally:
        backend.CHOICES[operator] = before


UNCHANGED = "unchanged"
ALTERNATIVES: dict[str, Callable[[], AbstractContextManager]] = {
    "attention-triton": lambda: choosing("attention", "triton"),
    "attention-torch": lambda: choosing("attention", "torch"),
    "attention-cudnn": lambda: choosing("attention", "cudnn"),
    "rms_norm-torch": lambda: choosing("rms_norm", "torch"),
    "linear_cross_entropy-torch": lambda: choosing("linear_cross_entropy", "torch"),
    "rope-triton": lambda: choosing("rope", "triton"),
    "swiglu-triton": lambda: choosing("swiglu", "triton"),
    "max-autotune": lambda: torch._inductor.config.patch(max_autotune=True),
}


def rows(job: Job, only: list[str] | None = None) -> Iterator[Row]:
    """UNCHANGED, each alternative beside it, UNCHANGED again."""
    base = None
    chosen = {name: make for name, make in ALTERNATIVES.items() if only is None or name in only}
    for name, make in [
        (UNCHANGED, contextlib.nullcontext),
        *chosen.items(),
        (UNCHANGED, contextlib.nullcontext),
    ]:
        try:
            with make():
                row = attempt(speed, job)
        except (RuntimeError, SystemExit) as problem:  # refused by the device or the compiler, or wrong
            reason = str(problem).strip().split("\n")[0][:200]
            yield Row(f"{job.name}, {name}", None, None, 0.0, f"absent: {reason}", data={"absent": reason})
            continue
        if "times" not in row.data:
            yield row
            continue
        middle = statistics.median(row.data["times"])
        base = base or middle
        shown = f"{base / middle:.3f} x unchanged; {row.shown}"
        yield Row(f"{job.name}, {name}", None, None, base / middle, shown, data=row.data)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu_alternatives", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--config", default=CONFIG, help="of configs/")
    parser.add_argument("--layers", type=int, default=4)
    add_options(parser, ALTERNATIVES)
    arguments = parser.parse_args()
    settings, device = read_config(arguments.config), pick_device("auto")
    make_deterministic(device)
    shape = replace(settings.model, num_layers=arguments.layers).resolved()
    job = Job(
        f"{arguments.config} of {arguments.layers} layers",
        shape,
        settings.optimizer.batch_size,
        device,
        rounds=5,
    )
    gpu = machine.gpu_name()
    described = machine.describe(gpu)
    name = f"gpu_alternatives_{machine.slug(gpu or described['cpu'])}.json"
    measure(gpu or described["cpu"], described, rows(job, arguments.only), arguments.output or name)


if __name__ == "__main__":
    main()
