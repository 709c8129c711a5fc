"""Sets the directory where torch.compile caches compiled code. Does not import torch.

Inductor's default, /tmp/torchinductor_USER, is lost at a reboot and may have been created by someone else. Inductor reads
the variable when it is imported, so commands call `set_directory` first. An existing TORCHINDUCTOR_CACHE_DIR is respected.
Code in the cache is executed, so directories that others can write to, or that are mounted noexec, are not used.
"""

import contextlib
import os
import time
from pathlib import Path

from lmfast.files import private_cache

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
LINK_SECONDS = 10
FIRST_STEPS = "lmfast-first-steps"
"""folder in the directory with the compile time of each training step (training/first_step.py)"""

_own: Path | None = None  # the directory that `set_directory` chose


def set_directory() -> None:
    """Sets the directory in the environment of this process and its children."""
    global _own
    if VARIABLE not in os.environ and hasattr(os, "getuid"):
        # On Windows Inductor's default, the temporary directory, is private and survives a reboot.
        _own = private_cache("torchinductor", _may_execute)
        os.environ[VARIABLE] = str(_own)


def remove_empty_libraries() -> None:
    """Removes libraries left empty by a killed linker or a power cut, which would make Inductor fail in every later run.

    Skips recent files, which another process may be writing, and a directory set by the user."""
    for library in () if _own is None else _own.rglob("*.so"):
        with contextlib.suppress(OSError):
            status = library.stat()
            if not status.st_size and time.time() - status.st_mtime > LINK_SECONDS:
                library.unlink()


def _may_execute(folder: Path) -> bool:
    return not os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0)
