"""The name of this machine's processor, without torch."""

import platform
from pathlib import Path


def cpu_name() -> str:
    """The model name that /proc/cpuinfo gives, or on other systems the platform's name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
