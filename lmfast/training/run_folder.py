"""The run folder: config, tokenizer, metrics, samples, report and checkpoints of one run.

runs/NAME/{config.yaml, tokenizer/, metrics.jsonl, samples/, report.html, checkpoints/}
"""

import contextlib
import dataclasses
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmfast.errors import UserError
from lmfast.files import atomic_folder, atomic_write, folder_lock
from lmfast.model.config import ModelConfig
from lmfast.settings import read_model
from lmfast.tokenizer.bpe import Tokenizer

if TYPE_CHECKING:
    from lmfast.training.checkpoint import Checkpoint

RUNS = Path("runs")


def claim_new_folder(stage: str = "train") -> Path:
    """Creates runs/train-N (sft-N, dpo-N), where N is above all existing ones and unique to this process."""
    while True:
        numbers = [
            int(m[1]) for p in RUNS.glob(f"{stage}-*") if (m := re.fullmatch(rf"{stage}-(\d+)", p.name))
        ]
        folder = RUNS / f"{stage}-{max(numbers, default=0) + 1}"
        RUNS.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):  # another process was faster
            folder.mkdir()
            return folder


def newest_run(with_checkpoint: bool = True, stage: str | None = None) -> Path:
    """The newest run under runs/ of a stage (train, sft, dpo), or of any. Raises UserError if there is none."""
    runs = [p.parent for p in RUNS.glob("*/config.yaml")]
    if with_checkpoint:
        runs = [p for p in runs if any(p.glob("checkpoints/step_*/COMPLETE"))]
    if stage is not None:
        runs = [p for p in runs if run_stage(p) == stage]
    if not runs:
        kind = "" if stage is None else f" of lmfast {stage}"
        raise UserError(f"{RUNS}/: contains no run{kind} with a checkpoint; train one, or give a run folder")
    return max(runs, key=_last_written)


def run_stage(folder: Path) -> str:
    """The command of a run: train, sft or dpo."""
    return read_facts(folder).get("stage", "train")


def _last_written(run: Path) -> float:
    return max(p.stat().st_mtime for p in [run / "config.yaml", *run.glob("checkpoints/step_*")])


def newest_step(folder: Path) -> int | None:
    """The step of the newest complete checkpoint of a run, by name; None without one."""
    return max((int(p.parent.name[5:]) for p in folder.glob("checkpoints/step_*/COMPLETE")), default=None)


def reject_foreign_folder(folder: Path) -> None:
    """Raises UserError if a new run would overwrite files that do not belong to a run."""
    if not folder.is_dir() or (folder / "run.json").exists():
        return
    ours = {
        "config.yaml",
        "tokenizer",
        "metrics.jsonl",
        "samples",
        "report.html",
        "checkpoints",
        "tensorboard",
        "wandb",
    }
    taken = sorted(ours & {p.name for p in folder.iterdir()})
    if taken:
        raise UserError(
            f"{folder}: not a run folder, but it contains {', '.join(taken)}; choose another --out-dir"
        )


def reject_other_data(folder: Path, facts: dict[str, Any]) -> None:
    """Raises UserError if the training data is not that of the run."""
    before: dict[str, Any] = read_facts(folder).get("train_data") or {}
    now: dict[str, Any] = facts.get("train_data") or {}
    for name in before:
        if before[name] != now.get(name):
            raise UserError(
                f"{folder}: the training data of the run has changed ({name}: {before[name]}, now {now.get(name)}); "
                "restore it, or choose another --out-dir"
            )


def reject_other_masks(folder: Path, facts: dict[str, Any]) -> None:
    """Raises UserError if a run with dropout resumes on another number of data ranks, each of which has its own masks."""
    before, now = read_facts(folder).get("data_ranks"), facts.get("data_ranks")
    if before is not None and now is not None and before != now:
        raise UserError(
            f"{folder}: dropout masks depend on the number of processes that share the rows, which was {before} and cannot "
            f"change to {now}; start as many as before, or choose another --out-dir"
        )


def reject_other_model(checkpoint: "Checkpoint", config: ModelConfig, may_grow: bool = False) -> None:
    """Raises UserError naming the setting in which the model of a run differs from `config`.

    zero_init and dropout may differ, and context_length unless positions are learned; with may_grow, the vocabulary of the
    run may be smaller."""
    if not (checkpoint.run / "config.yaml").is_file():
        return
    there = read_model(checkpoint.run)
    if there.position == config.position == "learned" and there.context_length != config.context_length:
        raise UserError(
            f"{checkpoint.path}: has learned positions for context_length {there.context_length}, not "
            f"{config.context_length}; use --context-length {there.context_length}"
        )
    for field in dataclasses.fields(config):
        old, new = getattr(there, field.name), getattr(config, field.name)
        if field.name == "vocab_size" and may_grow and old <= new:
            continue
        if field.name not in ("dropout", "context_length", "zero_init") and old != new:
            raise UserError(
                f"{checkpoint.path}: has another model shape: {field.name} is {old}, not {new}; use the settings of its "
                "config.yaml"
            )


def read_facts(folder: Path) -> dict[str, Any]:
    """The content of run.json; empty if it is missing or damaged."""
    try:
        return json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def lock_run(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Locks `folder` for this process. Raises UserError if another live process holds the lock."""
    return folder_lock(
        folder, f"{folder}: another process is writing this run; wait for it, or choose another --out-dir"
    )


def load_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer in a run folder, if it has one."""
    return Tokenizer.load(folder / "tokenizer") if (folder / "tokenizer").is_dir() else None


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Saves the tokenizer in the run folder, so that the folder is self-contained."""
    with atomic_folder(folder / "tokenizer") as temporary:
        tokenizer.save(temporary)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without a last line truncated by a crash."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    lines: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(line))
    return lines


def truncate_metrics(folder: Path, step: int) -> None:
    """Removes the lines after `step`, because those steps will run again."""
    lines = [line for line in read_metrics(folder) if line.get("step", 0) <= step]
    with atomic_write(folder / "metrics.jsonl", durable=True) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
