"""Which run folder a training writes to, and what may change when the run in it resumes.

A run is a function of its settings, so changing one on resume is an error that names it, unless it cannot change the
weights (how often something is logged, say), leaves them equal to rounding (batch_size × grad_accumulation with the same
product, without dropout and batch ramp), or moves the run's end: max_iters, total_tokens, max_minutes, epochs and
lr_decay_iters. A moved end is reported with the learning rate it leads to.

What extending means is the same for every schedule: from the next step on, the learning rate is that of the schedule
with the new end, whether the run had finished or not. An lr_decay_iters that was the run's last step (as when it was
not set) moves with max_iters; any other stays where it is until --lr-decay-iters moves it.
"""

from pathlib import Path
from typing import TypeVar

from lmfast.errors import UserError
from lmfast.settings import OptimizerSettings, TrainSettings, read_yaml, replace_flat, to_flat
from lmfast.training.resolve import default_decay_iters
from lmfast.training.run_folder import newest_run, run_stage
from lmfast.training.schedules import make_schedule

T = TypeVar("T", bound=TrainSettings)

END = ("max_iters", "max_minutes", "lr_decay_iters")
"""what decides a run's end and its schedule's, once resolved"""

HARMLESS = {
    *END,
    *("config", "out_dir", "resume", "device", "total_tokens", "epochs", "val_data_path", "tokenizer"),
    *("train_data_path", "init_from", "reference_cache"),
    *("log_interval", "eval_interval", "eval_batches", "sample_interval", "tensorboard"),
    *("wandb", "wandb_project", "wandb_name", "wandb_entity"),
    *("checkpoint_interval", "keep_checkpoints", "batch_size", "grad_accumulation"),
}
"""settings that may change between a run's stops. Paths may, for what is there is checked (run_folder.reject_other_data);
batch_size and grad_accumulation only together, with the same product and no batch ramp"""


def choose_folder(settings: TrainSettings, stage: str = "train") -> tuple[Path | None, bool]:
    """(run folder, whether the run in it resumes); the folder is None where a new name is wanted, which is claimed when
    the run begins. Raises UserError where the run is another command's."""
    if settings.run.out_dir is None:
        return (newest_run(stage=stage), True) if settings.run.resume else (None, False)
    folder = Path(settings.run.out_dir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; out_dir must be a folder")
    started = any(folder.glob("checkpoints/step_*/COMPLETE"))
    if settings.run.resume and not started:
        raise UserError(f"{folder}: no checkpoint to resume from; leave --resume out to start there")
    if started and (there := run_stage(folder)) != stage:
        raise UserError(f"{folder}: is a run of lmfast.{there}; go on there, or choose another --out-dir")
    return folder, started


def settings_to_resume(folder: Path, cls: type[T]) -> T:
    """`saved_settings`, with an lr_decay_iters that follows the run's end left to be derived from that again."""
    settings = saved_settings(folder, cls)
    opt = settings.optimizer
    if opt.max_iters is not None and opt.lr_decay_iters == default_decay_iters(opt):
        settings = replace_flat(settings, {"lr_decay_iters": None})
    return settings


def describe_extension(before: OptimizerSettings, now: OptimizerSettings, step: int) -> str | None:
    """One line on the learning rate after `step`, where a resumed run has another end or schedule than it had; else None.

    In: resolved settings, before and now.
    """
    old, new = ({name: getattr(opt, name) for name in END} for opt in (before, now))
    if old == new:
        return None
    changes = ", ".join(
        f"{name} {_shown(old[name])} → {_shown(new[name])}" for name in END if old[name] != new[name]
    )
    if now.lr_decay_iters is None:
        return f"{changes}: the clock decides the {now.schedule} schedule, which now ends with the new time"
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
    """The settings, of class `cls`, that a run was started with."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(f"{folder}: has checkpoints but no config.yaml; choose another --out-dir")
    return replace_flat(cls(), read_yaml(path, cls))


def reject_missing_data(folder: Path, settings: TrainSettings) -> None:
    """Raises UserError where the data of a run that resumes is not where it was; the remedy is its new path."""
    for name in ("train_data_path", "val_data_path"):
        path = getattr(settings.data, name)
        if path is not None and not Path(path).exists():
            flag = "--" + name.removesuffix("_path").replace("_", "-")
            raise UserError(
                f"{folder}: its {name} {path} is not there; if it was moved, name its new place with {flag}"
            )


def reject_changes(folder: Path, before: TrainSettings, now: TrainSettings) -> None:
    """Raises UserError naming the first resolved setting whose change would make it another run."""
    old, new = to_flat(before), to_flat(now)
    for name in old:
        if name not in HARMLESS and old[name] != new[name]:
            raise UserError(
                f"{folder}: the run there has {name} {old[name]}, now it is {new[name]}; leave it out to go on, "
                "or choose another --out-dir (with --init-from to start from those weights)"
            )
    rows = [flat["batch_size"] * flat["grad_accumulation"] for flat in (old, new)]
    if rows[0] != rows[1]:
        raise UserError(
            f"{folder}: the run there has batch_size × grad_accumulation = {rows[0]}, now it is {rows[1]}; "
            "keep the product, or choose another --out-dir"
        )
    if new["batch_ramp_iters"] and old["batch_size"] != new["batch_size"]:
        raise UserError(
            f"{folder}: the run there has a batch ramp, which counts forward passes; keep batch_size {old['batch_size']}, "
            "or choose another --out-dir"
        )
    if new["dropout"] > 0 and old["batch_size"] != new["batch_size"]:
        raise UserError(
            f"{folder}: dropout is {new['dropout']}, so another split of a step would be another run (other masks); "
            f"keep batch_size {old['batch_size']}, or choose another --out-dir"
        )
