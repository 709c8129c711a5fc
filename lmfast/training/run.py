"""A run from settings to a finished run folder: model, optimizer, sinks, checkpoints, the loop, the report.

What is taught, and from which batches, comes in as a `Task`; everything else is the same for every task.
"""

import contextlib
import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lmfast.counted import counted
from lmfast.errors import UserError
from lmfast.files import atomic_write
from lmfast.model.accounting import (
    device_peak,
    num_parameters,
    training_flops_per_token,
)
from lmfast.model.device import compile_blocker, describe_machine, make_deterministic
from lmfast.model.fp8 import fp8_blocker, use_fp8
from lmfast.model.transformer import TransformerLM
from lmfast.settings import OptimizerSettings, TrainSettings, selected_precision, write_yaml
from lmfast.training import run_folder
from lmfast.training.checkpoint import Checkpoint, newest_checkpoint, prune_checkpoints, save_checkpoint
from lmfast.training.compiled import CompiledLoss
from lmfast.training.distributed import SINGLE_PROCESS, Ranks
from lmfast.training.first_step import first_step_line
from lmfast.training.forecast import Forecast, estimate_lines, memory_capacity, schedule_warnings, time_left
from lmfast.training.loop import Hooks, Plan, Progress, train_loop
from lmfast.training.loss_scale import LossScale
from lmfast.training.optimizers import Optimizer, load_state_tensors, make_optimizer, state_tensors
from lmfast.training.prefetch import Prefetched
from lmfast.training.report import write_report
from lmfast.training.resolve import batch_ramp
from lmfast.training.resume import describe_extension, reject_changes, saved_settings
from lmfast.training.schedules import make_schedule
from lmfast.training.sinks import ConsoleSink, JSONLSink, Sink, Sinks, TensorBoardSink, WandbSink
from lmfast.training.task import Rows, Start, Task
from lmfast_kernels import cpu_library


def execute(
    settings: TrainSettings, task: Task, start: Start, device: torch.device, ranks: Ranks = SINGLE_PROCESS
) -> bool:
    """Runs a task with resolved `settings` to its end; returns False when it was stopped (by SIGTERM or Ctrl-C) before."""
    _check(settings, device, ranks)
    rows = task.rows or Rows(settings.model.context_length)
    with contextlib.ExitStack() as held:
        with contextlib.ExitStack() as undo:
            claimed = ranks.from_first(lambda: _claim(settings, task, start, held, undo))
            folder, checkpoint = claimed.folder, claimed.checkpoint
            if end := _finished(claimed, settings.optimizer):
                ranks.report(f"{folder}: already finished at step {end}")
                return True
            peak, changed = _peak(claimed, settings, device)
            done = 0 if checkpoint is None else checkpoint.step
            for line in _forecast(settings, rows, done, peak.flops, device, ranks):
                ranks.report(line)
            state = _make_state(settings, task, start.source, checkpoint, device, ranks)
            sinks = ranks.only_first(
                lambda: _open_folder(settings, task, folder, state.progress, device, peak)
            )
            sinks = sinks or Sinks()
            undo.pop_all()
        try:
            for line in [
                *_introduction(folder, settings, rows, device, peak, ranks),
                *_resumption(claimed, settings, device),
                *changed,
                *state.in_bf16,
            ]:
                sinks.message(line)
            if task.prepare is not None:
                task.prepare(folder)
            finished = _train(settings, task, rows, folder, state, peak, sinks, ranks)
            if not finished:
                sinks.message(
                    f"stopped at step {state.progress.step} with a checkpoint; --resume continues from it"
                )
        finally:
            sinks.close()
        if ranks.is_first:
            _report(folder)
        return finished


class Peak(NamedTuple):
    """The rate that MFU is a share of, and where the number is from."""

    flops: float  # per second, of one device
    source: str

    def __str__(self) -> str:
        return f"{self.flops / 1e12:.3g} TFLOP/s ({self.source})"


@dataclass
class _State:
    """What training changes, with what a checkpoint holds of it."""

    model: TransformerLM
    optimizer: Optimizer
    loss_scale: LossScale | None
    progress: Progress
    in_bf16: list[str]  # with fp8, a line for each product that stays in bf16


def _check(settings: TrainSettings, device: torch.device, ranks: Ranks) -> None:
    batch_size = settings.optimizer.batch_size
    if batch_size % ranks.world_size:
        ranks.fail(
            f"batch_size {batch_size} cannot be split over {ranks.world_size} processes; it counts the sequences "
            "of all of them: choose a multiple"
        )
    if settings.run.fp8 and (reason := fp8_blocker(device)):
        ranks.fail(reason)


