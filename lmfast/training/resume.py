"""Chooses the run folder, and checks which settings may change when a run resumes.

Changing a setting on resume is an error unless it does not affect the weights (logging, for example), changes them only by
rounding (batch_size and grad_accumulation with the same product, without dropout and batch ramp), or moves the end of the
run: max_iters, total_tokens, max_minutes, epochs and lr_decay_iters. The new end is reported with the learning rate.

After an extension, the learning rate of the next step is that of the schedule with the new end, for every schedule and
whether or not the run had finished. If lr_decay_iters was the last step, the default, it moves with max_iters; otherwise
only --lr-decay-iters changes it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from lmfast.errors import UserError
from lmfast.settings import OptimizerSettings, TrainSettings, read_yaml, replace_flat, to_flat
from lmfast.training.resolve import default_decay_iters
from lmfast.training.run_folder import newest_run, run_stage
from lmfast.training.schedules import make_schedule

T = TypeVar("T", bound=TrainSettings)

END = ("max_iters", "max_minutes", "lr_decay_iters")
"""resolved settings that determine the end of a run and of its schedule"""

HARMLESS = {
    *END,
    *("config", "out_dir", "resume", "device", "total_tokens", "epochs", "val_data_path", "tokenizer"),
    *("parallel", "tensor_parallel", "activation_checkpointing"),
    *("train_data_path", "init_from", "reference_cache"),
    *("eval_tasks", "eval_tasks_interval", "eval_tasks_limit", "eval_tasks_include_path"),
    *("log_interval", "eval_interval", "eval_batches", "sample_interval", "tensorboard"),
    *("wandb", "wandb_project", "wandb_name", "wandb_entity"),
    *("checkpoint_interval", "keep_checkpoints", "batch_size", "grad_accumulation"),
}
"""settings that may change on resume. The content behind changed paths is checked (run_folder.reject_other_data);
batch_size and grad_accumulation may change only together, with the same product and without a batch ramp"""


def choose_folder(settings: TrainSettings, stage: str = "train") -> tuple[Path | None, bool]:
    """(run folder, whether to resume the run in it). None: a new folder, created when the run starts.

    Raises UserError if the run in the folder belongs to another command."""
    if settings.run.out_dir is None:
        return (newest_run(stage=stage), True) if settings.run.resume else (None, False)
    if not settings.run.out_dir:  # an unset shell variable; Path("") would be the current directory
        raise UserError("out_dir is empty; give a folder, or remove it for a new one under runs/")
    folder = Path(settings.run.out_dir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; choose another --out-dir")
    started = any(folder.glob("checkpoints/step_*/COMPLETE"))
    if settings.run.resume and not started:
        raise UserError(f"{folder}: has no checkpoint to resume from; remove --resume to start a run there")
    if started and (there := run_stage(folder)) != stage:
        raise UserError(
            f"{folder}: is a run of lmfast {there}; resume it with that command, or choose another --out-dir"
        )
    return folder, started


def settings_to_resume(folder: Path, cls: type[T]) -> T:
    """`saved_settings`, with lr_decay_iters unset if it had its default, so that it follows a new end."""
    settings = saved_settings(folder, cls)
    opt = settings.optimizer
    if opt.max_iters is not None and opt.lr_decay_iters == default_decay_iters(opt):
        settings = replace_flat(settings, {"lr_decay_iters": None})
    return settings


def describe_extension(before: OptimizerSettings, now: OptimizerSettings, step: int) -> str | None:
    """One line about the learning rate after `step` if a resumed run has another end or schedule, otherwise None.

    before, now: resolved settings.
    """
    old, new = ({name: getattr(opt, name) for name in END} for opt in (before, now))
    if old == new:
        return None
    changes = ", ".join(
        f"{name} {_shown(old[name])} → {_shown(new[name])}" for name in END if old[name] != new[name]
    )
    if now.lr_decay_iters is None:
        return f"{changes}: the {now.schedule} schedule follows the clock and now ends at the new time"
    rates = [make_schedule(opt)(at) for opt, at in ((before, step), (now, step + 1))]
    line = (
        f"{changes}: the {now.schedule} schedule ends at step {now.lr_decay_iters}; learning rate {rates[1]:.3g} at step "
        f"{step + 1} (it was {rates[0]:.3g} at step {step})"
    )
    if old["lr_decay_iters"] != new["lr_decay_iters"] and old["lr_decay_iters"] is not None:
        line += f"; --lr-decay-iters {old['lr_decay_iters']} keeps the old schedule"
    return line


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def saved_settings(folder: Path, cls: type[T]) -> T:
    """The settings of a run, as an instance of `cls`."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(
            f"{folder}: has checkpoints but no config.yaml; restore it, or choose another --out-dir"
        )
    return replace_flat(cls(), read_yaml(path, cls))


def reject_missing_data(folder: Path, settings: TrainSettings) -> None:
    """Raises UserError if the data of a resumed run is not where it was."""
    for name in ("train_data_path", "val_data_path"):
        path = getattr(settings.data, name)
        if path is not None and not Path(path).exists():
            flag = "--" + name.removesuffix("_path").replace("_", "-")
            raise UserError(
                f"{folder}: its {name} {path} does not exist; if it was moved, give its new path with {flag}"
            )


def reject_changes(folder: Path, before: TrainSettings, now: TrainSettings) -> None:
    """Raises UserError naming the first resolved setting that changed and affects the weights."""
    if refusal := refused_change(to_flat(before), to_flat(now)):
        raise UserError(f"{folder}: {refusal}")


def refused_change(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Why a run with the flat settings `old` cannot go on with `new`; None if it can."""
    for name in {**old, **new}:
        if name not in HARMLESS and old.get(name) != new.get(name):
            return (
                f"the run has {name} {old.get(name)}, which cannot change to {new.get(name)}; remove it to resume, "
                "or choose another --out-dir (--init-from starts from the weights of this run)"
            )
    rows = [flat["batch_size"] * flat["grad_accumulation"] for flat in (old, new)]
    if rows[0] != rows[1]:
        return (
            f"the run has batch_size × grad_accumulation = {rows[0]}, which cannot change to {rows[1]}; "
            "keep the product, or choose another --out-dir"
        )
    if new["batch_ramp_iters"] and old["batch_size"] != new["batch_size"]:
        return (
            f"batch_size cannot change in a run with a batch ramp; keep batch_size {old['batch_size']}, "
            "or choose another --out-dir"
        )
    if new["dropout"] > 0 and old["batch_size"] != new["batch_size"]:
        return (
            "batch_size cannot change in a run with dropout, whose masks depend on it; "
            f"keep batch_size {old['batch_size']}, or choose another --out-dir"
        )
    return None
