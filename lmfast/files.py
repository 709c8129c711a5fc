"""Atomic writes, directory locks, text and hashes of files, private caches.

Raises UserError for directories that are missing or not writable.
"""

import atexit
import contextlib
import hashlib
import json
import os
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from lmfast.errors import UserError


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], durable: bool = False) -> Iterator[Path]:
    """Yields a temporary path in the directory of `path`; renames it to `path` on success, removes it on failure.

    durable: flush the file to disk before renaming, so that a power cut leaves either the old or the new file.
    """
    path = Path(path)
    check_writable(path)
    # Two workers of a cluster may write the same file at once, with equal process ids or in two threads of a process.
    who = f"{platform.node()}-{os.getpid()}-{threading.get_native_id()}"
    temporary = path.with_name(f".{path.name}.{who}.partial")
    try:
        yield temporary
        if durable:
            sync(temporary)
        os.replace(temporary, path)
        if durable:
            sync(path.parent)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary), str(path)):
            raise
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another path") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary directory path; on success it replaces the directory `path` with everything in it.

    For one writer at a time. What a crash left of an earlier attempt is removed first."""
    temporary = path.with_name(f".{path.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    yield temporary
    shutil.rmtree(path, ignore_errors=True)
    os.replace(temporary, path)


@contextlib.contextmanager
def new_folder(path: Path, source: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields an empty temporary directory next to `path`; renames it to `path` on success, removes it on failure.

    Creates missing parents. Raises UserError if `path` exists or is in `source`, or its parent is not writable."""
    with _new_parents(path, source):
        temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with failed_writes_name(path):
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir()
            yield temporary
            os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def new_file(path: Path, source: str | os.PathLike[str]) -> Iterator[Path]:
    """`atomic_write` of a file that must not exist yet, like `new_folder`."""
    with _new_parents(path, source), atomic_write(path) as temporary:
        yield temporary


@contextlib.contextmanager
def _new_parents(path: Path, source: str | os.PathLike[str]) -> Iterator[None]:
    """Creates the directories that contain `path`, and removes them on failure. See `new_folder` for what is rejected."""
    if path.resolve().is_relative_to(Path(source).resolve()):
        raise UserError(f"{path}: is in the input, {source}; choose another --output")
    if path.exists() or path.is_symlink():
        raise UserError(f"{path}: already exists; remove it, or choose another --output")
    with remove_new_folders_on_error(path.parent):
        with failed_writes_name(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        yield


@contextlib.contextmanager
def failed_writes_name(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns an OSError in the block, such as that of a full disk, into a UserError that names `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); free space or choose another --output"
        ) from None


def share(path: Path) -> None:
    """Gives a file the permissions of its folder; safetensors makes files that only their owner can read."""
    path.chmod(path.parent.stat().st_mode & 0o666)


def check_writable(path: str | Path) -> None:
    """Raises UserError if `path` cannot be written, before any work is wasted."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a directory; give a file to write")
    folder = path.parent
    if not folder.is_dir():
        raise UserError(f"{path}: the directory {folder} does not exist; create it, or choose another path")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{path}: the directory {folder} is not writable; choose another path")


def check_not_input(path: str | Path, source: str | Path) -> None:
    """Raises UserError if writing `path` would overwrite its own input `source`."""
    if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
        raise UserError(f"{path}: is also the input and would be overwritten; choose another output")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file without a byte order mark. Raises UserError if it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); convert it first") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file; None if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flushes a file to disk, or on POSIX the entries of a directory."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def folder_lock(
    folder: Path, refusal: str | None = None, waiting: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Locks `folder` for this process, creating it if needed.

    If another live process holds the lock: raises UserError(refusal), or without `refusal` calls `waiting` once and
    waits. It is an operating system lock on the open file .lock, so it ends with the process that holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    waited = False
    while (handle := try_lock(folder / ".lock")) is None:
        if refusal is not None:
            raise UserError(refusal)
        if not waited:
            waiting()
        waited = True
        time.sleep(0.2)
    with handle:
        yield


def try_lock(path: Path) -> BinaryIO | None:
    """Locks a file, creating it if needed; None if another process, or another handle of this one, holds the lock.

    The lock ends when the handle is closed. On POSIX a child process that inherits it holds the lock, too."""
    handle = open(path, "a+b")  # noqa: SIM115 - for the caller
    if _lock(handle):
        return handle
    handle.close()
    return None


def _lock(handle: BinaryIO) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def remove_new_folders_on_error(folder: Path) -> Iterator[None]:
    """On an exception, removes `folder` and its parents that did not exist before, if they are empty."""
    new = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for path in new:
                path.rmdir()
        raise


def clear_folder(folder: Path) -> None:
    """Removes everything in `folder` except its lock file, which is open and which other processes may wait for."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != ".lock":
            path.unlink()


def private_cache(name: str, usable: Callable[[Path], bool] = lambda folder: True) -> Path:
    """A cache directory of this name that only this user can write to, so that code in it is safe to execute.

    In the user's cache (XDG_CACHE_HOME, ~/.cache) or the temporary directory, if `usable` accepts it; otherwise a new
    directory that is removed at exit. Raises UserError if none can be created.
    """
    for place in _cache_candidates():
        folder = place / name
        if _is_private(place, tighten=True) and _is_private(folder) and usable(folder):
            return folder
    try:
        folder = Path(tempfile.mkdtemp(prefix="lmfast-"))
    except OSError:
        raise UserError(
            "no writable directory for compiled code; set TMPDIR or XDG_CACHE_HOME to one that you own"
        ) from None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _cache_candidates() -> Iterator[Path]:
    with contextlib.suppress(RuntimeError):  # no HOME, and no entry for the user id
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lmfast"
    with contextlib.suppress(OSError):  # no temporary directory
        yield Path(tempfile.gettempdir()) / f"lmfast-{getattr(os, 'getuid', int)()}"


def _is_private(folder: Path, tighten: bool = False) -> bool:
    """Creates a directory if needed; returns whether only this user owns it (and a link to it) and can write to it.

    tighten: remove write permission from others (a umask of 002 grants it to the group). Only for a parent directory:
    its existing subdirectories are not trusted, but checked in turn.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hasattr(os, "getuid"):  # on Windows both locations belong to the user
            if {folder.lstat().st_uid, folder.stat().st_uid} != {os.getuid()}:
                return False
            if folder.stat().st_mode & 0o022:
                if not tighten:
                    return False
                folder.chmod(0o700)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
