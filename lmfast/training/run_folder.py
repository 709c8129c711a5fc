"""The run folder: one run's config, tokenizer, metrics, samples, report and checkpoints, and who may write it.

runs/NAME/{config.yaml, tokenizer/, metrics.jsonl, samples/, report.html, checkpoints/}
"""

import contextlib
import dataclasses
import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmfast.errors import UserError
from lmfast.files import atomic_write, folder_lock
from lmfast.model.config import ModelConfig, ResolvedConfig

if TYPE_CHECKING:
    import torch

    from lmfast.model.transformer import TransformerLM
    from lmfast.tokenizer.bpe import Tokenizer
    from lmfast.training.checkpoint import Checkpoint

RUNS = Path("runs")


def claim_new_folder(stage: str = "train") -> Path:
    """Makes runs/train-N (sft-N, dpo-N) with the first N above all that exist; no other process gets the same one."""
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
    """The run under runs/ that was written to last, of a stage (train, sft, dpo) or of any. Raises UserError when there is
    none."""
    runs = [p.parent for p in RUNS.glob("*/config.yaml")]
    if with_checkpoint:
        runs = [p for p in runs if any(p.glob("checkpoints/step_*/COMPLETE"))]
    if stage is not None:
        runs = [p for p in runs if run_stage(p) == stage]
    if not runs:
        kind = "" if stage is None else f" of lmfast {stage}"
        raise UserError(f"{RUNS}/: no run{kind} with a checkpoint here; train one, or name a run folder")
    return max(runs, key=_last_written)


def run_stage(folder: Path) -> str:
    """The command that made a run: train, sft or dpo."""
    return read_facts(folder).get("stage", "train")


def _last_written(run: Path) -> float:
    return max(p.stat().st_mtime for p in [run / "config.yaml", *run.glob("checkpoints/step_*")])


def newest_step(folder: Path) -> int | None:
    """The step of a run's newest complete checkpoint, by its name alone; None without one."""
    return max((int(p.parent.name[5:]) for p in folder.glob("checkpoints/step_*/COMPLETE")), default=None)


def reject_foreign_folder(folder: Path) -> None:
    """Raises UserError where a new run would write over files that are no run's."""
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
        raise UserError(f"{folder}: no run folder, yet it holds {', '.join(taken)}; choose another --out-dir")


def reject_other_data(folder: Path, facts: dict[str, Any]) -> None:
    """Raises UserError where the training data is not what the run was started with."""
    before: dict[str, Any] = read_facts(folder).get("train_data") or {}
    now: dict[str, Any] = facts.get("train_data") or {}
    for name in before:
        if before[name] != now.get(name):
            raise UserError(
                f"{folder}: the run was started on other training data (its {name}: {before[name]}, now {now.get(name)}); "
                "put that back, or choose another --out-dir"
            )


def reject_other_model(checkpoint: "Checkpoint", config: ModelConfig, may_grow: bool = False) -> None:
    """Raises UserError naming the setting in which a run's model differs from `config`; its start, dropout and context
    may, and with may_grow its vocabulary may be smaller."""
    if not (checkpoint.run / "config.yaml").is_file():
        return
    from lmfast.settings import read_model

    there = read_model(checkpoint.run)
    for field in dataclasses.fields(config):
        old, new = getattr(there, field.name), getattr(config, field.name)
        if field.name == "vocab_size" and may_grow and old <= new:
            continue
        if field.name not in ("dropout", "context_length", "zero_init") and old != new:
            raise UserError(
                f"{checkpoint.path}: a checkpoint of another model shape: {field.name} is {old} there and {new} here"
            )


