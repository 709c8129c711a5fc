"""Fingerprints of the files that a stage reads and writes.

An input is known by its content: SHA-256 of files, of the newest complete checkpoint and the configuration of a run folder,
of all files of another folder. A file whose size and time of modification are unchanged is not read again. An output is
known by its size, which detects deleted and truncated files.
"""

import glob
import hashlib
import json
from pathlib import Path
from typing import Any

from lmfast.files import file_sha256
from lmfast.training.run_folder import newest_step

Known = dict[str, Any]
"""{path: [size, mtime in ns, SHA-256]} of files that were read before"""


def fingerprint(path: Path, known: Known) -> str | None:
    """The fingerprint of a file, folder or glob; None if nothing is there. Adds the files that it reads to `known`."""
    if path.is_file():
        return _file(path, known)
    if path.is_dir():
        step = newest_step(path)
        if step is not None:  # a run: its report and logs may change
            marker = path / f"checkpoints/step_{step:08d}/COMPLETE"
            return _combined([path / "config.yaml", marker], path, known)
        return _combined([file for file in sorted(path.rglob("*")) if _counts(file, path)], path, known)
    found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
    if not found:
        return None
    return _hash([(str(each), fingerprint(each, known)) for each in found])


def sizes(path: Path, command_trains: bool) -> dict[str, int]:
    """{file: size} of an output, by path relative to it; of a run only its newest checkpoint and its configuration."""
    if path.is_file():
        return {"": path.stat().st_size}
    files = [file for file in path.rglob("*") if _counts(file, path)]
    if command_trains:
        step = newest_step(path)
        newest = [] if step is None else [file for file in files if f"step_{step:08d}" in file.parts]
        files = [path / "config.yaml", *newest]
    return {file.relative_to(path).as_posix(): file.stat().st_size for file in files if file.is_file()}


def damaged(path: Path, recorded: dict[str, int]) -> str | None:
    """The first file of an output that is missing or has another size; None if all are there."""
    for name, size in recorded.items():
        file = path / name if name else path
        if not file.is_file() or file.stat().st_size != size:
            return str(file)
    return None if recorded else str(path)


def _counts(file: Path, folder: Path) -> bool:
    """Whether a file belongs to a folder's content: hidden files and folders are our records and caches."""
    return file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)


def _combined(files: list[Path], folder: Path, known: Known) -> str:
    return _hash([(file.relative_to(folder).as_posix(), _file(file, known)) for file in files])


def _file(path: Path, known: Known) -> str | None:
    if not path.is_file():
        return None
    status = path.stat()
    before = known.get(str(path))
    if isinstance(before, list) and before[:2] == [status.st_size, status.st_mtime_ns]:
        return before[2]
    sha256 = file_sha256(path)
    known[str(path)] = [status.st_size, status.st_mtime_ns, sha256]
    return sha256


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
