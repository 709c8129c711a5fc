"""The SwiGLU feed-forward with FP8 products, for training: down(silu(gate) · up), `feed_forward(..., fp8=True)`.

In: x (..., D), up_weight (2F, D), the gate's rows first, down_weight (D, F); rows, D and F multiples of 16. Out:
(..., D) in the autocast dtype, or x's. Formats, scales and layouts are those of fp8_linear.py. In addition, the
hidden values and the gradients of gate and up are cast from float32 to FP8 without a 16-bit tensor in between, and
written twice, also transposed, because the products of the backward need the summed dimension dense.

On CUDA these are two kernels, and a third finds the three maxima that determine the scales. Costs, also of Inductor's
version: docs/kernels.md.
"""

import math

import torch
from torch.autograd.function import once_differentiable

from lmfast_kernels.backend import autocast_dtype, jit, launch, register, tl, triton, use_triton
from lmfast_kernels.fp8_cast import store_both, within
from lmfast_kernels.fp8_linear import (
    E4M3,
    E5M2,
    MULTIPLE,
    fits_fp8,
    fp8_mm,
    to_fp8,
    to_fp8_both,
    to_range,
    transposed,
)

MAX_SLOPE = 1.1  # an upper bound of silu's derivative
FORMATS = E4M3, E5M2  # of hidden values and of gradients
ROWS, COLS, WARPS = 64, 64, 8  # tile and warps of a program


