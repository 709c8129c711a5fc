"""Casts a matrix to FP8 together with its transpose, as the products of a backward need a gradient.

In: x (M, N), dense rows, floating point; scale, a float32 scalar on its device; an FP8 dtype. Out: clamp(x · scale) in
that dtype, (M, N) and (N, M), both dense; NaN is preserved. No gradient. Without Triton, PyTorch operations.
Costs: docs/kernels.md.
"""

from typing import Any

import torch

from lmfast_kernels.backend import INTERPRETING, jit, launch, register, tl, triton, use_triton

ROWS, COLS, WARPS = 64, 64, 8  # tile and warps of a program
if triton is not None:
    cast_four = [
        "{ .reg .b16 low, high; "
        f"cvt.rn.satfinite.{form}x2.f32 low, $2, $1; cvt.rn.satfinite.{form}x2.f32 high, $4, $3; "
        "mov.b32 $0, {low, high}; }"
        for form in ("e4m3", "e5m2")
    ]
    constant: Any = tl.constexpr
    ASSEMBLED, FOUR_E4M3, FOUR_E5M2 = map(constant, (not INTERPRETING, *cast_four))


@jit
def within(x, LIMIT: tl.constexpr):
    """x clamped to ±LIMIT; NaN is preserved."""
    return tl.where(x > LIMIT, LIMIT, tl.where(x < -LIMIT, -LIMIT, x))


@jit
def round_fp8(x, dtype: tl.constexpr):
    """Converts x, float32 and within FP8's range, to the FP8 format `dtype`, four values of a thread into one register.

    Triton's cast converts two values into a 16-bit register. If these are both stored together and separated again,
    as for a transposed copy, ptxas 12.8 reads them from a register that it never writes (machine_code.py)."""
    if not ASSEMBLED:
        rounded = x.to(dtype)
    else:
        four = tl.inline_asm_elementwise(
            FOUR_E4M3 if dtype == tl.float8e4nv else FOUR_E5M2,
            "=r,r,r,r,r", [x], dtype=tl.int8, is_pure=True, pack=4,
        )  # fmt: skip
        rounded = four.to(dtype, bitcast=True)
    return rounded


@jit
def store_both(
    out_ptr, transposed_ptr, x, first_row, first_col, M, N, out_row,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Stores the tile x of a matrix (M, N), rows `out_row` apart, and its transpose, rows M apart; first_row: int64."""
    r, c = tl.arange(0, ROWS), tl.arange(0, COLS)
    x = round_fp8(x, out_ptr.dtype.element_ty)
    inside = (first_row + r < M)[:, None] & (first_col + c < N)[None, :]
    tl.store(out_ptr + first_row * out_row + first_col + (r[:, None] * out_row + c[None, :]), x, mask=inside)
    across_ptr = transposed_ptr + first_col * M + first_row + (c[:, None] * M + r[None, :])
    tl.store(across_ptr, tl.trans(x), mask=(first_col + c < N)[:, None] & (first_row + r < M)[None, :])


@jit
def _cast_kernel(
    x_ptr, scale_ptr, out_ptr, transposed_ptr,  # (M, N), (), (M, N), (N, M)
    M, N, x_row,
    LIMIT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    first_row, first_col = tl.program_id(0).to(tl.int64) * ROWS, tl.program_id(1).to(tl.int64) * COLS
    r, c = tl.arange(0, ROWS), tl.arange(0, COLS)
    inside = (first_row + r < M)[:, None] & (first_col + c < N)[None, :]
    from_ptr = x_ptr + first_row * x_row + first_col + (r[:, None] * x_row + c[None, :])
    x = tl.load(from_ptr, mask=inside, other=0.0).to(tl.float32)
    x = within(x * tl.load(scale_ptr), LIMIT)
    store_both(out_ptr, transposed_ptr, x, first_row, first_col, M, N, N, ROWS, COLS)


@register("fp8_cast", opaque=True)  # if traced, it could be recomputed in the backward to save memory
def _cast(
    x: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype, limit: float
) -> tuple[torch.Tensor, torch.Tensor]:
    M, N = x.shape
    out, across = x.new_empty((M, N), dtype=dtype), x.new_empty((N, M), dtype=dtype)
    launch(_cast_kernel)[triton.cdiv(M, ROWS), triton.cdiv(N, COLS)](
        x, scale, out, across, M, N, x.stride(0), LIMIT=limit, ROWS=ROWS, COLS=COLS, num_warps=WARPS
    )
    return out, across


@_cast.register_fake
def _(x, scale, dtype, limit):
    M, N = x.shape
    return x.new_empty((M, N), dtype=dtype), x.new_empty((N, M), dtype=dtype)


def cast_both(x: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """(x · scale in `dtype` (M, N), its transpose (N, M)) for x (M, N)."""
    limit = torch.finfo(dtype).max
    if use_triton("fp8_cast", x) and x.numel():
        return _cast(x if x.stride(-1) == 1 else x.contiguous(), scale, dtype, limit)
    x8 = (x.float() * scale).clamp(-limit, limit).to(dtype)
    return x8, x8.t().contiguous()