def read_facts(folder: Path) -> dict[str, Any]:
    """run.json; empty where it is missing or damaged."""
    try:
        return json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def lock_run(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Holds `folder` for this process; raises UserError where another live process holds it."""
    return folder_lock(
        folder, f"{folder}: another process is writing this run; wait for it, or choose another --out-dir"
    )


def save_tokenizer(tokenizer: "Tokenizer", folder: Path) -> None:
    """Saves the tokenizer in the run folder, so that the folder can be moved as one."""
    target, partial = folder / "tokenizer", folder / ".tokenizer.partial"
    shutil.rmtree(partial, ignore_errors=True)
    tokenizer.save(partial)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line cut short by a crash is left out."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    lines: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(line))
    return lines


def truncate_metrics(folder: Path, step: int) -> None:
    """Drops the lines beyond `step`: those steps are about to be taken again."""
    lines = [line for line in read_metrics(folder) if line.get("step", 0) <= step]
    with atomic_write(folder / "metrics.jsonl", durable=True) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def load_run(
    folder: str | os.PathLike[str], device: str = "cpu"
) -> "tuple[TransformerLM, Tokenizer | None, ResolvedConfig]":
    """(model, tokenizer or None, model config) of a run folder, or of one checkpoint folder inside it.

    The newest undamaged checkpoint is taken. The model comes in eval mode, in fp32, on `device`.
    """
    return load_checkpoint(find_checkpoint(Path(folder)), device)


def load_checkpoint(
    checkpoint: "Checkpoint", device: "str | torch.device" = "cpu"
) -> "tuple[TransformerLM, Tokenizer | None, ResolvedConfig]":
    """(model, tokenizer or None, model config) of an open checkpoint; as `load_run`."""
    from lmfast.settings import read_model
    from lmfast.tokenizer.bpe import Tokenizer

    run = checkpoint.run
    config = read_model(run)
    tokenizer = Tokenizer.load(run / "tokenizer") if (run / "tokenizer").is_dir() else None
    model = build_model(checkpoint, config, device)
    if tokenizer is not None:
        model.restrict_to(tokenizer.vocab)
    return model, tokenizer, config


def find_checkpoint(path: Path) -> "Checkpoint":
    """The newest undamaged checkpoint of a run folder, or the checkpoint folder itself. Raises UserError."""
    from lmfast.training.checkpoint import newest_checkpoint, open_checkpoint

    if not path.is_dir():
        raise UserError(f"{path}: no such run folder or checkpoint")
    if not (path / "checkpoints").is_dir() and re.fullmatch(r"step_\d+", path.resolve().name):
        return open_checkpoint(path)
    checkpoint = newest_checkpoint(path / "checkpoints")
    if checkpoint is None:
        raise UserError(f"{path}: no complete checkpoint in it; name a run folder such as runs/quickstart")
    return checkpoint


def build_model(
    checkpoint: "Checkpoint", config: ModelConfig, device: "str | torch.device" = "cpu"
) -> "TransformerLM":
    """A TransformerLM of shape `config` with a checkpoint's weights, in eval mode."""
    from lmfast.model.transformer import TransformerLM

    model = TransformerLM.uninitialised(config, device)
    load_weights(model, checkpoint)
    return model.eval()


def load_weights(model: "TransformerLM", checkpoint: "Checkpoint", may_grow: bool = False) -> None:
    """Copies a checkpoint's weights into `model`; raises UserError naming the first tensor that does not fit, or in
    which a NaN or an infinity would spoil each step and each answer.

    may_grow: tables with a row for each id may have fewer rows in the checkpoint; see `_grow`.
    """
    import torch

    tensors = checkpoint.model_tensors()
    own = model.named_weights()
    for name in own if may_grow else ():
        if name == "head.weight" or name.endswith("embedding.weight"):
            tensors[name] = _grow(tensors[name], len(own[name]))
    for name in [*own, *tensors]:
        if name not in tensors or name not in own or own[name].shape != tensors[name].shape:
            there = tuple(tensors[name].shape) if name in tensors else "absent"
            here = tuple(own[name].shape) if name in own else "absent"
            raise UserError(
                f"{checkpoint.path}: a checkpoint of another model shape: {name} is {there} there and {here} here; "
                "use the settings of its config.yaml"
            )
        if tensors[name].numel() and not all(end.isfinite() for end in tensors[name].aminmax()):
            raise UserError(f"{checkpoint.path}: {name} is not finite; use an older checkpoint")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def _grow(rows: "torch.Tensor", count: int) -> "torch.Tensor":
    """A table (ids, width) with `count` ids: new rows lie about the mean of the old ones, which leaves the other ids'
    probabilities nearly as they were (Hewitt 2021), a tenth of their spread apart, so that they can be told."""
    import torch

    if len(rows) >= count:
        return rows
    noise = torch.randn(count - len(rows), rows.shape[1], generator=torch.Generator().manual_seed(0))
    return torch.cat([rows, (rows.mean(0) + 0.1 * rows.std(0) * noise).to(rows.dtype)])
