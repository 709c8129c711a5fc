"""Checkpoints that are complete or absent.

    checkpoints/step_00000100/{model.safetensors, optimizer.safetensors, state.json, COMPLETE}

A checkpoint is written under another name, synced to the disk and renamed; COMPLETE, with the sha256 of every other
file, comes last. Reading takes the newest one whose files still have those sums, so neither a crash nor a damaged
disk is noticed as anything but an older step. Nothing is unpickled.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmfast.errors import UserError
from lmfast.files import file_sha256, sync

MARKER = "COMPLETE"
_NAME = re.compile(r"step_(\d{8,})$")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    path: Path
    state: dict[str, Any]  # step, tokens, seconds, best_val_loss, best_step

    @property
    def step(self) -> int:
        return self.state["step"]

    @property
    def run(self) -> Path:
        """The run folder that it belongs to."""
        return self.path.resolve().parent.parent

    def model_tensors(self) -> dict[str, Tensor]:
        return _load(self.path / "model.safetensors")

    def optimizer_tensors(self) -> dict[str, Tensor]:
        return _load(self.path / "optimizer.safetensors")


def save_checkpoint(
    folder: Path,
    model_tensors: dict[str, Tensor],
    optimizer_tensors: dict[str, Tensor],
    state: dict[str, Any],
) -> Path:
    """Writes `folder`/step_N, N being state["step"]. An OSError (a full disk) leaves nothing behind but the older ones."""
    final = folder / f"step_{state['step']:08d}"
    temporary = folder / f".{final.name}.partial"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        save_file({k: v.contiguous() for k, v in model_tensors.items()}, temporary / "model.safetensors")
        save_file(
            {k: v.contiguous() for k, v in optimizer_tensors.items()}, temporary / "optimizer.safetensors"
        )
        (temporary / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
        sums = {}
        for file in sorted(temporary.iterdir()):
            sums[file.name] = file_sha256(file)
            sync(file)
        sync(temporary)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        marker = final / f".{MARKER}.partial"
        marker.write_text(json.dumps(sums, indent=1), encoding="utf-8")
        sync(marker)
        os.replace(marker, final / MARKER)
        sync(final)
        sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise
        raise OSError(str(error)) from error
    return final


def prune_checkpoints(folder: Path, keep: int, best_step: int | None) -> None:
    """Removes all but the `keep` newest complete checkpoints and the best one, and what crashes left behind."""
    for partial in folder.glob(".step_*.partial"):
        shutil.rmtree(partial, ignore_errors=True)
    complete = []
    for path in _newest_first(folder):
        if (path / MARKER).exists():
            complete.append(path)
        else:  # a crash between renaming and marking, or between the two lines at the end of this function
            shutil.rmtree(path, ignore_errors=True)
    for path in complete[keep:] if keep else []:
        if best_step is None or path.name != f"step_{best_step:08d}":
            # The marker goes first: a removal cut short must not look like a checkpoint.
            (path / MARKER).unlink()
            shutil.rmtree(path, ignore_errors=True)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def newest_checkpoint(folder: Path, report: Callable[[str], None] = _to_stderr) -> Checkpoint | None:
    """The newest undamaged checkpoint under `folder`, or None. Each damaged one passed over is reported in a line."""
    for path in _newest_first(folder):
        if not (path / MARKER).exists():
            continue
        if problem := _damage(path):
            report(f"{path}: {problem}; using the checkpoint before it")
            continue
        return Checkpoint(path, json.loads((path / "state.json").read_text(encoding="utf-8")))
    return None


def open_checkpoint(path: Path) -> Checkpoint:
    """One checkpoint folder by name. Raises UserError when it is not complete and whole."""
    if not (path / MARKER).exists():
        raise UserError(f"{path}: not a complete checkpoint (no {MARKER} in it); name its run folder instead")
    if problem := _damage(path):
        raise UserError(f"{path}: {problem}; name an older checkpoint of the run")
    return Checkpoint(path, json.loads((path / "state.json").read_text(encoding="utf-8")))


def _newest_first(folder: Path) -> list[Path]:
    steps = [(int(match[1]), p) for p in folder.glob("step_*") if (match := _NAME.match(p.name))]
    return [p for _, p in sorted(steps, key=lambda found: found[0], reverse=True)]


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint that has its marker; None when nothing is."""
    try:
        sums = json.loads((path / MARKER).read_text(encoding="utf-8"))
        for name, expected in sums.items():
            if file_sha256(path / name) != expected:
                return f"{name} is damaged (its checksum differs)"
    except (OSError, ValueError, AttributeError) as error:
        return f"cannot be read ({error})"
    return None if "state.json" in sums else f"{MARKER} lists no files"


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error}); name another checkpoint") from None