@jit
def _gate_and_up(both_ptr, first_row, first_col, M, F, ROWS: tl.constexpr, COLS: tl.constexpr):
    """A tile of gate and of up from both (M, 2F), in float32; 0 outside."""
    r, c = tl.arange(0, ROWS), tl.arange(0, COLS)
    inside = (first_row + r < M)[:, None] & (first_col + c < F)[None, :]
    from_ptr = both_ptr + first_row * 2 * F + first_col + (r[:, None] * (2 * F) + c[None, :])
    gate = tl.load(from_ptr, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(from_ptr + F, mask=inside, other=0.0).to(tl.float32)
    return gate, up


@jit
def _hidden_kernel(
    both_ptr, scale_ptr, hidden_ptr, transposed_ptr,  # (M, 2F), (), (M, F), (F, M)
    M, F,
    LIMIT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    first_row, first_col = tl.program_id(0).to(tl.int64) * ROWS, tl.program_id(1).to(tl.int64) * COLS
    gate, up = _gate_and_up(both_ptr, first_row, first_col, M, F, ROWS, COLS)
    hidden = within(gate * tl.sigmoid(gate) * up * tl.load(scale_ptr), LIMIT)
    store_both(hidden_ptr, transposed_ptr, hidden, first_row, first_col, M, F, F, ROWS, COLS)


@jit
def _largest(x):
    """The bits of the largest |x|, which have the same order as the values; those of NaN are the largest."""
    return tl.max(tl.max(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=1), axis=0)


@jit
def _maxima_kernel(
    both_ptr, out_ptr,  # (M, 2F), (3, programs) int32
    M, F,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    first_row, first_col = tl.program_id(0).to(tl.int64) * ROWS, tl.program_id(1).to(tl.int64) * COLS
    gate, up = _gate_and_up(both_ptr, first_row, first_col, M, F, ROWS, COLS)
    silu = gate * tl.sigmoid(gate)
    programs = tl.num_programs(0) * tl.num_programs(1)
    place_ptr = out_ptr + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    tl.store(place_ptr, _largest(silu * up))
    tl.store(place_ptr + programs, _largest(silu))
    tl.store(place_ptr + 2 * programs, _largest(up))


@jit
def _gradient_kernel(
    dhidden_ptr, both_ptr, scale_ptr, dboth_ptr, transposed_ptr,  # (M, F), (M, 2F), (), (M, 2F), (2F, M)
    M, F,
    LIMIT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    first_row, first_col = tl.program_id(0).to(tl.int64) * ROWS, tl.program_id(1).to(tl.int64) * COLS
    gate, up = _gate_and_up(both_ptr, first_row, first_col, M, F, ROWS, COLS)
    r, c = tl.arange(0, ROWS), tl.arange(0, COLS)
    inside = (first_row + r < M)[:, None] & (first_col + c < F)[None, :]
    narrow = first_row * F + first_col + (r[:, None] * F + c[None, :])
    dhidden = tl.load(dhidden_ptr + narrow, mask=inside, other=0.0).to(tl.float32) * tl.load(scale_ptr)
    sigmoid = tl.sigmoid(gate)
    dgate = within(dhidden * up * sigmoid * (1.0 + gate * (1.0 - sigmoid)), LIMIT)
    dup = within(dhidden * gate * sigmoid, LIMIT)
    across_ptr = transposed_ptr + tl.cast(F, tl.int64) * M  # up's rows follow the gate's
    store_both(dboth_ptr, transposed_ptr, dgate, first_row, first_col, M, F, 2 * F, ROWS, COLS)
    store_both(dboth_ptr + F, across_ptr, dup, first_row, first_col, M, F, 2 * F, ROWS, COLS)


def _grid(rows: int, hidden: int) -> tuple[int, int]:
    return triton.cdiv(rows, ROWS), triton.cdiv(hidden, COLS)


@register("fp8_swiglu_maxima", opaque=True)  # reads gate and up once; Inductor would read them three times
def _maxima(both: torch.Tensor) -> torch.Tensor:
    """The largest magnitudes of hidden values, silu(gate) and up, (3,) float32, for gate and up (M, 2F)."""
    M, F = both.shape[0], both.shape[1] // 2
    rows, cols = _grid(M, F)
    found = torch.empty((3, rows * cols), dtype=torch.int32, device=both.device)
    launch(_maxima_kernel)[rows, cols](both, found, M, F, ROWS=ROWS, COLS=COLS, num_warps=WARPS)
    return found.amax(1).view(torch.float32)


@_maxima.register_fake
def _(both):
    return both.new_empty(3, dtype=torch.float32)


@register("fp8_swiglu", opaque=True)  # if traced, it could be recomputed in the backward to save memory
def _hidden(both: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(hidden values times scale (M, F), the same transposed) for gate and up (M, 2F)."""
    M, F = both.shape[0], both.shape[1] // 2
    hidden, across = both.new_empty((M, F), dtype=FORMATS[0]), both.new_empty((F, M), dtype=FORMATS[0])
    launch(_hidden_kernel)[_grid(M, F)](
        both, scale, hidden, across, M, F,
        LIMIT=torch.finfo(E4M3).max, ROWS=ROWS, COLS=COLS, num_warps=WARPS,
    )  # fmt: skip
    return hidden, across


@_hidden.register_fake
def _(both, scale):
    M, F = both.shape[0], both.shape[1] // 2
    return both.new_empty((M, F), dtype=FORMATS[0]), both.new_empty((F, M), dtype=FORMATS[0])


@register("fp8_swiglu_backward", opaque=True)
def _gradient(
    dhidden: torch.Tensor, both: torch.Tensor, scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(gradient of gate and up times scale (M, 2F), the same transposed) for dhidden (M, F)."""
    M, F = dhidden.shape
    dboth, across = both.new_empty((M, 2 * F), dtype=FORMATS[1]), both.new_empty((2 * F, M), dtype=FORMATS[1])
    launch(_gradient_kernel)[_grid(M, F)](
        dhidden, both, scale, dboth, across, M, F,
        LIMIT=torch.finfo(E5M2).max, ROWS=ROWS, COLS=COLS, num_warps=WARPS,
    )  # fmt: skip
    return dboth, across


@_gradient.register_fake
def _(dhidden, both, scale):
    M, F2 = both.shape
    return both.new_empty((M, F2), dtype=FORMATS[1]), both.new_empty((F2, M), dtype=FORMATS[1])


def _swiglu_gradients(dhidden: torch.Tensor, both: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    (gate, up), dhidden = both.float().chunk(2, dim=1), dhidden.float()
    sigmoid = torch.sigmoid(gate)
    return dhidden * up * sigmoid * (1.0 + gate * (1.0 - sigmoid)), dhidden * gate * sigmoid


def hidden_to_fp8(both: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(hidden values in e4m3, the same transposed, inverse scale, bound of the derivatives) for gate and up (M, 2F).

    The bound, a float32 scalar, is at least the magnitude of SwiGLU's derivatives with respect to up and gate, silu(gate)
    and up · silu'(gate), because |silu'| ≤ 1.0999."""
    if use_triton("fp8_feed_forward", both):
        amax, silu_max, up_max = _maxima(both).unbind()
        scale, inverse = to_range(amax, E4M3)
        return *_hidden(both, scale), inverse, torch.maximum(silu_max, MAX_SLOPE * up_max)
    gate, up = both.float().chunk(2, dim=1)
    silu = torch.nn.functional.silu(gate)
    scale, inverse = to_range((silu * up).abs().amax(), E4M3)
    bound = torch.maximum(silu.abs().amax(), MAX_SLOPE * up.abs().amax())
    limit = torch.finfo(E4M3).max
    hidden = (silu * up * scale).clamp(-limit, limit).to(FORMATS[0])
    return hidden, transposed(hidden), inverse, bound


def gradient_to_fp8(
    dhidden: torch.Tensor, both: torch.Tensor, bound: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(gradient of gate and up in e5m2 (M, 2F), the same transposed, inverse scale); bound: from `hidden_to_fp8`.

    The scale keeps dhidden's largest value times the bound in range, a few powers of two more than the
    gradient needs. e5m2 has 30 of them, so only values below 2⁻²⁶ of the largest are lost; the true maximum
    would take another read of gate, up and dhidden, 0.23 ms for a layer of 65,536 × 2,560."""
    scale, inverse = to_range(dhidden.abs().amax().float() * bound, E5M2)
    if use_triton("fp8_feed_forward", both):
        return *_gradient(dhidden, both, scale), inverse
    limit = torch.finfo(E5M2).max
    dboth = (torch.cat(_swiglu_gradients(dhidden, both), dim=1) * scale).clamp(-limit, limit).to(FORMATS[1])
    return dboth, transposed(dboth), inverse


class _Fp8FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, up_weight, down_weight, out_dtype):  # (M, D), (2F, D), (D, F)
        x8, x_inverse = to_fp8(x, E4M3)
        up8, up_inverse = to_fp8(up_weight, E4M3)
        down8, down_inverse = to_fp8(down_weight, E4M3)
        both = fp8_mm(x8, x_inverse, up8, up_inverse, out_dtype, fast=True)
        hidden8, hidden8t, hidden_inverse, bound = hidden_to_fp8(both)
        ctx.save_for_backward(
            transposed(x8),
            x_inverse,
            up8,
            up_inverse,
            down8,
            down_inverse,
            both,
            hidden8t,
            hidden_inverse,
            bound,
        )
        ctx.dtypes = x.dtype, up_weight.dtype, down_weight.dtype
        return fp8_mm(hidden8, hidden_inverse, down8, down_inverse, out_dtype, fast=True)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x8t, x_inverse, up8, up_inverse, down8, down_inverse, both, hidden8t, hidden_inverse, bound = (
            ctx.saved_tensors
        )
        x_dtype, up_dtype, down_dtype = ctx.dtypes
        dy8, dy8t, dy_inverse = to_fp8_both(dy, E5M2)
        dhidden = fp8_mm(dy8, dy_inverse, transposed(down8), down_inverse, both.dtype, fast=False)
        ddown = fp8_mm(dy8t, dy_inverse, hidden8t, hidden_inverse, down_dtype, fast=False)
        dboth8, dboth8t, dboth_inverse = gradient_to_fp8(dhidden, both, bound)
        dx = fp8_mm(dboth8, dboth_inverse, transposed(up8), up_inverse, x_dtype, fast=False)
        dup = fp8_mm(dboth8t, dboth_inverse, x8t, x_inverse, up_dtype, fast=False)
        return dx, dup, ddown, None


def fp8_feed_forward(x: torch.Tensor, up_weight: torch.Tensor, down_weight: torch.Tensor) -> torch.Tensor:
    """down(silu(gate) · up) for shapes checked by `feed_forward`. Raises ValueError for sizes that FP8 does not support."""
    rows, (D, hidden) = math.prod(x.shape[:-1]), down_weight.shape
    if x.dim() < 2 or not x.numel() or not hidden or not fits_fp8(rows, D, hidden):
        raise ValueError(
            f"feed_forward: fp8 needs multiples of {MULTIPLE}, not {rows} rows, width {D} and hidden width {hidden}; "
            "use fp8=False"
        )
    y = _Fp8FeedForward.apply(x.flatten(0, -2), up_weight, down_weight, autocast_dtype(x) or x.dtype)
    return y.unflatten(0, x.shape[:-1])
