"""Where torch.compile keeps compiled code: a directory of the user's that outlives a reboot. No torch here.

Inductor's own default is /tmp/torchinductor_USER, which a reboot empties and anybody may have made; Triton kernels that
Inductor compiles lie in the same directory. Inductor settles where it is when it is imported, so a command calls `use`
first. A user's own TORCHINDUCTOR_CACHE_DIR counts. What lies there is executed: a directory that others may write to is
not used, nor one from which nothing may be executed.
"""

import os
from pathlib import Path

from lmfast.files import private_cache

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def use() -> None:
    """Names the directory to Inductor, in the environment of this process and its children."""
    if VARIABLE not in os.environ and hasattr(os, "getuid"):
        # On Windows the temporary directory, Inductor's default, is the user's own and is not emptied.
        os.environ[VARIABLE] = str(private_cache("torchinductor", _may_execute))


def _may_execute(folder: Path) -> bool:
    return not os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0)
