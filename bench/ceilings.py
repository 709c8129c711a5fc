"""Measured ceilings of the device in use: memory bandwidth and the rate of matrix products by dtype.

In: a torch device. Out: {"read": bytes/s, "copy": bytes/s read plus written, "matmul float32": FLOP/s, …}. Bandwidth and a
GPU's products are the best of half a second of tries on buffers larger than any cache, with torch's operators and its number
of threads. A CPU's products are bounded by its multipliers (lmfast/model/cpu_peak.py): torch's product can be slower than
ours. Data sheet values are in lmfast/model/peaks.py.
"""

import time
from collections.abc import Callable

import torch

from bench.timing import seconds
from lmfast.model.cpu_peak import cpu_peak

CPU_BYTES, CUDA_BYTES = 256 << 20, 2 << 30
LEAST_SECONDS = 0.5
CUDA_SIDE = 8192
CPU_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


def synchronizer(device: torch.device) -> Callable[[], None] | None:
    """The function that waits for a device; None if everything runs on the host."""
    return torch.cuda.synchronize if device.type == "cuda" else None


def best(function: Callable[[], object], device: torch.device, tries: int) -> float:
    """Seconds of a call; on CUDA of several in a row, so that launching them is not counted.

    At least `tries` tries, and for LEAST_SECONDS: three products in 30 ms fell into one busy moment of a shared machine,
    and 66 GFLOP/s stood for 192.
    """
    calls = 5 if device.type == "cuda" else 1
    function()
    found, start = [], time.perf_counter()
    while len(found) < tries or time.perf_counter() - start < LEAST_SECONDS:
        found.append(seconds(lambda: [function() for _ in range(calls)], synchronizer(device)))
    return min(found) / calls


def read_bandwidth(device: torch.device, tries: int = 5, num_bytes: int | None = None) -> float:
    """Bytes per second of summing a buffer."""
    num_bytes = num_bytes or (CUDA_BYTES if device.type == "cuda" else CPU_BYTES)
    source = torch.ones(num_bytes // 4, device=device)
    return num_bytes / best(lambda: source.sum(), device, tries)


def measured(device: torch.device, tries: int = 5, num_bytes: int | None = None) -> dict:
    """The ceilings of a device; about three seconds on a CPU."""
    cuda = device.type == "cuda"
    num_bytes = num_bytes or (CUDA_BYTES if cuda else CPU_BYTES)
    found = {"read": read_bandwidth(device, tries, num_bytes)}
    source = torch.ones(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    # CUDA's own copy is slower than kernels that read and write
    moves = (lambda: target.copy_(source), lambda: torch.neg(source, out=target))
    found["copy"] = max(2 * num_bytes / best(move, device, tries) for move in moves)
    if not cuda:
        return found | {f"matmul {name}": cpu_peak(short)[0] for short, name in CPU_DTYPES.items()}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        a, b = (torch.randn(CUDA_SIDE, CUDA_SIDE, device=device).to(dtype) for _ in range(2))
        rate = 2 * CUDA_SIDE**3 / best(lambda a=a, b=b: a @ b, device, tries)
        found[f"matmul {str(dtype).removeprefix('torch.')}"] = rate
    return found
