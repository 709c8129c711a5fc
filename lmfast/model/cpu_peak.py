"""The rate that MFU divides by on a CPU: the peak of its multipliers rather than the rate of a library's matrix product.

float32: the rate of multiply-adds on registers, measured by lmfast_kernels (AVX-512, AVX2, NEON); the rate of PyTorch's
matrix product if those kernels cannot be compiled. 16-bit types: the larger of that and the rate of PyTorch's 16-bit
product, since a CPU without 16-bit multipliers computes 16-bit products in float32.

Other load lowers a measurement, so the best rate seen is kept in the user's cache for each CPU, instruction set and number
of threads. All runs on one machine then divide by the same number.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch

from lmfast.errors import UserError
from lmfast.files import atomic_write, private_cache
from lmfast.hardware import cpu_id
from lmfast.model.peaks import measured_matmul_flops
from lmfast_kernels import cpu_build, cpu_library

CPU = torch.device("cpu")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def cpu_peak(dtype: str) -> tuple[float, str]:
    """(FLOP/s, its source) of this CPU with torch's number of threads; dtype: a key of DTYPES."""
    multipliers = f"measured {cpu_build.instruction_set()} multiply-adds"
    found = [best_seen(multipliers, cpu_library.multiply_rate)] if cpu_library.library() else []
    for name in {dtype, "fp32"} if not found else {dtype} - {"fp32"}:
        found.append(
            best_seen(f"measured {name} matmul", lambda name=name: measured_matmul_flops(CPU, DTYPES[name]))
        )
    return max(found)


def best_seen(what: str, measure: Callable[[], float | None]) -> tuple[float, str]:
    """(the largest rate that `measure` ever returned on this CPU with this number of threads, `what`)."""
    key = f"{cpu_id()}, {torch.get_num_threads()} threads, {what}"
    rate = measure() or 0.0
    try:
        path = private_cache("rates") / "rates.json"
        rates = _read(path)
        if rate > rates.get(key, 0.0):
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps(rates | {key: rate}, indent=1), encoding="utf-8")
        rate = max(rate, rates.get(key, 0.0))
    except UserError:  # no cache directory: use this measurement alone
        pass
    return rate, what


def _read(path: Path) -> dict[str, float]:
    """{key: FLOP/s}; empty if the file is missing or damaged."""
    try:
        rates = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(rates, dict):
        return {}
    return {key: rate for key, rate in rates.items() if isinstance(rate, float) and 0 < rate < 1e16}
