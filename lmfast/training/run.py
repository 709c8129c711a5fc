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
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lmfast.counted import counted
from lmfast.errors import UserError
from lmfast.files import written_beside
from lmfast.model.accounting import (
    device_peak,
    num_parameters,
    training_flops_per_token,
)
from lmfast.model.config import ModelConfig
from lmfast.model.device import describe_machine, make_deterministic, why_not_compile
from lmfast.model.fp8 import use_fp8, why_not_fp8
from lmfast.model.transformer import TransformerLM
from lmfast.settings import OptimizerSettings, TrainSettings, precision_of, write_yaml
from lmfast.training import run_folder
from lmfast.training.checkpoint import Checkpoint, newest_checkpoint, prune_checkpoints, save_checkpoint
from lmfast.training.compiled import CompiledLoss
from lmfast.training.distributed import ALONE, Ranks
from lmfast.training.first_step import first_step_line
from lmfast.training.forecast import Forecast, estimate_lines, memory_capacity, schedule_warnings, time_left
from lmfast.training.loop import Hooks, Plan, Progress, train_loop
from lmfast.training.loss_scale import LossScale
from lmfast.training.optimizers import load_state_tensors, make_optimizer, state_tensors
from lmfast.training.prefetch import Prefetched
from lmfast.training.report import write_report
from lmfast.training.resolve import batch_ramp
from lmfast.training.resume import describe_extension, refuse_changes, saved_settings
from lmfast.training.schedules import schedule_of
from lmfast.training.sinks import ConsoleSink, JSONLSink, Sinks, TensorBoardSink, WandbSink


@dataclass(frozen=True)
class Rows:
    """The rows of a forward pass, as far as their cost goes."""

    length: int  # tokens predicted in a row
    per_sequence: int = 1  # rows that batch_size counts as one
    attention_span: float | None = None  # mean length of what a token may attend to; None: the row

    @property
    def tokens(self) -> int:
        """Tokens of what batch_size counts as one."""
        return self.length * self.per_sequence


@dataclass(frozen=True)
class Task:
    """What a command adds to the loop."""

    objective: object
    make_batches: Callable  # (BatchRamp, context_length, seed, run folder) → object with step(i)
    make_evaluate: Callable | None = None  # (model, objective, settings, device, ranks) → callable → metrics
    sample: Callable | None = None  # (model, step) → text, figures about it
    tokenizer: Path | None = None
    evaluation_tokens: int = 0  # of one evaluation
    rows: "Rows | None" = None  # what a step's rows are, where not `context_length` tokens of one text
    facts: dict = field(default_factory=dict)  # goes into run.json
    grows_vocabulary: bool = False  # init_from may know fewer ids than the model
    measure: Callable[[], dict] | None = None  # what the objective noted since it was asked last


