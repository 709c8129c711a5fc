"""A projection without bias, y = x weightᵀ, whose three matrix products run in FP8, for training.

In: x (..., K), weight (N, K), floating point; the product of the leading dimensions, N and K must be multiples
of 16, as `torch._scaled_mm` requires on CUDA (`fits_fp8`). Out: (..., N) in the autocast dtype, or x's without
autocast. dx has x's dtype, dweight weight's, both rounded once from float32 sums.

Scales are dynamic and tensorwise: a power of two per tensor. Activations and weights are e4m3, gradients e5m2; values are
clamped before the cast. An infinity or NaN anywhere makes the whole result NaN, so that the training loop skips the step.
This is a traced function, not an opaque operator, so that maximum, scaling and cast fuse with the activation that produces
x. Without CUDA the products multiply the same rounded values in float64: the emulation that tests use, and the oracle.
Layouts and costs: docs/kernels.md. Sources: Micikevicius et al. 2022 (arXiv:2209.05433) for the formats; torchao's float8
and nanochat for tensorwise scaling in training.
"""

import math

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from lmfast_kernels.backend import autocast_dtype
from lmfast_kernels.fp8_cast import cast_both

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
MULTIPLE = 16
CAPABILITY = (8, 9)
"""the lowest compute capability with FP8 matrix units"""

_SMALLEST = 2.0**-80  # lower bound of amax, so that a scale and the product of two are finite
_EXPONENT = 0x7F800000  # the exponent bits of a float32; masking the others rounds down to a power of two


def fits_fp8(*sizes: int) -> bool:
    """Whether products with dimensions of these sizes can run in FP8."""
    return all(size % MULTIPLE == 0 for size in sizes)


def to_range(amax: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """(the power of two that scales values of up to amax into the range of `dtype`, its inverse), float32 scalars.

    The inverse is NaN if amax is not finite.
    """
    ratio = torch.finfo(dtype).max / amax.float().clamp(min=_SMALLEST)
    scale = (ratio.view(torch.int32) & _EXPONENT).view(torch.float32)
    return scale, torch.where(torch.isfinite(amax), 1.0 / scale, math.nan)


def to_fp8(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """(x times a power of two in `dtype`, the inverse of that power as a float32 scalar)."""
    limit = torch.finfo(dtype).max
    scale, inverse = to_range(x.abs().amax(), dtype)
    return (x.float() * scale).clamp(-limit, limit).to(dtype), inverse


def to_fp8_both(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(x (M, N) in `dtype`, its transpose, the inverse scale): `to_fp8` for a backward that needs both."""
    scale, inverse = to_range(x.abs().amax(), dtype)
    return *cast_both(x, scale, dtype), inverse


def transposed(x8: torch.Tensor) -> torch.Tensor:
    """x8 (M, N) as a dense (N, M)."""
    return x8.t().contiguous()


def fp8_mm(
    a: torch.Tensor,  # (M, K) FP8, dense rows
    a_inverse: torch.Tensor,
    b: torch.Tensor,  # (N, K) FP8, dense rows
    b_inverse: torch.Tensor,
    out_dtype: torch.dtype,
    fast: bool,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """a bᵀ (M, N), with the scales removed. fast: sums have fewer bits in the tensor cores, for forward products."""
    if a.device.type == "cuda":
        into = {} if out is None else {"out": out}
        return torch._scaled_mm(
            a, b.t(), scale_a=a_inverse, scale_b=b_inverse, out_dtype=out_dtype, use_fast_accum=fast, **into
        )
    y = fp8_mm_reference(a, a_inverse, b, b_inverse, out_dtype)
    return y if out is None else out.copy_(y)


def fp8_mm_reference(
    a: torch.Tensor, a_inverse: torch.Tensor, b: torch.Tensor, b_inverse: torch.Tensor, out_dtype: torch.dtype
) -> torch.Tensor:
    """The same product of the dequantised operands, in float64, which autocast does not change."""
    return ((a.double() * a_inverse) @ (b.double() * b_inverse).t()).to(out_dtype)


class _Fp8Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, out_dtype):  # (M, K), (N, K)
        x8, x_inverse = to_fp8(x, E4M3)
        weight8, weight_inverse = to_fp8(weight, E4M3)
        ctx.save_for_backward(transposed(x8), x_inverse, weight8, weight_inverse)
        ctx.dtypes = x.dtype, weight.dtype
        return fp8_mm(x8, x_inverse, weight8, weight_inverse, out_dtype, fast=True)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x8t, x_inverse, weight8, weight_inverse = ctx.saved_tensors
        x_dtype, weight_dtype = ctx.dtypes
        dy8, dy8t, dy_inverse = to_fp8_both(dy, E5M2)
        dx = dweight = None
        if ctx.needs_input_grad[0]:
            dx = fp8_mm(dy8, dy_inverse, transposed(weight8), weight_inverse, x_dtype, fast=False)
        if ctx.needs_input_grad[1]:
            dweight = fp8_mm(dy8t, dy_inverse, x8t, x_inverse, weight_dtype, fast=False)
        return dx, dweight, None


def fp8_linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x weightᵀ with FP8 products for x (..., K) and weight (N, K). Raises ValueError for inconsistent shapes and for
    sizes that are not multiples of 16."""
    if weight.dim() != 2 or x.dim() < 2 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"fp8_linear: weight {tuple(weight.shape)} must be (N, K) for x {tuple(x.shape)} = (..., K)"
        )
    rows = math.prod(x.shape[:-1])
    if not fits_fp8(rows, *weight.shape):
        raise ValueError(
            f"fp8_linear: {rows} rows of x and weight {tuple(weight.shape)} must be multiples of {MULTIPLE}; "
            "use linear for this layer"
        )
    if not x.numel() or not weight.numel():
        return F.linear(x, weight)
    y = _Fp8Linear.apply(x.flatten(0, -2), weight, autocast_dtype(x) or x.dtype)
    return y.unflatten(0, x.shape[:-1])
