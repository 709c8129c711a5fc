"""Output files that are complete or absent, folders that one process writes at a time, text and hashes of files.

In: the final path. Out: a temporary path in the same folder; it takes the final name when all went well, and is
removed when not. Refuses folders that are missing or not writable, in one line.
"""

import atexit
import contextlib
import hashlib
import os
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lmfast.errors import UserError


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], durable: bool = False) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path`; on success it replaces `path` in one step.

    durable: the file is on the disk before it takes its name, so that a power cut leaves the old one or the new one.
    """
    path = Path(path)
    check_writable(path)
    # Workers of a cluster may write one file twice at once, on machines with equal process ids or in two threads of one.
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


def check_writable(path: str | Path) -> None:
    """Raises UserError where a file cannot be written at `path`, so that no work is done in vain."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file to write")
    folder = path.parent
    if not folder.is_dir():
        raise UserError(f"{path}: the folder {folder} does not exist; make it, or choose another path")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{path}: the folder {folder} is not writable; choose another path")


def check_not_input(path: str | Path, source: str | Path) -> None:
    """Raises UserError where writing `path` would overwrite the file `source` that it is made of."""
    if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
        raise UserError(f"{path}: is the input; writing there would destroy it; choose another path")


def read_text(path: Path) -> str:
    """A file's text, UTF-8, without the byte order mark that some editors begin it with; UserError where it is another's."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); convert it first") from None


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flushes a file, or on POSIX a folder's entries, to the disk."""
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
    """Holds `folder` (made if need be) for this process, by a lock on its file .lock.

    Where another live process holds it: UserError(refusal), or without a refusal one call of `waiting` and patience.
    The lock is the operating system's, on an open file: it is gone when its holder is, however that ended.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+b") as handle:
        if not _try_lock(handle):
            if refusal is not None:
                raise UserError(refusal)
            waiting()
            while not _try_lock(handle):
                time.sleep(0.2)
        yield


def _try_lock(handle) -> bool:
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
    """After a failure, `folder` and the folders above it that were not there before go again, as far as they are empty."""
    new = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for path in new:
                path.rmdir()
        raise


def clear_folder(folder: Path) -> None:
    """Removes everything in `folder` but its lock, which is open and which others may wait for."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != ".lock":
            path.unlink()


def private_cache(name: str, usable: Callable[[Path], bool] = lambda folder: True) -> Path:
    """A folder of this name for what can be made again, such as compiled code: only this user can write to it, so what
    lies there may be executed.

    In the user's cache (XDG_CACHE_HOME, ~/.cache) or else in the folder for temporary files, if `usable`; where neither is,
    a new folder that is removed when the process ends. Raises UserError where not even that can be made.
    """
    for place in _cache_candidates():
        folder = place / name
        if _is_private(place, tighten=True) and _is_private(folder) and usable(folder):
            return folder
    try:
        folder = Path(tempfile.mkdtemp(prefix="lmfast-"))
    except OSError:
        raise UserError(
            "no directory can be written for compiled code; set TMPDIR or XDG_CACHE_HOME to one of yours"
        ) from None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _cache_candidates() -> Iterator[Path]:
    with contextlib.suppress(RuntimeError):  # no HOME, and a user id that no database knows
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lmfast"
    with contextlib.suppress(OSError):  # no folder for temporary files
        yield Path(tempfile.gettempdir()) / f"lmfast-{getattr(os, 'getuid', int)()}"


def _is_private(folder: Path, tighten: bool = False) -> bool:
    """Makes a folder if need be; whether this user owns it (and a link to it), and nobody else can write to it.

    tighten: take the permission to write from others where they have it, as with a umask of 002 they may. For a folder
    whose own folders are checked in turn: what others put there before is not trusted because of that.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hasattr(os, "getuid"):  # not Windows, where both places are the user's own
            if {folder.lstat().st_uid, folder.stat().st_uid} != {os.getuid()}:
                return False
            if folder.stat().st_mode & 0o022:
                if not tighten:
                    return False
                folder.chmod(0o700)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
