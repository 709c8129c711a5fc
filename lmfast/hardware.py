"""The name and identity of this machine's processor. Does not import torch."""

import platform
from pathlib import Path


def _cpu_fields() -> dict[str, str]:
    """The first processor's fields of /proc/cpuinfo; empty on other systems."""
    info = Path("/proc/cpuinfo")
    fields: dict[str, str] = {}
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    return fields


def cpu_name() -> str:
    """The model name that /proc/cpuinfo gives, or on other systems the platform's name of the processor."""
    return _cpu_fields().get("model name") or platform.processor() or platform.machine()


def cpu_id() -> str:
    """The processor's name with its family, model and stepping: virtual machines call several generations "AMD EPYC"."""
    fields = _cpu_fields()
    names = ("cpu family", "model", "stepping", "CPU implementer", "CPU part")
    return ", ".join([cpu_name(), *(f"{name} {fields[name]}" for name in names if name in fields)])
