"""SwiGLU's pointwise half: silu(gate) · up = gate · sigmoid(gate) · up.

In: gate and up (..., N) of one shape and dtype; the last dimension dense, rows at any stride, so the two
halves of one fused projection need no copy. Out: the same shape and dtype, contiguous. Computed in float32
and rounded once. Under autocast nothing changes, except that a gate and an up of different dtypes are
promoted rather than refused. Source: Shazeer 2020, arXiv:2002.05202.
"""

import torch

from kernels.backend import autocast_dtype, compute_dtype


def swiglu_reference(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """The same maths in plain PyTorch: the oracle, and the path wherever Triton is not chosen."""
    compute = compute_dtype(gate.dtype)
    return (torch.nn.functional.silu(gate.to(compute)) * up.to(compute)).to(gate.dtype)


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) · up. Raises ValueError where shapes or (outside autocast) dtypes differ."""
    if gate.shape != up.shape or gate.dim() < 1:
        raise ValueError(
            f"swiglu: gate {tuple(gate.shape)} and up {tuple(up.shape)} must have one shape (..., N)"
        )
    if gate.dtype != up.dtype:
        if autocast_dtype(gate) is None:
            raise ValueError(f"swiglu: gate is {gate.dtype} and up is {up.dtype}; give both one dtype")
        common = torch.promote_types(gate.dtype, up.dtype)
        gate, up = gate.to(common), up.to(common)
    return swiglu_reference(gate, up)