def _make_state(
    settings: TrainSettings,
    task: Task,
    source: Checkpoint | None,
    checkpoint: Checkpoint | None,
    device: torch.device,
    ranks: Ranks,
) -> _State:
    """Model, optimizer and progress: new, with the weights of `source`, or all of them from `checkpoint`."""
    opt = settings.optimizer
    make_deterministic(device)
    torch.manual_seed(settings.run.seed)
    model = TransformerLM(settings.model).to(device)
    in_bf16: list[str] = []
    if settings.run.fp8:
        in_bf16 = use_fp8(model, opt.batch_size // ranks.world_size * settings.model.context_length)
    if source is not None:
        run_folder.load_weights(model, source, task.grows_vocabulary)
    optimizer = make_optimizer(
        model,
        opt.optimizer,
        opt.learning_rate,
        (opt.beta1, opt.beta2),
        opt.weight_decay,
        opt.muon_momentum,
        opt.muon_lr,
    )
    loss_scale = LossScale(device) if settings.run.fp16 else None
    progress = Progress()
    if checkpoint is not None:
        run_folder.load_weights(model, checkpoint)
        tensors = checkpoint.optimizer_tensors()
        load_state_tensors(model, optimizer, tensors)
        if loss_scale is not None:
            loss_scale.load(tensors)
        progress = Progress(**checkpoint.state | {"out_of_time": False})
    return _State(model, optimizer, loss_scale, progress, in_bf16)


def _train(
    settings: TrainSettings,
    task: Task,
    rows: Rows,
    folder: Path,
    state: _State,
    peak: Peak,
    sinks: Sinks,
    ranks: Ranks,
) -> bool:
    """The loop with its hooks; returns whether it reached the run's end."""
    model = state.model
    device = next(model.parameters()).device
    loss_fn = task.objective.loss
    if settings.run.compile:
        if reason := compile_blocker(device):
            sinks.message(f"training without torch.compile: {reason}")
        else:
            loss_fn = CompiledLoss(loss_fn)
    stop = _StopSignals(insist=ranks.world_size == 1)
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
            _plan(settings, rows, peak.flops * ranks.world_size),
            state.progress,
            sinks,
            hooks,
            ranks,
            state.loss_scale,
        )


def _hooks(
    settings: TrainSettings,
    task: Task,
    rows: Rows,
    folder: Path,
    state: _State,
    loss_fn: Callable[..., Tensor],
    sinks: Sinks,
    ranks: Ranks,
) -> Hooks:
    model, keep = state.model, settings.logging.keep_checkpoints
    device = next(model.parameters()).device
    hooks = Hooks()
    if task.make_evaluate is not None:
        hooks.evaluate = task.make_evaluate(model, settings, device, ranks)
    if (sample := task.sample) is not None:
        hooks.sample = lambda step: sample(model, step) if ranks.is_first else (None, {})
    hooks.checkpoint = lambda p: ranks.from_first(
        lambda: _save(folder, model, state.optimizer, state.loss_scale, p, keep, sinks)
    )
    if (end := settings.optimizer.max_iters) and ranks.is_first:
        hooks.forecast = _time_left(settings, task, rows, end, sinks)
    measure: Callable[[], dict[str, float]] = task.measure or dict
    hooks.metrics = measure
    if isinstance(loss_fn, CompiledLoss):
        hooks.metrics = lambda: {"recompiles": loss_fn.recompiles, **measure()}
        if ranks.is_first:
            hooks.first_step = lambda seconds: sinks.message(first_step_line(seconds, loss_fn))
    return hooks


class _Claimed(NamedTuple):
    """A locked run folder, and of a run that resumes there its newest checkpoint and its settings until now."""

    folder: Path
    checkpoint: Checkpoint | None = None
    before: TrainSettings | None = None


def _claim(
    settings: TrainSettings,
    task: Task,
    start: Start,
    held: contextlib.ExitStack,
    undo: contextlib.ExitStack,
) -> _Claimed:
    """Locks the run folder for as long as `held` is open; `undo` removes one that was made here.

    Raises UserError where the settings, data or weights do not fit the run.
    """
    folder = start.folder
    if not start.resuming:
        if start.source is not None:
            run_folder.reject_other_model(start.source, settings.model, task.grows_vocabulary)
        if folder is not None:
            run_folder.reject_foreign_folder(folder)
    new = folder is None or not folder.exists()
    if folder is None:
        folder = run_folder.claim_new_folder(task.facts.get("stage", "train"))
    held.enter_context(run_folder.lock_run(folder))
    if new:
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
    if not start.resuming:
        return _Claimed(folder)
    before = saved_settings(folder, type(settings))
    reject_changes(folder, before, settings)
    run_folder.reject_other_data(folder, task.facts)
    checkpoint = newest_checkpoint(folder / "checkpoints")
    if checkpoint is None:
        raise UserError(f"{folder}: every checkpoint in it is damaged; choose another --out-dir")
    return _Claimed(folder, checkpoint, before)


