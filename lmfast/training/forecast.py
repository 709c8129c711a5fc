"""Estimates of a run's memory and time: before the first step, and from measurements after ten steps.

Input: resolved settings, the rows of a step, the peak of the device in FLOP/s. Output: lines for the console. Memory is
computed by model/memory.py. The first time assumes a fraction of the peak; the second is measured and includes
evaluations.
"""

from collections.abc import Callable, Sequence

import torch

from lmfast.data.batch_ramp import BatchRamp
from lmfast.hardware import machine_memory
from lmfast.model.accounting import training_flops_per_token
from lmfast.model.communication import recomputed_share
from lmfast.model.memory import USABLE
from lmfast.model.parallel_memory import Layout, keeps_whole_gradient, rank_memory
from lmfast.settings import OptimizerSettings, TrainSettings, selected_precision
from lmfast.units import about, duration

ASSUMED_MFU = 0.4
UNREALISTIC_SECONDS = 14 * 86400
KNOWN_AFTER = 10
"""number of steps after the first from which the time is measured"""


def schedule_warnings(opt: OptimizerSettings) -> list[str]:
    """Warnings about a run that ends within the warmup, or that has steps with learning rate 0; opt: resolved."""
    if opt.max_iters is None:
        return []
    found = []
    if 0 < opt.max_iters <= opt.warmup_iters:
        share = opt.max_iters / opt.warmup_iters
        found.append(
            f"warning: the run ends at step {opt.max_iters}, within the warmup of {opt.warmup_iters} steps, at "
            f"{share:.0%} of learning_rate; try --warmup-iters {max(1, opt.max_iters // 10)}"
        )
    if opt.lr_decay_iters is not None and opt.lr_decay_iters < opt.max_iters and opt.min_lr == 0:
        found.append(
            f"warning: the learning rate is 0 from step {opt.lr_decay_iters} to the end of the run at step {opt.max_iters}; "
            "change --lr-decay-iters or --min-lr"
        )
    return found


def estimate_lines(
    settings: TrainSettings,
    row_length: int,
    rows: int,
    tokens: int | None,
    peak: float,
    layout: Layout,
    capacity: int | None,
    on_cpu: bool,
) -> list[str]:
    """Lines to print before the first step.

    rows: rows of one forward pass on one device, of row_length tokens each. tokens: of the whole run; None if the clock
    ends it. peak: FLOP/s of one device. layout: of the model over all devices. capacity: bytes of memory of one
    rank.
    """
    dtype = "fp8" if settings.run.fp8 else selected_precision(settings.run)
    config = settings.model
    checkpointing = settings.run.activation_checkpointing
    passes = settings.optimizer.grad_accumulation
    whole = keeps_whole_gradient(
        config, rows, dtype, layout, passes, capacity, row_length, on_cpu, checkpointing
    )
    memory = rank_memory(config, rows, dtype, layout, row_length, on_cpu, checkpointing, whole).total
    line = f"estimate: {memory / 1e9:.2g} GB of memory" + (" on each device" if layout.ranks > 1 else "")
    seconds = None
    if tokens is not None:
        mfu = ASSUMED_MFU / (1 + recomputed_share(config, row_length, checkpointing))
        rate = mfu * peak * layout.ranks / training_flops_per_token(config, row_length)
        seconds = tokens / rate
        line += f", {duration(seconds)} at {mfu:.0%} MFU"
        line += "" if mfu == ASSUMED_MFU else f", {ASSUMED_MFU:.0%} with recomputation"
        line += f" (measured rate follows after {KNOWN_AFTER} steps)"
    lines = [line]
    if capacity is not None and memory > USABLE * capacity:
        who = "each process" if on_cpu and layout.ranks > 1 else "the device"
        lines.append(
            f"warning: {who} has only {capacity / 1e9:.2g} GB; reduce --batch-size and raise --grad-accumulation, "
            f"{'' if checkpointing == 'block' else 'add --activation-checkpointing block, '}or use a smaller model"
        )
    if seconds is not None and seconds > UNREALISTIC_SECONDS:
        lines.append(
            "warning: not realistic on this device; train a smaller model (find its size with `lmfast flops --hours H "
            "--device auto`), fewer steps (--max-iters), or for a fixed time (--max-minutes)"
        )
    return lines


def time_left(
    seconds_per_token: float,
    batch: BatchRamp,
    sequence_tokens: int,
    step: int,
    max_iters: int,
    evaluations: Sequence[tuple[int, int]],
) -> float:
    """Seconds from `step` to the end of the run. evaluations: (steps between them, tokens) of each kind of evaluation.

    Evaluation costs a third of training per token (no backward)."""
    sequences = batch.rows_before(max_iters) - batch.rows_before(step)
    evaluated = 0
    for interval, tokens in evaluations:
        evaluated += tokens * (1 + ((max_iters - 1) // interval - step // interval if interval else 0))
    return seconds_per_token * (sequences * sequence_tokens + evaluated / 3)


def memory_capacity(device: torch.device) -> int | None:
    """Memory of a device in bytes, for a CPU that of the machine; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return machine_memory()


class Forecast:
    """Reports the remaining time once, KNOWN_AFTER steps after the first.

    Call it with the training seconds and tokens so far, including the first step, after each step that it `wants`."""

    def __init__(self, left: Callable[[float, int], float], report: Callable[[str], None]):
        """left: (seconds per token, step) → remaining seconds."""
        self.left, self.report, self.first, self.done = left, report, None, False

    def wants(self, step: int) -> bool:
        """Whether to call it after `step`: after the first step, and when it reports."""
        return not self.done and (self.first is None or step == self.first[0] + KNOWN_AFTER)

    def __call__(self, step: int, seconds: float, tokens: int) -> None:
        if self.first is None:
            self.first = step, seconds, tokens
            return
        self.done = True
        per_token = (seconds - self.first[1]) / (tokens - self.first[2])
        self.report(f"measured: {1 / per_token:,.0f} tok/s, {about(self.left(per_token, step))} left")
