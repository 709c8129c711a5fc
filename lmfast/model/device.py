"""Selects the device, reports its capabilities, and makes computation deterministic."""

import os
import platform
import sysconfig
from pathlib import Path
from typing import Any

import torch

from lmfast.counted import counted
from lmfast.errors import UserError
from lmfast.hardware import cpu_name
from lmfast_kernels.backend import INTERPRETING


def pick_device(name: str) -> torch.device:
    """`auto` selects CUDA, then MPS, then the CPU. Raises UserError for a device that is not available, or on which
    LMFAST_KERNELS=triton cannot run."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind in there if there[kind])
    if not there[name]:
        others = " or ".join(kind for kind in there if there[kind])
        raise UserError(f"device {name} is not available on this machine; use --device {others}")
    if os.environ.get("LMFAST_KERNELS") == "triton" and name != "cuda" and not INTERPRETING:
        raise UserError(
            f"LMFAST_KERNELS is 'triton', which needs CUDA, and the device is {name}; unset it, or use torch"
        )
    return torch.device(name)


def make_deterministic(device: torch.device) -> None:
    """Makes runs on a CPU bit-reproducible, also compiled and with several threads."""
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        # We never read uninitialised memory; filling it took 9 of 318 ms per step.
        deterministic: Any = torch.utils.deterministic  # which makes this property at run time
        deterministic.fill_uninitialized_memory = False
    elif device.type == "cuda":
        torch.set_float32_matmul_precision("high")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context in which matrix products compute in `precision` (bf16 or fp16), or in the type of the weights (fp32)."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "fp32")


def compile_blocker(device: torch.device) -> str | None:
    """Why torch.compile does not work on this machine, or None."""
    if device.type == "mps":
        return "torch.compile does not support MPS"
    if device.type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler

        try:
            get_cpp_compiler()
        except Exception as error:  # Inductor's own class, which moved between releases
            return f"no C++ compiler was found ({type(error).__name__})"
        if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
            return "Python's headers are not installed"
    return None


def disable_compile_workers() -> None:
    """Without CUDA, keeps Inductor from starting one process per core for Triton's compiler. Call before importing it.

    The processes import torch and are then not used. On two cores the first six steps took 0.8 s each instead of 0.33 s
    (docs/LOG.md, 2026-11-25). Respects an existing TORCH_WARM_POOL.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("TORCH_WARM_POOL", "0")


def describe_machine(device: torch.device) -> dict[str, str]:
    """Device and software versions, to record with measurements."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{cpu_name()}, {counted(torch.get_num_threads(), 'thread')}"
    return {
        "device": name,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