def _peak(claimed: _Claimed, settings: TrainSettings, device: torch.device) -> tuple[Peak, list[str]]:
    """The rate that MFU is a share of, and a line where a run that resumes had another one until now.

    On the same device a resumed run keeps its rate, so that its MFU before and after can be compared."""
    peak = Peak(*device_peak(device, settings.run.bf16, settings.run.fp16))
    facts = {} if claimed.checkpoint is None else run_folder.read_facts(claimed.folder)
    before = Peak(facts.get("peak_flops", 0.0), facts.get("peak_source", ""))
    if not before.flops:
        return peak, []
    if facts.get("device") == describe_machine(device)["device"] and before.source == peak.source:
        return before, []
    return peak, [f"MFU: a share of {peak} from here on, of {before} until now"]


def _finished(claimed: _Claimed, now: OptimizerSettings) -> str | None:
    """The end that a resumed run has already reached; None where there are steps left."""
    checkpoint, before = claimed.checkpoint, claimed.before
    if checkpoint is None or before is None:
        return None
    if now.max_iters is not None and checkpoint.step >= now.max_iters:
        return f"{checkpoint.step} of {now.max_iters}"
    minutes = before.optimizer.max_minutes
    if checkpoint.state.get("out_of_time") and minutes and (now.max_minutes or math.inf) <= minutes:
        return f"{checkpoint.step}, after {minutes:g} minutes"
    return None


def _resumption(claimed: _Claimed, settings: TrainSettings, device: torch.device) -> list[str]:
    checkpoint, before = claimed.checkpoint, claimed.before
    if checkpoint is None or before is None:
        return []
    lines = [f"resuming after step {checkpoint.step}"]
    if before.run.device != device.type:
        lines.append(f"resuming on {device.type} what began on {before.run.device}: equal to rounding only")
    if line := describe_extension(before.optimizer, settings.optimizer, checkpoint.step):
        lines.append(line)
    return lines


def _open_folder(
    settings: TrainSettings, task: Task, folder: Path, progress: Progress, device: torch.device, peak: Peak
) -> Sinks:
    """Prepares the run folder for the next step; returns the sinks that write there."""
    if progress.step == 0:
        _begin_folder(folder, settings, task, device, peak)
    else:
        run_folder.truncate_metrics(folder, progress.step)
        write_yaml(folder / "config.yaml", settings)  # what may change, such as max_iters, did
    return _open_sinks(folder, settings, progress)


def _forecast(
    settings: TrainSettings, rows: Rows, step: int, peak: float, device: torch.device, ranks: Ranks
) -> list[str]:
    """Lines before the model is made: what the run will cost from `step` on, and what is unusual about its schedule."""
    opt, batch = settings.optimizer, batch_ramp(settings.optimizer)
    tokens = None
    if opt.max_iters is not None:
        tokens = (batch.rows_before(opt.max_iters) - batch.rows_before(step)) * rows.tokens
    a_pass = batch.rows // ranks.world_size * rows.per_sequence
    capacity = memory_capacity(device)
    on_cpu = device.type == "cpu"
    return [
        *estimate_lines(settings, rows.length, a_pass, tokens, peak, ranks.world_size, capacity, on_cpu),
        *schedule_warnings(opt),
    ]


def _time_left(settings: TrainSettings, task: Task, rows: Rows, end: int, sinks: Sinks) -> Forecast:
    batch, every = batch_ramp(settings.optimizer), settings.logging.eval_interval

    def left(seconds_per_token: float, step: int) -> float:
        return time_left(seconds_per_token, batch, rows.tokens, step, end, every, task.evaluation_tokens)

    return Forecast(left, sinks.message)


def _plan(settings: TrainSettings, rows: Rows, peak: float) -> Plan:
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
        checkpoint_interval=log.checkpoint_interval,
        sample_interval=log.sample_interval,
        flops_per_token=training_flops_per_token(settings.model, rows.attention_span or rows.length),
        peak_flops=peak,
    )


def _report(folder: Path) -> None:
    """report.html; a run that trained well is not called failed for the lack of it."""
    try:
        write_report([folder], folder / "report.html")
    except (OSError, UserError) as error:
        print(f"{folder}: no report.html: {error}")


def _begin_folder(
    folder: Path, settings: TrainSettings, task: Task, device: torch.device, peak: Peak
) -> None:
    """Writes what a run folder holds before its first step, over remains of a run that never reached a checkpoint."""
    facts = {
        "parameters": num_parameters(settings.model),
        "peak_flops": peak.flops,
        "peak_source": peak.source,
        **describe_machine(device),
        **task.facts,
    }
    # Written first: it tells a run folder from any other, even when the run is cut short.
    with atomic_write(folder / "run.json", durable=True) as temporary:
        temporary.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    for name in ("samples", "tensorboard"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "wandb_id").unlink(missing_ok=True)
    (folder / "metrics.jsonl").write_text("")
    write_yaml(folder / "config.yaml", settings)
    if task.tokenizer is not None:
        run_folder.save_tokenizer(task.tokenizer, folder)


