"""Checkpoints that are complete or absent.

    checkpoints/step_00000100/{model.safetensors, optimizer.safetensors, state.json, COMPLETE}

Sharded runs (training/parallel/saving.py) write two files per rank instead of the first two, with the names that
torch.distributed.checkpoint gives them: shard-00001-model-00001-of-00002.safetensors has weights of rank 0,
shard-00001-model-00002-of-00002.safetensors its optimizer state.

A checkpoint is written under a temporary name, flushed to disk and renamed; COMPLETE, with the SHA-256 of every other
file, is written last. Reading uses the newest checkpoint with intact files, so after a crash or disk error training
resumes from an older step. Nothing is unpickled. Imports torch only to read and write tensors.
"""

import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from lmfast.errors import UserError
from lmfast.files import file_sha256, share, sync
from lmfast.training.tensor_files import TensorFiles

if TYPE_CHECKING:
    from torch import Tensor

MARKER = "COMPLETE"
WEIGHTS, STATE = 1, 2
"""numbers of the files of a rank in a sharded checkpoint"""
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

    @property
    def weight_files(self) -> list[Path]:
        """The files that contain the weights, whole or in pieces."""
        return self._shards(WEIGHTS) or [self.model_file]

    @property
    def state_files(self) -> list[Path]:
        """The files that contain the optimizer state, whole or in pieces."""
        return self._shards(STATE) or [self.path / "optimizer.safetensors"]

    def _shards(self, number: int) -> list[Path]:
        """The files of this kind that the marker lists: others do not belong to the checkpoint."""
        found = sorted(self.path.glob(f"shard-*-model-{number:05d}-of-{STATE:05d}.safetensors"))
        listed = json.loads((self.path / MARKER).read_text(encoding="utf-8")) if found else {}
        return [path for path in found if path.name in listed]

    def model_tensors(self) -> "dict[str, Tensor]":
        return _load(self.weight_files)

    def optimizer_tensors(self) -> "dict[str, Tensor]":
        return _load(self.state_files)


def save_checkpoint(
    folder: Path,
    model_tensors: "dict[str, Tensor]",
    optimizer_tensors: "dict[str, Tensor]",
    state: dict[str, Any],
) -> Path:
    """Writes `folder`/step_N, where N is state["step"]. On OSError (a full disk), removes the partial checkpoint."""
    with new_checkpoint(folder, state) as temporary:
        save_tensors(model_tensors, temporary / "model.safetensors")
        save_tensors(optimizer_tensors, temporary / "optimizer.safetensors")
        return complete_checkpoint(temporary, state, checksums(temporary))


@contextlib.contextmanager
def new_checkpoint(folder: Path, state: dict[str, Any]) -> Iterator[Path]:
    """Yields the empty temporary folder of a checkpoint, to be completed; removes it on OSError (a full disk)."""
    temporary = temporary_folder(folder, state)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def temporary_folder(folder: Path, state: dict[str, Any]) -> Path:
    """Where the checkpoint of `state` is written until it is complete."""
    return folder / f".{_folder_name(state['step'])}.partial"


def checksums(folder: Path, pattern: str = "*") -> dict[str, str]:
    """Flushes the files of a folder that match `pattern` to disk; returns their SHA-256 by name."""
    sums = {}
    for file in sorted(folder.glob(pattern)):
        sums[file.name] = file_sha256(file)
        sync(file)
    return sums


def complete_checkpoint(temporary: Path, state: dict[str, Any], sums: dict[str, str]) -> Path:
    """Adds state.json to a folder with the tensors, renames it and marks it complete; returns its path.

    sums: SHA-256 of the files in it, which are on disk already."""
    final = temporary.parent / _folder_name(state["step"])
    (temporary / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    sums = sums | checksums(temporary, "state.json")
    sync(temporary)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(temporary, final)
    marker = final / f".{MARKER}.partial"
    marker.write_text(json.dumps(sums, indent=1), encoding="utf-8")
    sync(marker)
    os.replace(marker, final / MARKER)
    sync(final)
    sync(final.parent)
    return final


def _folder_name(step: int) -> str:
    return f"step_{step:08d}"


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
        if best_step is None or path.name != _folder_name(best_step):
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
            if not (path / name).exists():
                return f"{name} is missing"
            if file_sha256(path / name) != expected:
                return f"{name} is damaged (its checksum differs)"
        if "state.json" not in sums:
            return f"{MARKER} lists no files"
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if not isinstance(state, dict) or type(state.get("step")) is not int:
            return "state.json does not give the step"
    except (OSError, ValueError, AttributeError) as error:
        return f"cannot be read ({error})"
    return None


def _load(paths: list[Path]) -> "dict[str, Tensor]":
    from safetensors.torch import load_file

    if len(paths) > 1 or paths[0].name.startswith("shard-"):
        return _joined(TensorFiles(paths))
    (path,) = paths
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give another checkpoint") from None


def _joined(files: TensorFiles) -> "dict[str, Tensor]":
    """Whole tensors of pieces, in memory."""
    import torch

    arrays = {name: files.read(name) for name in files.shapes}
    return {
        name: torch.from_numpy(array if array.flags.writeable else array.copy())
        for name, array in arrays.items()
    }
