"""The lines a run prints before its first step: model, device, estimated cost, and what resuming changes."""

from pathlib import Path

import torch

from lmfast.counted import counted
from lmfast.model.accounting import active_parameters, num_parameters
from lmfast.model.device import describe_machine
from lmfast.settings import TrainSettings, selected_precision
from lmfast.training.forecast import Forecast, estimate_lines, schedule_warnings, time_left
from lmfast.training.parallel.choice import Kind, model_layout, rank_capacity
from lmfast.training.parallel.ranks import Ranks
from lmfast.training.resolve import batch_ramp
from lmfast.training.resume import describe_extension
from lmfast.training.run_opening import Claimed
from lmfast.training.run_plan import Peak
from lmfast.training.sinks import Sinks
from lmfast.training.task import Rows, Task
from lmfast_kernels import cpu_build


def introduction(
    folder: Path, settings: TrainSettings, rows: Rows, device: torch.device, peak: Peak, ranks: Ranks
) -> list[str]:
    """The model, its training length and device, and any unusual settings."""
    config, opt = settings.model, settings.optimizer
    batch = batch_ramp(opt)
    tokens = f"{batch.rows * batch.passes * rows.tokens:,} tokens per step"
    if batch.steps:
        least = batch.rows * batch.start * rows.tokens
        tokens = f"{least:,} to {tokens} (growing over the first {batch.steps:,})"
    times = f"{ranks.world_size} × " if ranks.world_size > 1 else ""
    limits = [] if opt.max_iters is None else [counted(opt.max_iters, "step")]
    limits += [] if opt.max_minutes is None else [f"{opt.max_minutes:g} minutes"]
    span = " or ".join(limits)
    active = f" ({active_parameters(config):,} active)" if config.num_experts else ""
    lines = [
        f"{folder}: {num_parameters(config):,} parameters{active}, {span} of {tokens} "
        f"on {times}{describe_machine(device)['device']}"
    ]
    if opt.max_minutes is not None:
        lines.append("max_minutes: the clock decides the schedule, so this run cannot be repeated to the bit")
    windows = ", with T limited to the window in windowed layers" if config.num_windows else ""
    lines.append(
        f"MFU counts 3 × (2 × matmul parameters + 4 × layers × d_model × T) FLOPs per token{windows}, against "
        f"{times}{peak}"
    )
    if ranks.world_size == 1 and settings.run.parallel in ("fsdp", "hsdp"):
        lines.append(
            f"parallel {settings.run.parallel}: one process divides nothing; start several with torchrun"
        )
    if config.num_experts:
        lines.append(
            "experts: MFU counts the router and the experts_per_token experts that a token passes through"
        )
    if settings.run.fp8:
        lines.append("fp8: feed-forward and head train in FP8; MFU stays a share of the bf16 peak")
    if settings.data.document_mask:
        lines.append("document_mask: MFU counts attention over full rows, including the masked part")
    precision = selected_precision(settings.run)
    if device.type == "cpu" and precision != "fp32" and precision not in peak.source:
        lines.append(f"{precision} is slower than fp32 on this CPU; MFU is relative to the fp32 peak")
    if device.type == "cpu" and precision == "fp32" and (reason := cpu_build.why_not("operators")):
        lines.append(
            f"training uses PyTorch's operators, 1.3 to 2.6 times slower than lmfast's own: {reason}"
        )
    return lines


def resumption(claimed: Claimed, settings: TrainSettings, device: torch.device) -> list[str]:
    checkpoint, before = claimed.checkpoint, claimed.before
    if checkpoint is None or before is None:
        return []
    lines = [f"resuming after step {checkpoint.step}"]
    if before.run.device != device.type:
        lines.append(f"resuming on {device.type} what began on {before.run.device}: equal to rounding only")
    if line := describe_extension(before.optimizer, settings.optimizer, checkpoint.step):
        lines.append(line)
    return lines


def forecast_lines(
    settings: TrainSettings,
    rows: Rows,
    step: int,
    peak: float,
    device: torch.device,
    ranks: Ranks,
    kind: Kind,
) -> list[str]:
    """Lines printed before the model is created: the cost of the run from `step` on, and warnings about its schedule."""
    opt, batch = settings.optimizer, batch_ramp(settings.optimizer)
    tokens = None
    if opt.max_iters is not None:
        tokens = (batch.rows_before(opt.max_iters) - batch.rows_before(step)) * rows.tokens
    rows_per_pass = batch.rows // ranks.data_size * rows.per_sequence
    capacity = rank_capacity(device)
    on_cpu = device.type == "cpu"
    return [
        *estimate_lines(
            settings, rows.length, rows_per_pass, tokens, peak, model_layout(kind, ranks), capacity, on_cpu
        ),
        *schedule_warnings(opt),
    ]


def time_left_forecast(settings: TrainSettings, task: Task, rows: Rows, end: int, sinks: Sinks) -> Forecast:
    batch, log = batch_ramp(settings.optimizer), settings.logging
    evaluations = [
        (log.eval_interval, task.evaluation_tokens),
        (log.eval_tasks_interval, task.task_tokens),
    ]

    def left(seconds_per_token: float, step: int) -> float:
        return time_left(seconds_per_token, batch, rows.tokens, step, end, evaluations)

    return Forecast(left, sinks.message)
