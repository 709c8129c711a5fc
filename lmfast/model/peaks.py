"""Peak matrix rates, from the vendor's data sheets for known devices, measured for others. Imports torch only when used.

Input: the name of a device, as reported by torch or typed by a user. Output: dense FLOP/s by dtype; where a vendor states
the rate with 2:4 sparsity, half of it. fp16, bf16 and fp8 are with fp32 accumulation, as used in training (GeForce cards
are twice as fast with fp16 accumulation); fp32 is not TF32. Memory is in the vendor's GB. Variants (Ti, D, Laptop, NVL, MIG
slices) are not in the table and are measured.
"""

import difflib
import re
import time
from dataclasses import dataclass

from lmfast.errors import UserError

# Has dense/sparse pairs for RTX 3090, 4090 and 5090.
_GEFORCE = "NVIDIA RTX Blackwell GPU Architecture white paper, appendix A"


@dataclass(frozen=True)
class Device:
    """A GPU of the table. pattern: regular expression for the whole name from torch, in lower case, without brand."""

    name: str
    pattern: str
    memory_gb: float
    rates: dict[str, float]  # dtype → FLOP/s
    source: str


# Checked against the tables of the cited documents on 2026-11-23.
DEVICES = (
    # 1,979 and 3,958 with sparsity.
    Device(
        "H100 SXM", r"h100( sxm5?)?( 80gb)?( hbm3)?", 80,
        {"bf16": 989e12, "fp16": 989e12, "fp32": 67e12, "fp8": 1979e12}, "NVIDIA H100 data sheet",
    ),
    # 1,513 and 3,026 with sparsity.
    Device(
        "H100 PCIe", r"h100 pcie( 80gb)?", 80,
        {"bf16": 756e12, "fp16": 756e12, "fp32": 51e12, "fp8": 1513e12}, "NVIDIA H100 data sheet",
    ),
    # The chip of the H100 SXM with more and faster memory.
    Device(
        "H200", r"h200( sxm5?)?( 141gb)?( hbm3e)?", 141,
        {"bf16": 989e12, "fp16": 989e12, "fp32": 67e12, "fp8": 1979e12}, "NVIDIA H200 data sheet",
    ),
    # In an HGX at 1,000 W: 4.5 and 9 PFLOP/s with sparsity. The first edition of the data sheet gave 80 for fp32.
    Device(
        "B200", r"b200( sxm6?)?( 180gb)?( hbm3e)?", 180,
        {"bf16": 2250e12, "fp16": 2250e12, "fp32": 75e12, "fp8": 4500e12}, "NVIDIA Blackwell data sheet (HGX B200)",
    ),
    # 312 is dense already (624 with sparsity); the same for SXM4 and PCIe. No fp8.
    Device(
        "A100", r"a100( sxm4?| pcie)?( 80gb)?( pcie)?", 80,
        {"bf16": 312e12, "fp16": 312e12, "fp32": 19.5e12}, "NVIDIA A100 data sheet",
    ),
    Device(
        "A100 40GB", r"a100( sxm4?| pcie)? 40gb( pcie)?", 40,
        {"bf16": 312e12, "fp16": 312e12, "fp32": 19.5e12}, "NVIDIA A100 data sheet",
    ),
    # 242 and 485 with sparsity.
    Device(
        "L4", r"l4", 24,
        {"bf16": 121e12, "fp16": 121e12, "fp32": 30.3e12, "fp8": 242e12}, "NVIDIA L4 data sheet",
    ),
    # Printed as 362.05 | 733 and 733 | 1,466, without and with sparsity.
    Device(
        "L40S", r"l40s", 48,
        {"bf16": 362e12, "fp16": 362e12, "fp32": 91.6e12, "fp8": 733e12}, "NVIDIA L40S data sheet",
    ),
    Device(
        "RTX 3090", r"(rtx ?)?3090", 24,
        {"bf16": 71e12, "fp16": 71e12, "fp32": 35.6e12}, _GEFORCE,
    ),
    Device(
        "RTX 4090", r"(rtx ?)?4090", 24,
        {"bf16": 165.2e12, "fp16": 165.2e12, "fp32": 82.6e12, "fp8": 330.3e12}, _GEFORCE,
    ),
    Device(
        "RTX 5090", r"(rtx ?)?5090", 32,
        {"bf16": 209.5e12, "fp16": 209.5e12, "fp32": 104.8e12, "fp8": 419e12}, _GEFORCE,
    ),
    # Turing has no bf16, fp8 or sparsity.
    Device("T4", r"t4", 16, {"fp16": 65e12, "fp32": 8.1e12}, "NVIDIA T4 data sheet"),
)  # fmt: skip


