"""Which run folder a training writes to, and whether it may go on with what is there.

A run is a function of its settings. Going on with other settings would make a run that nobody asked for and nobody can
repeat, so a changed setting is refused by name, unless it cannot change the weights (how often something is logged,
say) or leaves them equal to rounding (batch_size × grad_accumulation with the same product, without dropout and batch ramp).
"""

from pathlib import Path

from lmfast.errors import UserError
from lmfast.settings import TrainSettings, read_yaml, replace_flat, to_flat
from lmfast.training.run_folder import new_run_folder, newest_run, read_facts

HARMLESS = {
    *("config", "out_dir", "resume", "max_iters", "total_tokens", "val_data_path", "tokenizer"),
    *("log_interval", "eval_interval", "eval_batches", "sample_interval", "tensorboard"),
    *("wandb", "wandb_project", "wandb_name", "wandb_entity"),
    *("checkpoint_interval", "keep_checkpoints", "batch_size", "grad_accumulation"),
}
"""settings that may change between a run's stops; the last two only together, with the same product and no batch ramp"""


def choose_folder(settings: TrainSettings, stage: str = "train") -> tuple[Path, bool]:
    """(run folder, whether a run in it is to be gone on with). Raises UserError where that is another command's."""
    if settings.run.out_dir is None:
        if not settings.run.resume:
            return new_run_folder(stage), False
        return _of_stage(newest_run(), stage), True
    folder = Path(settings.run.out_dir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; out_dir must be a folder")
    started = any(folder.glob("checkpoints/step_*/COMPLETE"))
    if settings.run.resume and not started:
        raise UserError(f"{folder}: no checkpoint to resume from; leave --resume out to start there")
    return _of_stage(folder, stage) if started else folder, started


def _of_stage(folder: Path, stage: str) -> Path:
    """The folder, if its run is this command's."""
    if (there := read_facts(folder).get("stage", "train")) != stage:
        raise UserError(f"{folder}: is a run of lmfast.{there}; go on there, or choose another --out-dir")
    return folder


def saved_settings(folder: Path, cls: type[TrainSettings] = TrainSettings) -> TrainSettings:
    """The settings, of class `cls`, that a run was started with."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(f"{folder}: has checkpoints but no config.yaml; choose another --out-dir")
    return replace_flat(cls(), read_yaml(path, cls))


def refuse_changes(folder: Path, before: TrainSettings, now: TrainSettings) -> None:
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
