"""Which device computes, what it can do, and how it is set up to repeat itself exactly."""

import os
import sysconfig
from pathlib import Path
from typing import Any

import torch

from lmfast.errors import UserError
from lmfast.hardware import cpu_name


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA, then MPS, then the CPU. Raises UserError for a device that is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind in there if there[kind])
    if not there[name]:
        others = " or ".join(kind for kind in there if there[kind])
        raise UserError(f"device {name} is not available on this machine; use --device {others}")
    return torch.device(name)


def make_deterministic(device: torch.device) -> None:
    """Makes every run on a CPU repeat bit for bit, compiled and with several threads too."""
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        # Nothing here reads what it has not written; filling it all the same took 9 of 318 ms a step.
        deterministic: Any = torch.utils.deterministic  # which makes this property at run time
        deterministic.fill_uninitialized_memory = False
    elif device.type == "cuda":
        torch.set_float32_matmul_precision("high")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which matrix products compute in `precision` (bf16 or fp16), or as the weights are (fp32)."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "fp32")


def compile_blocker(device: torch.device) -> str | None:
    """The reason why torch.compile cannot work here, or None."""
    if device.type == "mps":
        return "torch.compile is not used on MPS"
    if device.type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler

        try:
            get_cpp_compiler()
        except Exception as error:  # Inductor's own class; it moved between releases
            return f"no C++ compiler was found ({type(error).__name__})"
        if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
            return "Python's headers are not installed"
    return None


def disable_compile_workers() -> None:
    """Without CUDA: torch.compile shall not start a process a core to run Triton's compiler in, before it is imported.

    They import torch, and then nobody needs them. On two cores the first six steps took 0.8 s each instead of 0.33, and
    25 steps 25 s instead of 20 from the start (docs/LOG.md, 2026-11-25). A user's own TORCH_WARM_POOL counts.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("TORCH_WARM_POOL", "0")


def describe_machine(device: torch.device) -> dict[str, str]:
    """What a reader of a figure must know about where it was measured."""
    import platform

    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{cpu_name()}, {torch.get_num_threads()} threads"
    return {
        "device": name,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
