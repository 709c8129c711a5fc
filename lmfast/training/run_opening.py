"""Prepares a run before its first step: claims and checks the run folder, writes its initial files, opens the sinks."""

import contextlib
import json
import math
import shutil
from pathlib import Path
from typing import NamedTuple

import torch

from lmfast.errors import UserError
from lmfast.files import atomic_write
from lmfast.model.accounting import num_parameters
from lmfast.model.device import describe_machine
from lmfast.settings import OptimizerSettings, TrainSettings, to_flat, write_yaml
from lmfast.training import run_folder
from lmfast.training.checkpoint import Checkpoint, newest_checkpoint
from lmfast.training.resume import reject_changes, saved_settings
from lmfast.training.run_plan import Peak, Progress
from lmfast.training.sinks import ConsoleSink, JSONLSink, Sink, Sinks, TensorBoardSink, WandbSink
from lmfast.training.task import Start, Task


class Claimed(NamedTuple):
    """A locked run folder; for a resumed run also its newest checkpoint and its previous settings."""

    folder: Path
    checkpoint: Checkpoint | None = None
    before: TrainSettings | None = None


def claim(
    settings: TrainSettings,
    task: Task,
    start: Start,
    locks: contextlib.ExitStack,
    undo: contextlib.ExitStack,
) -> Claimed:
    """Locks the run folder until `locks` closes; `undo` removes the folder if this call created it.

    Raises UserError if settings, data or weights do not match the run.
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
    locks.enter_context(run_folder.lock_run(folder))
    if new:
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
    if not start.resuming:
        return Claimed(folder)
    before = saved_settings(folder, type(settings))
    reject_changes(folder, before, settings)
    run_folder.reject_other_data(folder, task.facts)
    run_folder.reject_other_masks(folder, task.facts)
    checkpoint = newest_checkpoint(folder / "checkpoints")
    if checkpoint is None:
        raise UserError(f"{folder}: every checkpoint is damaged; choose another --out-dir")
    return Claimed(folder, checkpoint, before)


def finished_at(claimed: Claimed, now: OptimizerSettings) -> str | None:
    """The step, as text, at which a resumed run has already finished; None if steps remain."""
    checkpoint, before = claimed.checkpoint, claimed.before
    if checkpoint is None or before is None:
        return None
    if now.max_iters is not None and checkpoint.step >= now.max_iters:
        return f"{checkpoint.step} of {now.max_iters}"
    minutes = before.optimizer.max_minutes
    if checkpoint.state.get("out_of_time") and minutes and (now.max_minutes or math.inf) <= minutes:
        return f"{checkpoint.step}, after {minutes:g} minutes"
    return None


def open_folder(
    settings: TrainSettings, task: Task, folder: Path, progress: Progress, device: torch.device, peak: Peak
) -> Sinks:
    """Prepares the run folder for the next step; returns the sinks that write there."""
    if progress.step == 0:
        _write_initial_files(folder, settings, task, device, peak)
    else:
        run_folder.truncate_metrics(folder, progress.step)
        write_yaml(folder / "config.yaml", settings)  # some settings may change, such as max_iters
    return _open_sinks(folder, settings, progress)


def _write_initial_files(
    folder: Path, settings: TrainSettings, task: Task, device: torch.device, peak: Peak
) -> None:
    """Writes the files of a new run; replaces those of a run that never reached a checkpoint."""
    facts = {
        "parameters": num_parameters(settings.model),
        "peak_flops": peak.flops,
        "peak_source": peak.source,
        **describe_machine(device),
        **task.facts,
    }
    # Written first: it marks the directory as a run folder, even if the run is interrupted.
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
        others.append(
            WandbSink(
                folder, log.wandb, log.wandb_project, log.wandb_name, log.wandb_entity, to_flat(settings)
            )
        )
    opt = settings.optimizer
    return Sinks(ConsoleSink(opt.max_iters, progress.step, opt.max_minutes, settings.run.compile), *others)