def execute(
    settings: TrainSettings,
    task: Task,
    folder: Path | None,
    resuming: bool,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> bool:
    """Runs resolved `settings` in `folder`, or a new one under runs/; returns False when it was stopped (by SIGTERM or
    Ctrl-C) before its end."""
    opt, log = settings.optimizer, settings.logging
    if opt.batch_size % ranks.world_size:
        ranks.fail(
            f"batch_size {opt.batch_size} cannot be split over {ranks.world_size} processes; it counts the sequences "
            "of all of them: choose a multiple"
        )
    if settings.run.fp8 and (reason := why_not_fp8(device)):
        ranks.fail(reason)
    rows = task.rows or Rows(settings.model.context_length)
    with contextlib.ExitStack() as held:
        with contextlib.ExitStack() as undo:
            folder, source, checkpoint, before = ranks.from_first(
                lambda: _claim(settings, task, folder, resuming, held, undo)
            )
            if checkpoint is not None and (end := _finished(checkpoint, before.optimizer, opt)):
                if ranks.is_first:
                    print(f"{folder}: already finished at step {checkpoint.step}{end}")
                return True
            peak, peak_source = device_peak(device, settings.run.bf16, settings.run.fp16)
            for line in _forecast(
                settings, rows, 0 if checkpoint is None else checkpoint.step, peak, device, ranks
            ):
                ranks.remark(line)
            make_deterministic(device)
            torch.manual_seed(settings.run.seed)
            model = TransformerLM(settings.model).to(device)
            in_bf16 = []
            if settings.run.fp8:
                a_pass = opt.batch_size // ranks.world_size * settings.model.context_length
                in_bf16 = use_fp8(model, a_pass)
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
            sinks = (
                ranks.only_first(
                    lambda: _open_folder(settings, task, folder, progress, device, peak, peak_source)
                )
                or Sinks()
            )
            undo.pop_all()
        try:
            _introduce(sinks, folder, settings, rows, device, peak, peak_source, ranks)
            if checkpoint is not None:
                sinks.message(f"resuming after step {checkpoint.step}")
                if before.run.device != device.type:
                    sinks.message(
                        f"resuming on {device.type} what began on {before.run.device}: equal to rounding only"
                    )
                if line := describe_extension(before.optimizer, opt, checkpoint.step):
                    sinks.message(line)
            for line in in_bf16:
                sinks.message(line)
            loss_fn = task.objective.loss
            if settings.run.compile:
                if reason := why_not_compile(device):
                    sinks.message(f"training without torch.compile: {reason}")
                else:
                    loss_fn = CompiledLoss(loss_fn)
            batches = Prefetched(
                task.make_batches(batch_ramp(opt), settings.model.context_length, settings.run.seed, folder),
                device,
            )
            stop = _StopSignals(insist=ranks.world_size == 1)
            hooks = Hooks(
                evaluate=task.make_evaluate
                and task.make_evaluate(model, task.objective, settings, device, ranks),
                checkpoint=lambda p: ranks.from_first(
                    lambda: _save(folder, model, optimizer, loss_scale, p, log.keep_checkpoints, sinks)
                ),
                sample=task.sample
                and (lambda step: task.sample(model, step) if ranks.is_first else (None, {})),
                should_stop=lambda: stop.seen,
                first_step=(lambda seconds: sinks.message(first_step_line(seconds, loss_fn)))
                if isinstance(loss_fn, CompiledLoss) and ranks.is_first
                else None,
                forecast=_time_left(settings, task, rows, sinks)
                if opt.max_iters and ranks.is_first
                else None,
                figures=lambda: (
                    ({"recompiles": loss_fn.recompiles} if isinstance(loss_fn, CompiledLoss) else {})
                    | (task.measure() if task.measure is not None else {})
                ),
            )
            plan = _plan(settings, rows, peak * ranks.world_size)
            with stop, batches:
                finished = train_loop(
                    model,
                    optimizer,
                    task.objective,
                    loss_fn,
                    batches,
                    plan,
                    progress,
                    sinks,
                    hooks,
                    ranks,
                    loss_scale,
                )
            if not finished:
                sinks.message(
                    f"stopped at step {progress.step} with a checkpoint; --resume goes on from there"
                )
        finally:
            sinks.close()
        if ranks.is_first:
            _report(folder)
        return finished


def _claim(
    settings: TrainSettings,
    task: Task,
    folder: Path | None,
    resuming: bool,
    held: contextlib.ExitStack,
    undo: contextlib.ExitStack,
):
    """Locks the folder, for as long as `held` is; returns (folder, checkpoint to start from, checkpoint to resume from,
    settings of the run until there).

    Raises UserError where the run cannot be what is asked for. `undo` removes a folder that was made for nothing.
    """
    source = None
    if not resuming:
        if settings.run.init_from is not None:
            source = run_folder.find_checkpoint(Path(settings.run.init_from))
            run_folder.refuse_other_model(source, settings.model, task.grows_vocabulary)
        if folder is not None:
            run_folder.refuse_foreign_folder(folder)
    new = folder is None or not folder.exists()
    if folder is None:
        folder = run_folder.claim_new_folder(task.facts.get("stage", "train"))
    held.enter_context(run_folder.lock_run(folder))
    if new:
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
    if not resuming:
        return folder, source, None, None
    before = saved_settings(folder, type(settings))
    refuse_changes(folder, before, settings)
    run_folder.refuse_other_data(folder, task.facts)
    checkpoint = newest_checkpoint(folder / "checkpoints")
    if checkpoint is None:
        raise UserError(f"{folder}: every checkpoint in it is damaged; choose another --out-dir")
    return folder, None, checkpoint, before


def _finished(checkpoint: Checkpoint, before: OptimizerSettings, now: OptimizerSettings) -> str | None:
    """What a checkpoint is the end of, where it is the end of a run."""
    if now.max_iters is not None and checkpoint.step >= now.max_iters:
        return f" of {now.max_iters}"
    if checkpoint.state.get("out_of_time") and (now.max_minutes or math.inf) <= before.max_minutes:
        return f", after {before.max_minutes:g} minutes"
    return None


def _open_folder(
    settings: TrainSettings, task: Task, folder: Path, progress: Progress, device, peak: float, source: str
) -> Sinks:
    """The run folder made ready for the next step, and the sinks that write there."""
    if progress.step == 0:
        _begin_folder(folder, settings, task, device, peak, source)
    else:
        run_folder.keep_metrics_until(folder, progress.step)
        write_yaml(folder / "config.yaml", settings)  # what may change, such as max_iters, did
    return _open_sinks(folder, settings, progress)


def _forecast(settings: TrainSettings, rows: Rows, step: int, peak: float, device, ranks: Ranks) -> list[str]:
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


def _time_left(settings: TrainSettings, task: Task, rows: Rows, sinks: Sinks) -> Forecast:
    opt, log = settings.optimizer, settings.logging

    def left(seconds_per_token: float, step: int) -> float:
        batch, end, every = batch_ramp(opt), opt.max_iters, log.eval_interval
        return time_left(seconds_per_token, batch, rows.tokens, step, end, every, task.evaluation_tokens)

    return Forecast(left, sinks.message)


def _plan(settings: TrainSettings, rows: Rows, peak: float) -> Plan:
    opt, log = settings.optimizer, settings.logging
    return Plan(
        max_iters=opt.max_iters,
        batch=batch_ramp(opt),
        max_seconds=None if opt.max_minutes is None else 60 * opt.max_minutes,
        learning_rate=schedule_of(opt),
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
    folder: Path, settings: TrainSettings, task: Task, device, peak: float, peak_source: str
) -> None:
    """What a run folder holds before its first step. Remains of a run that never reached a checkpoint are replaced."""
    facts = {
        "parameters": num_parameters(settings.model),
        "peak_flops": peak,
        "peak_source": peak_source,
        **describe_machine(device),
        **task.facts,
    }
    # First of all, for it tells a run folder from a foreign one, whenever the run is cut short.
    with written_beside(folder / "run.json", durable=True) as beside:
        beside.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    for name in ("samples", "tensorboard"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "wandb_id").unlink(missing_ok=True)
    (folder / "metrics.jsonl").write_text("")
    write_yaml(folder / "config.yaml", settings)
    if task.tokenizer is not None:
        run_folder.copy_tokenizer(task.tokenizer, folder)


def _open_sinks(folder: Path, settings: TrainSettings, progress: Progress) -> Sinks:
    log = settings.logging
    others = [JSONLSink(folder)]
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


def _introduce(sinks, folder, settings, rows, device, peak, peak_source, ranks) -> None:
    """The lines before the first step: what will be trained, where, and what is unusual about it."""
    config: ModelConfig = settings.model
    opt = settings.optimizer
    batch = batch_ramp(opt)
    tokens = f"{batch.rows * batch.passes * rows.tokens:,} tokens a step"
    if batch.steps:
        least = batch.rows * batch.start * rows.tokens
        tokens = f"{least:,} to {tokens} (growing over the first {batch.steps:,})"
    times = f"{ranks.world_size} × " if ranks.world_size > 1 else ""
    limits = [] if opt.max_iters is None else [counted(opt.max_iters, "step")]
    limits += [] if opt.max_minutes is None else [f"{opt.max_minutes:g} minutes"]
    span = " or ".join(limits)
    sinks.message(
        f"{folder}: {num_parameters(config):,} parameters, {span} of {tokens} "
        f"on {times}{describe_machine(device)['device']}"
    )
    if opt.max_minutes is not None:
        sinks.message(
            "max_minutes: the clock decides the schedule, so this run cannot be repeated to the bit"
        )
    windows = ", T at most the window in layers with one" if config.num_windows else ""
    sinks.message(
        f"MFU counts 3 × (2 × matmul parameters + 4 × layers × d_model × T) FLOPs a token{windows}, against "
        f"{times}{peak / 1e12:.3g} TFLOP/s ({peak_source})"
    )
    if settings.run.fp8:
        sinks.message("fp8: feed-forward and head train in FP8; MFU stays a share of the bf16 peak")
    if settings.data.document_mask:
        sinks.message("document_mask: MFU counts attention over whole rows, also where documents are skipped")
    if (precision := precision_of(settings.run)) != "fp32" and device.type == "cpu" and "fp32" in peak_source:
        sinks.message(f"{precision} is slower than fp32 on this CPU; MFU is a share of the fp32 peak")


def _save(
    folder: Path, model, optimizer, loss_scale: LossScale | None, progress: Progress, keep: int, sinks: Sinks
) -> bool:
    """A checkpoint, or one line when the disk is full: training continues and older checkpoints stay."""
    checkpoints = folder / "checkpoints"
    sinks.sync()
    try:
        tensors = state_tensors(model, optimizer) | (
            loss_scale.state_tensors() if loss_scale is not None else {}
        )
        save_checkpoint(checkpoints, model.own_tensors(), tensors, progress.as_dict())
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
