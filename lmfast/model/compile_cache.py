"""Where torch.compile keeps compiled code: a directory of the user's that outlives a reboot. No torch here.

Inductor's own default is /tmp/torchinductor_USER, which a reboot empties; Triton kernels that Inductor compiles lie in
the same directory. Inductor settles where it is when it is imported, so a command calls `use` first. A user's own
TORCHINDUCTOR_CACHE_DIR counts. What lies there is executed: a directory that others may write to is not used, nor one
from which nothing may be executed; then Inductor's default remains.
"""

import contextlib
import os
from pathlib import Path

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def use() -> None:
    """Names the directory to Inductor, in the environment of this process and its children."""
    if VARIABLE not in os.environ and (folder := cache_folder()) is not None:
        os.environ[VARIABLE] = str(folder)


def cache_folder() -> Path | None:
    """~/.cache/lmfast/torchinductor (below XDG_CACHE_HOME where that is set), made where it is not there yet; None where
    it cannot be had."""
    if not hasattr(os, "getuid"):  # Windows: its temporary directory is the user's own, and is not emptied
        return None
    with contextlib.suppress(OSError, RuntimeError):  # a home that cannot be written, a user without one
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lmfast" / "torchinductor"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.stat()
        ours = state.st_uid == os.getuid() and not state.st_mode & 0o022
        executable = not os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0)
        if ours and executable and os.access(folder, os.W_OK):
            return folder
    return None