def _open_sinks(folder: Path, settings: TrainSettings, progress: Progress) -> Sinks:
    log = settings.logging
    others: list[Sink] = [JSONLSink(folder)]
    if log.tensorboard:
        others.append(TensorBoardSink(folder, progress.step))
    if log.wandb != "off":
        from lmfast.settings import to_flat

        others.append(
            WandbSink(
                folder, log.wandb, log.wandb_project, log.wandb_name, log.wandb_entity, to_flat(settings)
            )
        )
    opt = settings.optimizer
    return Sinks(ConsoleSink(opt.max_iters, progress.step, opt.max_minutes, settings.run.compile), *others)


def _introduction(
    folder: Path, settings: TrainSettings, rows: Rows, device: torch.device, peak: Peak, ranks: Ranks
) -> list[str]:
    """The lines before the first step: what will be trained, where, and what is unusual about it."""
    config, opt = settings.model, settings.optimizer
    batch = batch_ramp(opt)
    tokens = f"{batch.rows * batch.passes * rows.tokens:,} tokens a step"
    if batch.steps:
        least = batch.rows * batch.start * rows.tokens
        tokens = f"{least:,} to {tokens} (growing over the first {batch.steps:,})"
    times = f"{ranks.world_size} × " if ranks.world_size > 1 else ""
    limits = [] if opt.max_iters is None else [counted(opt.max_iters, "step")]
    limits += [] if opt.max_minutes is None else [f"{opt.max_minutes:g} minutes"]
    span = " or ".join(limits)
    lines = [
        f"{folder}: {num_parameters(config):,} parameters, {span} of {tokens} "
        f"on {times}{describe_machine(device)['device']}"
    ]
    if opt.max_minutes is not None:
        lines.append("max_minutes: the clock decides the schedule, so this run cannot be repeated to the bit")
    windows = ", T at most the window in layers with one" if config.num_windows else ""
    lines.append(
        f"MFU counts 3 × (2 × matmul parameters + 4 × layers × d_model × T) FLOPs a token{windows}, against "
        f"{times}{peak}"
    )
    if settings.run.fp8:
        lines.append("fp8: feed-forward and head train in FP8; MFU stays a share of the bf16 peak")
    if settings.data.document_mask:
        lines.append("document_mask: MFU counts attention over whole rows, also where documents are skipped")
    precision = selected_precision(settings.run)
    if device.type == "cpu" and precision != "fp32" and precision not in peak.source:
        lines.append(f"{precision} is slower than fp32 on this CPU; MFU is a share of the fp32 peak")
    if device.type == "cpu" and precision == "fp32" and (reason := cpu_library.why_not()):
        lines.append(
            f"training uses PyTorch's operators, 1.3 to 2.6 times slower than lmfast's own: {reason}"
        )
    return lines


def _save(
    folder: Path,
    model: TransformerLM,
    optimizer: Optimizer,
    loss_scale: LossScale | None,
    progress: Progress,
    keep: int,
    sinks: Sinks,
) -> bool:
    """A checkpoint, or one line when the disk is full: training continues and older checkpoints stay."""
    checkpoints = folder / "checkpoints"
    sinks.sync()
    try:
        tensors = state_tensors(model, optimizer) | (
            loss_scale.state_tensors() if loss_scale is not None else {}
        )
        save_checkpoint(checkpoints, model.named_weights(), tensors, progress.as_dict())
    except OSError as error:
        last = run_folder.newest_step(folder)
        kept = "there is none yet" if last is None else f"the one of step {last} is whole"
        sinks.message(f"checkpoint at step {progress.step} could not be written ({error}); {kept}")
        return False
    prune_checkpoints(checkpoints, keep, progress.best_step)
    return True


class _StopSignals(contextlib.AbstractContextManager):
    """SIGTERM or Ctrl-C asks for a checkpoint and an end; a second one interrupts at once.

    insist: whether a second one does. torchrun passes on to its processes what the terminal has sent them already.
    """

    def __init__(self, insist: bool = True):
        self.seen, self.insist = False, insist

    def __enter__(self):
        self.before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _note(self, number, frame):
        if not self.seen:
            again = "; Ctrl-C again stops at once" if self.insist else ""
            # Not by print, which may be what was interrupted.
            os.write(2, f"\nstopping when the step under way is done{again}\n".encode())
        self.seen = True
        if self.insist:
            signal.signal(number, self.before[number])

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)
