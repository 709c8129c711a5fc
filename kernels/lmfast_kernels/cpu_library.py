"""Calls the C++ operators for CPUs (lmfast_kernels/cpp), which cpu_build.py compiles, through ctypes.

Used by operators in float32 on a CPU (`uses_library`). In: pointers to contiguous tensors, and sizes. Where the
library cannot be compiled, the operators fall back to PyTorch's. LMFAST_KERNELS=torch disables it.

The library shares torch's threads: it links libgomp under the name by which torch has loaded it and uses the same number of
threads.
"""

import ctypes

import torch
from torch.autograd import forward_ad

from lmfast_kernels import backend, cpu_build
from lmfast_kernels.autograd import needs_gradient


def library() -> ctypes.CDLL | None:
    """The loaded library, or None if this machine does not support it."""
    return cpu_build.library("operators")


@backend.constant_in_compiled_code
def available() -> bool:
    """Whether the library is usable and enabled. Compiled code keeps the value at tracing."""
    return backend.MODE == "auto" and library() is not None


def uses_library(x: torch.Tensor, *weights: torch.Tensor, min_rows: int = 1) -> bool:
    """Whether an operator on x (..., K) should use the library: float32 on a CPU, and a gradient to compute or at least
    `min_rows` rows. With fewer, packing the weights for our products takes longer than they gain."""
    if any(tensor.device.type != "cpu" or tensor.dtype != torch.float32 for tensor in (x, *weights)):
        return False
    if x.shape[:-1].numel() < min_rows and not needs_gradient(x, *weights):
        return False
    # torch.func and forward-mode derivatives support only PyTorch's operators.
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return False
    return backend.autocast_dtype(x) is None and available()


def call(name: str, *arguments: "torch.Tensor | int | float | None") -> None:
    """Calls a library function, with torch's number of threads as its first argument. Tensors must be contiguous."""
    converted: list[ctypes.c_long | ctypes.c_float | ctypes.c_void_p] = [
        ctypes.c_long(torch.get_num_threads())
    ]
    for argument in arguments:
        if argument is None or isinstance(argument, torch.Tensor):
            converted.append(ctypes.c_void_p(None if argument is None else argument.data_ptr()))
        elif isinstance(argument, float):
            converted.append(ctypes.c_float(argument))
        else:
            converted.append(ctypes.c_long(argument))
    getattr(library(), name)(*converted)


def multiply_rate(seconds: float = 0.05) -> float | None:
    """FLOP/s of this CPU's multipliers in float32 with torch's number of threads, measured on registers alone: an
    upper bound for every product. None without the library."""
    if library() is None:
        return None
    rate = torch.zeros(1, dtype=torch.float64)
    call("multiply_rate", seconds, rate)
    return rate.item()
