"""Where torch.compile keeps compiled code: a directory of the user's that outlives a reboot. No torch here.

Inductor's own default is /tmp/torchinductor_USER, which a reboot empties and anybody may have made; Triton kernels that
Inductor compiles lie in the same directory. Inductor settles where it is when it is imported, so a command calls `use`
first. A user's own TORCHINDUCTOR_CACHE_DIR counts. What lies there is executed: a directory that others may write to is
not used, nor one from which nothing may be executed.
"""

import contextlib
import os
import time
from pathlib import Path

from lmfast.files import private_cache

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
LINK_SECONDS = 10

_own: Path | None = None  # the directory that `use` named


def set_directory() -> None:
    """Names the directory to Inductor, in the environment of this process and its children."""
    global _own
    if VARIABLE not in os.environ and hasattr(os, "getuid"):
        # On Windows the temporary directory, Inductor's default, is the user's own and is not emptied.
        _own = private_cache("torchinductor", _may_execute)
        os.environ[VARIABLE] = str(_own)


def remove_empty_libraries() -> None:
    """Removes the libraries that a killed linker or a power cut left empty: Inductor would load them and fail, in every
    later run. Recent ones may still be written by another process. A directory that the user named is left alone."""
    for library in () if _own is None else _own.rglob("*.so"):
        with contextlib.suppress(OSError):
            status = library.stat()
            if not status.st_size and time.time() - status.st_mtime > LINK_SECONDS:
                library.unlink()


def _may_execute(folder: Path) -> bool:
    return not os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0)
