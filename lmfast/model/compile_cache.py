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


def use() -> None:
    """Names the directory to Inductor, in the environment of this process and its children."""
    if VARIABLE not in os.environ and hasattr(os, "getuid"):
        # On Windows the temporary directory, Inductor's default, is the user's own and is not emptied.
        folder = private_cache("torchinductor", _may_execute)
        _remove_empty_libraries(folder)
        os.environ[VARIABLE] = str(folder)


def _remove_empty_libraries(folder: Path) -> None:
    """Removes what a linker left that was killed, or lost power: Inductor would load it and fail, in each later run. Young
    ones may still be written by another process."""
    for library in folder.rglob("*.so"):
        with contextlib.suppress(OSError):
            status = library.stat()
            if not status.st_size and time.time() - status.st_mtime > LINK_SECONDS:
                library.unlink()


def _may_execute(folder: Path) -> bool:
    return not os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0)
