"""Runs a task from settings to a finished run folder: model, optimizer, sinks, checkpoints, loop and report.

A `Task` supplies the objective and the batches; everything else is common to all tasks.
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lmfast.errors import UserError
from lmfast.model.accounting import device_peak, training_flops_per_token
from lmfast.model.device import compile_blocker, describe_machine
from lmfast.model.transformer import TransformerLM
from lmfast.settings import TrainSettings
from lmfast.training import run_folder
from lmfast.training.compiled import CompiledBlocks, CompiledLoss
from lmfast.training.first_step import first_step_line
from lmfast.training.load_balance import with_load_balance
from lmfast.training.loop import train_loop
from lmfast.training.parallel.agreement import reject_other_inputs
from lmfast.training.parallel.choice import check_parallel, check_tasks, choose_kind
from lmfast.training.parallel.ranks import SINGLE_PROCESS, Ranks
from lmfast.training.prefetch import Prefetched
from lmfast.training.report import write_report
from lmfast.training.resolve import batch_ramp
from lmfast.training.run_messages import forecast_lines, introduction, resumption, time_left_forecast
from lmfast.training.run_opening import Claimed, claim, finished_at, open_folder
from lmfast.training.run_plan import Hooks, Peak, Plan
from lmfast.training.saves import set_checkpoint_hooks
from lmfast.training.schedules import make_schedule
from lmfast.training.sinks import Sinks
from lmfast.training.state import State, make_state
from lmfast.training.stop_signals import StopSignals
from lmfast.training.task import Rows, Start, Task


def execute(
    settings: TrainSettings, task: Task, start: Start, device: torch.device, ranks: Ranks = SINGLE_PROCESS
) -> bool:
    """Runs a task with resolved `settings`. Returns False if SIGTERM or Ctrl-C stopped it before its last step."""
    reject_other_inputs(ranks, settings, task)
    check_parallel(settings, device, ranks)
    task = with_load_balance(task, settings, device, ranks)
    if settings.model.dropout > 0:
        task = replace(task, facts=task.facts | {"data_ranks": ranks.data_size})
    rows = task.rows or Rows(settings.model.context_length)
    kind = choose_kind(settings, rows, device, ranks)
    check_tasks(task, kind, ranks)
    ranks = replace(ranks, lockstep=kind in ("fsdp", "hsdp"))
    with contextlib.ExitStack() as locks:
        with contextlib.ExitStack() as undo:
            claimed = ranks.from_first(lambda: claim(settings, task, start, locks, undo))
            folder, checkpoint = claimed.folder, claimed.checkpoint
            if end := finished_at(claimed, settings.optimizer):
                ranks.report(f"{folder}: already finished at step {end}")
                return True
            peak, changed = _peak(claimed, settings, device)
            done = 0 if checkpoint is None else checkpoint.step
            for line in forecast_lines(settings, rows, done, peak.flops, device, ranks, kind):
                ranks.report(line)
            state = make_state(settings, task, start.source, checkpoint, device, ranks, kind)
            sinks = ranks.only_first(
                lambda: open_folder(settings, task, folder, state.progress, device, peak)
            )
            sinks = sinks or Sinks()
            undo.pop_all()
        try:
            for line in [
                *introduction(folder, settings, rows, device, peak, ranks),
                *resumption(claimed, settings, device),
                *changed,
                *state.bf16_messages,
            ]:
                sinks.message(line)
            if task.prepare is not None:
                task.prepare(folder)
            finished = _train(settings, task, rows, folder, state, peak, sinks, ranks)
            if not finished:
                again = "" if start.folder else " with --resume"
                sinks.message(
                    f"stopped at step {state.progress.step} with a checkpoint; rerun the same command{again} to resume"
                )
        finally:
            sinks.close()
        if ranks.is_first:
            _report(folder)
        return finished


def _train(
    settings: TrainSettings,
    task: Task,
    rows: Rows,
    folder: Path,
    state: State,
    peak: Peak,
    sinks: Sinks,
    ranks: Ranks,
) -> bool:
    """Runs the loop with its hooks; returns whether it reached the end of the run."""
    model = state.model
    device = next(model.parameters()).device
    loss_fn = task.objective.loss
    if settings.run.compile:
        if reason := compile_blocker(device):
            sinks.message(f"training without torch.compile: {reason}")
        else:
            # FSDP's hooks do not compile; the collectives of tensor parallelism do.
            whole = state.sharded is None or not state.sharded.reduces_gradients
            loss_fn = CompiledLoss(loss_fn) if whole else CompiledBlocks(loss_fn, model)
    stop = StopSignals(second_interrupts=ranks.world_size == 1)
    hooks = _hooks(settings, task, rows, folder, state, loss_fn, sinks, ranks)
    hooks.should_stop = lambda: stop.seen
    batches = Prefetched(task.batches, device)
    with stop, batches:
        return train_loop(
            model,
            state.optimizer,
            task.objective,
            loss_fn,
            batches,
            make_plan(settings, rows, peak.flops * ranks.world_size),
            state.progress,
            sinks,
            hooks,
            ranks,
            state.loss_scale,
            state.sharded,
        )


def _hooks(
    settings: TrainSettings,
    task: Task,
    rows: Rows,
    folder: Path,
    state: State,
    loss_fn: Callable[..., Tensor],
    sinks: Sinks,
    ranks: Ranks,
) -> Hooks:
    model = state.model
    device = next(model.parameters()).device
    hooks = Hooks(begin_step=task.begin_step)
    if task.make_evaluate is not None:
        hooks.evaluate = task.make_evaluate(model, settings, device, ranks)
    if settings.logging.eval_tasks is not None:
        hooks.evaluate_tasks = lambda: state.on_first(ranks, lambda: _on_tasks(task, model, sinks)) or {}
    if (sample := task.sample) is not None:
        hooks.sample = lambda step: state.on_first(ranks, lambda: sample(model, step)) or (None, {})
    set_checkpoint_hooks(hooks, folder, state, settings.logging.keep_checkpoints, sinks, ranks)
    if (end := settings.optimizer.max_iters) and ranks.is_first:
        hooks.forecast = time_left_forecast(settings, task, rows, end, sinks)
    measure: Callable[[], dict[str, float]] = task.measure or dict
    hooks.metrics = measure
    if isinstance(loss_fn, CompiledLoss):
        hooks.metrics = lambda: {"recompiles": loss_fn.recompiles, **measure()}
        if ranks.is_first:
            hooks.first_step = lambda seconds: sinks.message(first_step_line(seconds, loss_fn))
    return hooks


def _on_tasks(task: Task, model: TransformerLM, sinks: Sinks) -> dict[str, float]:
    """The metrics of the tasks. If they fail, prints one line; training continues."""
    try:
        return {} if task.evaluate_tasks is None else task.evaluate_tasks(model)
    except Exception as error:  # of a task's own code, for example
        reason = " ".join(str(error).split())
        sinks.message(f"tasks could not be evaluated ({type(error).__name__}: {reason}); the run continues")
        return {}


def _peak(claimed: Claimed, settings: TrainSettings, device: torch.device) -> tuple[Peak, list[str]]:
    """The rate that MFU divides by, and a message if a resumed run divided by another one before.

    On the same device a resumed run keeps its rate, so that its MFU stays comparable."""
    peak = Peak(*device_peak(device, settings.run.bf16, settings.run.fp16))
    facts = {} if claimed.checkpoint is None else run_folder.read_facts(claimed.folder)
    before = Peak(facts.get("peak_flops", 0.0), facts.get("peak_source", ""))
    if not before.flops:
        return peak, []
    if facts.get("device") == describe_machine(device)["device"] and before.source == peak.source:
        return before, []
    return peak, [f"MFU is now relative to {peak}, previously to {before}"]


def make_plan(settings: TrainSettings, rows: Rows, peak: float) -> Plan:
    """The plan of the loop for resolved settings; peak: FLOP/s of all devices."""
    opt, log = settings.optimizer, settings.logging
    return Plan(
        max_iters=opt.max_iters,
        batch=batch_ramp(opt),
        max_seconds=None if opt.max_minutes is None else 60 * opt.max_minutes,
        learning_rate=make_schedule(opt),
        grad_clip=opt.grad_clip,
        seed=settings.run.seed,
        bf16=settings.run.bf16,
        fp16=settings.run.fp16,
        log_interval=log.log_interval,
        eval_interval=log.eval_interval,
        tasks_interval=log.eval_tasks_interval,
        checkpoint_interval=log.checkpoint_interval,
        sample_interval=log.sample_interval,
        flops_per_token=training_flops_per_token(settings.model, rows.attention_span or rows.length),
        peak_flops=peak,
    )


def _report(folder: Path) -> None:
    """Writes report.html; a failure is only a warning, because the run itself succeeded."""
    try:
        write_report([folder], folder / "report.html")
    except (OSError, UserError) as error:
        print(f"{folder}: report.html could not be written: {error}")
