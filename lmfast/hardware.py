"""The name and identity of this machine's processor. Does not import torch."""

import platform
from pathlib import Path


def cpu_name() -> str:
    """The model name from /proc/cpuinfo, or on other systems from the platform module."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_id() -> str:
    """The processor's name with its family, model and stepping: virtual machines call several generations "AMD EPYC"."""
    info = Path("/proc/cpuinfo")
    fields = {}
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    names = ("cpu family", "model", "stepping", "CPU implementer", "CPU part")
    numbers = [f"{name} {fields[name]}" for name in names if name in fields]
    return ", ".join([cpu_name(), *numbers])
