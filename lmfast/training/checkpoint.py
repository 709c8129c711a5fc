"""Checkpoints that are complete or absent.

    checkpoints/step_00000100/{model.safetensors, optimizer.safetensors, state.json, COMPLETE}

A checkpoint is written under a temporary name, flushed to disk and renamed; COMPLETE, with the SHA-256 of every other
file, is written last. Reading uses the newest checkpoint with intact files, so after a crash or disk error training
resumes from an older step. Nothing is unpickled. Imports torch only to read and write tensors.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from lmfast.errors import UserError
from lmfast.files import file_sha256, share, sync

if TYPE_CHECKING:
    from torch import Tensor

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
        """The run folder that contains it."""
        return self.path.resolve().parent.parent

    @property
    def model_file(self) -> Path:
        return self.path / "model.safetensors"

    def model_tensors(self) -> "dict[str, Tensor]":
        return _load(self.model_file)

    def optimizer_tensors(self) -> "dict[str, Tensor]":
        return _load(self.path / "optimizer.safetensors")


def save_checkpoint(
    folder: Path,
    model_tensors: "dict[str, Tensor]",
    optimizer_tensors: "dict[str, Tensor]",
    state: dict[str, Any],
) -> Path:
    """Writes `folder`/step_N, where N is state["step"]. On OSError (a full disk), removes the partial checkpoint."""
    final = folder / f"step_{state['step']:08d}"
    temporary = folder / f".{final.name}.partial"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        save_tensors(model_tensors, temporary / "model.safetensors")
        save_tensors(optimizer_tensors, temporary / "optimizer.safetensors")
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
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def save_tensors(tensors: "dict[str, Tensor]", path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file that others may read too. Raises OSError for a full disk."""
    from safetensors.torch import save_file

    try:
        save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    share(path)


def prune_checkpoints(folder: Path, keep: int, best_step: int | None) -> None:
    """Removes all but the `keep` newest complete checkpoints and the best one, and the remains of crashes."""
    for partial in folder.glob(".step_*.partial"):
        shutil.rmtree(partial, ignore_errors=True)
    complete = []
    for path in _newest_first(folder):
        if (path / MARKER).exists():
            complete.append(path)
        else:  # a crash before the marker was written, or between the two lines at the end of this function
            shutil.rmtree(path, ignore_errors=True)
    for path in complete[keep:] if keep else []:
        if best_step is None or path.name != f"step_{best_step:08d}":
            # Remove the marker first, so that an interrupted removal does not look like a checkpoint.
            (path / MARKER).unlink()
            shutil.rmtree(path, ignore_errors=True)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def newest_checkpoint(folder: Path, report: Callable[[str], None] = _to_stderr) -> Checkpoint | None:
    """The newest intact checkpoint in `folder`, or None. Reports each damaged one that is skipped."""
    for path in _newest_first(folder):
        if not (path / MARKER).exists():
            continue
        if problem := _damage(path):
            report(f"{path}: {problem}; using the previous checkpoint")
            continue
        return Checkpoint(path, json.loads((path / "state.json").read_text(encoding="utf-8")))
    return None


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens one checkpoint folder. Raises UserError if it is incomplete or damaged."""
    if not (path / MARKER).exists():
        raise UserError(f"{path}: not a complete checkpoint (no {MARKER}); give its run folder instead")
    if problem := _damage(path):
        raise UserError(f"{path}: {problem}; give an older checkpoint of the run")
    return Checkpoint(path, json.loads((path / "state.json").read_text(encoding="utf-8")))


def find_checkpoint(path: Path) -> Checkpoint:
    """The newest intact checkpoint of a run folder, or the given checkpoint folder. Raises UserError if there is none."""
    if not path.is_dir():
        raise UserError(f"{path}: no such run folder or checkpoint; check the path")
    if not (path / "checkpoints").is_dir() and re.fullmatch(r"step_\d+", path.resolve().name):
        return open_checkpoint(path)
    checkpoint = newest_checkpoint(path / "checkpoints")
    if checkpoint is None:
        raise UserError(f"{path}: contains no complete checkpoint; give a run folder such as runs/quickstart")
    return checkpoint


def _newest_first(folder: Path) -> list[Path]:
    steps = [(int(match[1]), p) for p in folder.glob("step_*") if (match := _NAME.match(p.name))]
    return [p for _, p in sorted(steps, key=lambda found: found[0], reverse=True)]


def _damage(path: Path) -> str | None:
    """The problem of a damaged checkpoint, or None."""
    try:
        if not (path / MARKER).is_file():
            return f"{MARKER} is not a regular file"
        sums = json.loads((path / MARKER).read_text(encoding="utf-8"))
        for name, expected in sums.items():
            if (path / name).exists() and not (path / name).is_file():  # reading a pipe would block
                return f"{name} is not a regular file"
            if file_sha256(path / name) != expected:
                return f"{name} is damaged (its checksum differs)"
    except (OSError, ValueError, AttributeError) as error:
        return f"cannot be read ({error})"
    return None if "state.json" in sums else f"{MARKER} lists no files"


def _load(path: Path) -> "dict[str, Tensor]":
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give another checkpoint") from None
