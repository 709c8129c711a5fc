"""The name and identity of this machine's processor, and whether it may have a GPU. Does not import torch."""

import ctypes
import os
import platform
import sys
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


def num_cores() -> int:
    """The cores of this process, where two threads of one core count once: the threads that torch computes with."""
    try:
        cpus = os.sched_getaffinity(0)
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1
    siblings = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    try:
        return len({Path(siblings.format(cpu)).read_text() for cpu in cpus})
    except OSError:
        return len(cpus)


def machine_memory() -> int | None:
    """Bytes of this machine's memory; None if the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows
        return None


def cpu_id() -> str:
    """The processor's name with its family, model and stepping: virtual machines call several generations "AMD EPYC"."""
    fields = _cpu_fields()
    names = ("cpu family", "model", "stepping", "CPU implementer", "CPU part")
    return ", ".join([cpu_name(), *(f"{name} {fields[name]}" for name in names if name in fields)])


def may_have_gpu() -> bool:
    """Whether torch may find a GPU here, according to NVIDIA's driver; True where that does not settle it."""
    if sys.platform != "linux" or Path("/dev/kfd").exists():  # MPS; AMD's GPUs
        return True
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    status, count = _count_gpus()
    no_device = 100  # CUDA_ERROR_NO_DEVICE; any other error is torch's to report
    return status != no_device if status else count > 0


def num_gpus() -> int:
    """The GPUs that NVIDIA's driver lets this process use; 0 without the driver."""
    return _count_gpus()[1]


def _count_gpus() -> tuple[int, int]:
    """(status of NVIDIA's driver, number of GPUs); (0, 0) without the driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0, 0
    count = ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return status, 0 if status else count.value