def find_device(name: str) -> Device | None:
    """The device in the table with this name, as reported by torch ("NVIDIA A100-SXM4-80GB") or typed by a user."""
    plain = re.sub(r"\b(nvidia|geforce|tesla)\b", " ", re.sub(r"[\s_-]+", " ", name.lower()))
    plain = " ".join(plain.split())
    return next((d for d in DEVICES if re.fullmatch(d.pattern, plain)), None)


def named_peak(name: str, dtype: str) -> tuple[Device, float]:
    """(device, FLOP/s) of a named device. Raises UserError if it is not in the table or does not support the dtype."""
    device = find_device(name)
    if device is None:
        names = [d.name for d in DEVICES]
        lower = {n.lower(): n for n in names}
        near = difflib.get_close_matches(name.lower(), lower, n=1)
        hint = f"did you mean {lower[near[0]]}?" if near else f"known devices are {', '.join(names)}"
        raise UserError(f"unknown device {name}; {hint} (auto measures this machine)")
    if dtype not in device.rates:
        raise UserError(
            f"{device.name} does not support {dtype}; choose another --dtype: {', '.join(device.rates)}"
        )
    return device, device.rates[dtype]


def device_peak(device, bf16: bool, fp16: bool = False) -> tuple[float, str]:
    """(FLOP/s, source of the number) of a torch device in training, the denominator of MFU.

    On CUDA, fp32 training computes products in TF32 (see model/device.py), at half the bf16 rate on every device in the
    table with bf16.
    """
    if device.type == "cuda" and not (bf16 or fp16):
        import torch

        known = find_device(torch.cuda.get_device_name(device))
        if known is not None and "bf16" in known.rates:
            return known.rates["bf16"] / 2, f"{known.name} dense tf32"
    return local_peak(device, "bf16" if bf16 else "fp16" if fp16 else "fp32")


def local_peak(device, dtype: str) -> tuple[float, str]:
    """(FLOP/s, source of the number): the vendor's dense rate for a GPU in the table, the multipliers' rate of a CPU
    (cpu_peak.py), otherwise a measured product."""
    import torch

    if device.type == "cuda":
        known = find_device(torch.cuda.get_device_name(device))
        if known is not None and dtype in known.rates:
            return known.rates[dtype], f"{known.name} dense {dtype}"
    if dtype == "fp8":
        raise UserError("fp8 rates cannot be measured; give a known --device, or another --dtype")
    from lmfast.model.cpu_peak import DTYPES, cpu_peak

    if device.type == "cpu":
        return cpu_peak(dtype)
    return measured_matmul_flops(device, DTYPES[dtype]), f"measured {dtype} matmul"


def measured_matmul_flops(device, dtype, size: int | None = None, repeats: int = 20) -> float:
    """The best FLOP/s of a square matrix product; takes about a quarter of a second on a laptop.

    Stops early if one product is slow, as on a CPU without 16-bit multipliers, where it may take a second.
    """
    import torch

    size = size or (8192 if device.type != "cpu" else 1024 if dtype == torch.float32 else 512)
    a = torch.randn(size, size, device=device, dtype=dtype)
    b = torch.randn(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()
        seconds = time.perf_counter() - start
        best = min(best, seconds)
        if seconds > 0.2:
            break
    return 2 * size**3 / best
