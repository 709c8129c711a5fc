"""Expands file names, folders and globs to the files to read, without silently skipping any.

Output: paths in the order of the names, sorted within a folder or glob, each file once even if several names or links lead
to it. Skips hidden files and folders, and empty files in folders and globs. Skips with a warning: links to folders, which
may be circular or lead outside, and files in folders that are not text, records or Parquet.

Rejects names that match nothing, unreadable folders, broken links, folders without text, empty files, and what
file_kinds.py rejects.
"""

import fnmatch
import glob
import json
import logging
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lmfast.data.sources import unpacked
from lmfast.errors import UserError
from lmfast.tokenizer.file_kinds import (
    HEAD,
    PLAIN_TEXT,
    RECORD_SUFFIXES,
    TEXT_SUFFIXES,
    check_is_text,
    file_kind,
    has_source_suffix,
    text_remarks,
)

logger = logging.getLogger(__name__)
FIRST_LINE = 1 << 20  # bytes of a .json file that are read to see whether it is JSON lines


def find_sources(names: Sequence[str | Path]) -> list[Path]:
    """The files of text, records and Parquet that the names refer to."""
    found: dict[Path, Path] = {}  # resolved path → path as found
    for name in names:
        if not str(name):
            raise UserError("--input is empty; give files, folders or globs")
        path = Path(name)
        if path.is_dir():
            here = _folder_sources(path)
        elif os.path.lexists(path):
            here = [path]
        else:
            here = [file for file in matching(str(name)) if _size(file)]
            if not here:
                raise UserError(f"{name}: no such file, and no file matches this pattern; check the path")
        for file in here:
            found.setdefault(file.resolve(), file)
    for file in found.values():
        _check(file)
    return list(found.values())


def _folder_sources(folder: Path) -> list[Path]:
    files = files_under(folder)
    named = [file for file in files if has_source_suffix(file)]
    others = Counter(file.suffix.lower() or "no suffix" for file in files if not has_source_suffix(file))
    counts = ", ".join(f"{count:,} of {suffix}" for suffix, count in others.most_common(5))
    sources = [file for file in named if _size(file)]
    if not sources:
        kinds = ", ".join((*TEXT_SUFFIXES, *RECORD_SUFFIXES[:-1], ".parquet"))
        rest = f"; found {counts}" if others else ""
        raise UserError(
            f"{folder}: contains no text ({kinds}, also with .gz or .zst{rest}); give the files by name"
        )
    if others:
        logger.warning(
            "%s: skipping files with other suffixes (%s); give them by name to read them", folder, counts
        )
    return sources


def _size(file: Path) -> int:
    return _status(file).st_size


def _check(file: Path) -> None:
    """Raises UserError if a file cannot be a source, judged by its name and first bytes."""
    kind = file_kind(file)
    if not stat.S_ISREG(_status(file).st_mode):
        raise UserError(f"{file}: is a pipe or a device; give a regular file")
    if not _size(file):
        raise UserError(f"{file}: is empty; remove it")
    try:
        with file.open("rb") as opened:
            head = opened.read(HEAD)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); fix or remove it") from None
    if kind == PLAIN_TEXT:
        check_is_text(file, head)
        for remark in text_remarks(file, head):
            logger.warning(remark)
    elif kind.form == "records" and Path(file.name.lower().removesuffix(kind.packing)).suffix == ".json":
        _check_is_lines(file, kind.packing)


def _check_is_lines(file: Path, packing: str) -> None:
    """Raises UserError if a .json file is a single value instead of one record per line, as in C4."""
    with unpacked(file) if packing else file.open("rb") as opened:
        head = b""
        while len(head) < FIRST_LINE and b"\n" not in head.lstrip() and (piece := opened.read(FIRST_LINE)):
            head += piece
    line, newline, _ = head.lstrip().partition(b"\n")
    try:
        is_record = isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        is_record = (
            line.startswith(b"{") and not newline and len(head) >= FIRST_LINE
        )  # too long to be read here
    if not is_record:
        raise UserError(
            f"{file}: is JSON, but not one record per line; convert it to .jsonl (`jq -c '.[]'` for an array), or give "
            "text or Parquet"
        )


def files_under(folder: Path) -> list[Path]:
    """The files of a folder at any depth, sorted, without hidden ones."""
    return sorted(file for _, files in _walk(folder) for file in files)


def matching(pattern: str) -> list[Path]:
    """The files that a glob matches, sorted. `**` matches any number of folders."""
    path = Path(pattern)
    matches = list(_expand(Path(path.anchor), path.parts[len(Path(path.anchor).parts) :]))
    files = sorted({file for file in matches if not stat.S_ISDIR(_status(file).st_mode)})
    if "**" not in path.parts and (folders := [str(file) for file in matches if file not in files]):
        logger.warning(
            "%s: skipping matching folders (%s); give them by name to read them", pattern, ", ".join(folders)
        )
    return files


def _expand(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    """The paths below a folder that match the components of a glob."""
    if not parts:
        yield folder
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        for below, _ in _walk(folder):
            yield from _expand(below, rest or ("*",))
    elif not glob.has_magic(part):
        if os.path.lexists(folder / part):
            yield from _expand(folder / part, rest)
    else:
        for path in _entries(folder):
            hidden = path.name.startswith(".") and not part.startswith(".")
            if not hidden and fnmatch.fnmatch(path.name, part) and (not rest or path.is_dir()):
                yield from _expand(path, rest)


def _walk(top: Path) -> Iterator[tuple[Path, list[Path]]]:
    """(folder, its files) for a folder and its subfolders, without hidden ones and links to folders."""
    linked: list[Path] = []
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        files = []
        for path in _entries(folder):
            if path.name.startswith("."):
                continue
            if not stat.S_ISDIR(_status(path).st_mode):
                files.append(path)
            else:
                (linked if path.is_symlink() else waiting).append(path)
        yield folder, files
    outside = [str(path) for path in linked if not path.resolve().is_relative_to(top.resolve())]
    if outside:
        logger.warning(
            "%s: skipping links to folders (%s); give them by name to read them", top, ", ".join(outside)
        )


def _entries(folder: Path) -> Iterable[Path]:
    try:
        with os.scandir(folder) as entries:
            return [folder / entry.name for entry in entries]
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be read ({error.strerror}); fix its permissions, or give the files by name"
        ) from None


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        link = f"links to {os.readlink(path)}, which " if path.is_symlink() else ""
        raise UserError(f"{path}: {link}cannot be read ({error.strerror}); fix or remove it") from None
