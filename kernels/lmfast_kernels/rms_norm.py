"""Root mean square norm, with an optional residual added first: y = s / sqrt(mean(s²) + eps) · weight.

In: x (..., N), weight (N,), residual like x in shape or None. N up to 65,536; float32, float16, bfloat16
(float64 in plain PyTorch). Out: y in x's dtype; with a residual also s = x + residual in the residual's
dtype. Cast order: everything from the sum to the product with the weight in float32, one rounding at the end
(as in `F.rms_norm`; Hugging Face's Llama rounds before the weight). The norm is computed from s as rounded to
its dtype, which is what the next layer reads. Autocast has no effect.
Source: Zhang and Sennrich 2019, arXiv:1910.07467. Costs: docs/kernels.md.

Rows may have any stride, including the heads of a fused projection (`row_layout`), without a copy. dweight: each
program of the backward stores one partial row, the sum over its rows, in float32, and one kernel sums the partial rows in
a fixed order and rounds, so the gradient is bitwise reproducible on one device.
"""

from typing import overload

import torch

from lmfast_kernels.backend import (
    compute_dtype,
    jit,
    num_sms,
    power_of_two,
    register,
    tl,
    triton,
    use_triton,
    wrap_triton,
)
from lmfast_kernels.tuning import tuned

MAX_WIDTH = 65536
# The widest row that one program holds in registers; wider rows are read in blocks, twice. The backward also
# keeps dweight in registers: at 16,384 it spilled 64 to 112 bytes per thread (sm_90).
ONE_BLOCK = 16384
ONE_BLOCK_BACKWARD = 8192

# For a sweep on a device, with `lmfast_kernels.tuning.use_config("rms_norm_backward", **candidate)`: widths up to 2,048,
# and up to 8,192. STAGES: depth of the load pipeline; PER_SM: programs per multiprocessor.
NARROW_BACKWARD_CANDIDATES = (
    {"STAGES": 3, "PER_SM": 4},
    {"STAGES": 4, "PER_SM": 4},
    {"STAGES": 2, "PER_SM": 4},
    {"STAGES": 4, "PER_SM": 8, "ROWS": 1},
    {"STAGES": 3, "PER_SM": 8, "ROWS": 1},
    {"STAGES": 3, "PER_SM": 2, "ROWS": 4, "num_warps": 8},
)
BACKWARD_CANDIDATES = (
    {"STAGES": 3, "PER_SM": 2, "num_warps": 16},
    {"STAGES": 3, "PER_SM": 2, "num_warps": 8},
    {"STAGES": 4, "PER_SM": 2, "num_warps": 16},
    {"STAGES": 2, "PER_SM": 2, "num_warps": 16},
    {"STAGES": 3, "PER_SM": 1, "num_warps": 16},
    {"STAGES": 4, "PER_SM": 1, "num_warps": 8},
)


def rms_norm_reference(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """The same computation in plain PyTorch: the oracle, and the implementation without Triton."""
    compute = compute_dtype(x.dtype)
    s = x if residual is None else (x.to(compute) + residual.to(compute)).to(residual.dtype)
    wide = s.to(compute)
    rstd = torch.rsqrt((wide * wide).mean(-1, keepdim=True) + eps)
    y = (wide * rstd * weight.to(compute)).to(x.dtype)
    return y if residual is None else (y, s)


@jit
def _row_offset(rows, outer, inner, INNER: tl.constexpr):
    """The offsets of rows, as defined by `row_layout`."""
    return rows * outer if INNER == 1 else rows // INNER * outer + rows % INNER * inner


@jit
def _rms_norm_forward_kernel(
    x_ptr, residual_ptr, weight_ptr, y_ptr, s_ptr, rstd_ptr,  # (M, N) (M, N) (N,) (M, N) (M, N) (M,)
    M, x_outer, x_inner, residual_outer, residual_inner,
    X_INNER: tl.constexpr, RESIDUAL_INNER: tl.constexpr,
    N: tl.constexpr, EPS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    acc = rstd_ptr.dtype.element_ty
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    x_ptr += _row_offset(rows, x_outer, x_inner, X_INNER)
    residual_ptr += _row_offset(rows, residual_outer, residual_inner, RESIDUAL_INNER)
    squares = tl.zeros((ROWS, 1), acc)
    for start in tl.static_range(0, N, BLOCK):
        cols = start + tl.arange(0, BLOCK)[None, :]
        mask = (rows < M) & (cols < N)
        s = tl.load(x_ptr + cols, mask=mask, other=0.0).to(acc)
        if HAS_RESIDUAL:
            s += tl.load(residual_ptr + cols, mask=mask, other=0.0).to(acc)
            rounded = s.to(s_ptr.dtype.element_ty)
            tl.store(s_ptr + rows * N + cols, rounded, mask=mask)
            s = rounded.to(acc)
        squares += tl.sum(s * s, axis=1, keep_dims=True)
    rstd = 1.0 / tl.sqrt(squares / N + EPS)
    tl.store(rstd_ptr + rows, rstd, mask=rows < M)
    for start in tl.static_range(0, N, BLOCK):
        cols = start + tl.arange(0, BLOCK)[None, :]
        mask = (rows < M) & (cols < N)
        if BLOCK < N:  # the row did not fit in registers: add again, because the store may still be in flight
            s = tl.load(x_ptr + cols, mask=mask, other=0.0).to(acc)
            if HAS_RESIDUAL:
                s += tl.load(residual_ptr + cols, mask=mask, other=0.0).to(acc)
                s = s.to(s_ptr.dtype.element_ty).to(acc)
        weight = tl.load(weight_ptr + cols, mask=cols < N, other=0.0).to(acc)
        tl.store(y_ptr + rows * N + cols, (s * rstd * weight).to(y_ptr.dtype.element_ty), mask=mask)


@jit
def _rms_norm_backward_kernel(
    dy_ptr, s_ptr, weight_ptr, rstd_ptr, ds_ptr, dx_ptr, partial_ptr,  # partial: (programs, N)
    M, dy_outer, dy_inner, s_outer, s_inner, ds_outer, ds_inner, programs,
    DY_INNER: tl.constexpr, S_INNER: tl.constexpr, DS_INNER: tl.constexpr,
    N: tl.constexpr, HAS_DS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    acc = rstd_ptr.dtype.element_ty
    program = tl.program_id(0)
    cols = tl.arange(0, BLOCK)[None, :]
    weight = tl.load(weight_ptr + cols, mask=cols < N, other=0.0).to(acc)
    dweight = tl.zeros((ROWS, BLOCK), acc)
    for tile in tl.range(program, tl.cdiv(M, ROWS), programs, num_stages=STAGES):
        rows = tl.cast(tile, tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
        mask = (rows < M) & (cols < N)
        dy_rows = dy_ptr + _row_offset(rows, dy_outer, dy_inner, DY_INNER)
        s_rows = s_ptr + _row_offset(rows, s_outer, s_inner, S_INNER)
        dy = tl.load(dy_rows + cols, mask=mask, other=0.0).to(acc)
        s = tl.load(s_rows + cols, mask=mask, other=0.0).to(acc)
        rstd = tl.load(rstd_ptr + rows, mask=rows < M, other=0.0)
        normed = s * rstd
        dweight += dy * normed
        dy *= weight
        dx = (dy - normed * (tl.sum(dy * normed, axis=1, keep_dims=True) / N)) * rstd
        if HAS_DS:
            ds_rows = ds_ptr + _row_offset(rows, ds_outer, ds_inner, DS_INNER)
            dx += tl.load(ds_rows + cols, mask=mask, other=0.0).to(acc)
        tl.store(dx_ptr + rows * N + cols, dx.to(dx_ptr.dtype.element_ty), mask=mask)
    dweight_row = tl.sum(dweight, axis=0, keep_dims=True)
    tl.store(partial_ptr + tl.cast(program, tl.int64) * N + cols, dweight_row, mask=cols < N)


@jit
def _rms_norm_backward_wide_kernel(
    dy_ptr, s_ptr, weight_ptr, rstd_ptr, ds_ptr, dx_ptr, partial_ptr,  # partial: (programs, N)
    M, dy_outer, dy_inner, s_outer, s_inner, ds_outer, ds_inner,
    DY_INNER: tl.constexpr, S_INNER: tl.constexpr, DS_INNER: tl.constexpr,
    N: tl.constexpr, HAS_DS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    acc = rstd_ptr.dtype.element_ty
    program = tl.program_id(0).to(tl.int64)
    rows = program * ROWS + tl.arange(0, ROWS)[:, None]
    dy_ptr += _row_offset(rows, dy_outer, dy_inner, DY_INNER)
    s_ptr += _row_offset(rows, s_outer, s_inner, S_INNER)
    ds_ptr += _row_offset(rows, ds_outer, ds_inner, DS_INNER)
    rstd = tl.load(rstd_ptr + rows, mask=rows < M, other=0.0)
    products = tl.zeros((ROWS, 1), acc)
    for start in tl.range(0, N, BLOCK, num_stages=STAGES):
        cols = start + tl.arange(0, BLOCK)[None, :]
        mask = (rows < M) & (cols < N)
        weight = tl.load(weight_ptr + cols, mask=cols < N, other=0.0).to(acc)
        dy = tl.load(dy_ptr + cols, mask=mask, other=0.0).to(acc) * weight
        s = tl.load(s_ptr + cols, mask=mask, other=0.0).to(acc)
        products += tl.sum(dy * s * rstd, axis=1, keep_dims=True)
    for start in tl.range(0, N, BLOCK, num_stages=STAGES):
        cols = start + tl.arange(0, BLOCK)[None, :]
        mask = (rows < M) & (cols < N)
        weight = tl.load(weight_ptr + cols, mask=cols < N, other=0.0).to(acc)
        dy = tl.load(dy_ptr + cols, mask=mask, other=0.0).to(acc)
        normed = tl.load(s_ptr + cols, mask=mask, other=0.0).to(acc) * rstd
        dweight = tl.sum(dy * normed, axis=0, keep_dims=True)
        tl.store(partial_ptr + program * N + cols, dweight, mask=cols < N)
        dx = (dy * weight - normed * (products / N)) * rstd
        if HAS_DS:
            dx += tl.load(ds_ptr + cols, mask=mask, other=0.0).to(acc)
        tl.store(dx_ptr + rows * N + cols, dx.to(dx_ptr.dtype.element_ty), mask=mask)


@jit
def _sum_rows_kernel(
    partial_ptr, sum_ptr,  # (R, N) (N,)
    R, N,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    cols = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, :]
    total = tl.zeros((ROWS, BLOCK), partial_ptr.dtype.element_ty)
    for start in tl.range(0, R, ROWS, num_stages=3):
        rows = tl.cast(start, tl.int64) + tl.arange(0, ROWS)[:, None]
        total += tl.load(partial_ptr + rows * N + cols, mask=(rows < R) & (cols < N), other=0.0)
    row = tl.sum(total, axis=0, keep_dims=True)
    tl.store(sum_ptr + cols, row.to(sum_ptr.dtype.element_ty), mask=cols < N)


def forward_config(N: int) -> dict[str, int]:
    """Rows per program, columns per block, warps: 32 values per thread, so four 16-byte loads of bf16 in flight."""
    block = power_of_two(N) if N <= ONE_BLOCK else 4096
    rows = max(1, 4096 // block)
    warps = 8 if N > ONE_BLOCK else max(4, rows * block // 1024)
    return tuned("rms_norm_forward", {"ROWS": rows, "BLOCK": block, "num_warps": warps})


def backward_config(N: int, itemsize: int) -> dict[str, int]:
    """The kernel's constants, warps, and programs per multiprocessor.

    Up to 2,048 columns: 4 programs of 4 warps, 16 values per thread. At 4,096: 2 programs of 16 warps, 8 values per
    thread, at most 64 registers. All programs are resident at once (a persistent grid has no second wave), each with
    two tiles of dy and s in flight, or one in float32. The tile of a wide row has 8 rows.
    """
    if N > ONE_BLOCK_BACKWARD:
        stages = 2 if itemsize <= 2 else 1  # in float32 two would need 100 KiB, more than sm_120 has
        return {"ROWS": 8, "BLOCK": 1024, "num_warps": 8, "STAGES": stages, "PER_SM": 0}
    block = power_of_two(N)
    stages = 3 if itemsize <= 2 else 2
    if block <= 2048:
        config = {"ROWS": 2048 // block, "BLOCK": block, "num_warps": 4, "STAGES": stages, "PER_SM": 4}
    else:
        config = {"ROWS": 1, "BLOCK": block, "num_warps": 16, "STAGES": stages, "PER_SM": 8192 // block}
    return tuned("rms_norm_backward", config)


def row_layout(x: torch.Tensor) -> tuple[torch.Tensor, int, int, int]:
    """(x or a contiguous copy of it, outer stride, inner stride, inner): row r of (..., N) begins at
    r // inner · outer stride + r % inner · inner stride.

    Two levels cover the heads of a fused projection, (batch, seq, heads, N) with a gap after the heads; three
    levels, or a last dimension that is not dense, need a copy.
    """
    levels: list[tuple[int, int]] = []  # (size, stride), the outermost first
    for size, stride in zip(x.shape[:-1], x.stride()[:-1]):
        if size == 1:
            continue
        if levels and levels[-1][1] == size * stride:  # the two dimensions are one run of rows
            size *= levels.pop()[0]
        levels.append((size, stride))
    N = x.shape[-1]
    if len(levels) > 2 or not (N == 1 or x.stride(-1) == 1):
        return x.contiguous(), N, 0, 1
    if len(levels) == 2:
        return x, levels[0][1], levels[1][1], int(levels[1][0])
    return x, levels[0][1] if levels else N, 0, 1


@register("rms_norm_forward")
def _forward(
    x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(y, s, rstd); s is empty without a residual."""
    N = x.shape[-1]
    M = x.numel() // N
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    rstd = torch.empty(M, dtype=compute_dtype(x.dtype), device=x.device)
    x, x_outer, x_inner, X_INNER = row_layout(x)
    if residual is None:
        residual_rows, s = (x, x_outer, x_inner, X_INNER), torch.empty(0, dtype=x.dtype, device=x.device)
    else:
        residual_rows = row_layout(residual)
        s = torch.empty_like(residual, memory_format=torch.contiguous_format)
    if M == 0:
        return y, s, rstd
    config = forward_config(N)
    residual_rows, residual_outer, residual_inner, RESIDUAL_INNER = residual_rows
    wrap_triton(_rms_norm_forward_kernel)[(triton.cdiv(M, config["ROWS"]),)](
        x, residual_rows, weight.contiguous(), y, s, rstd,
        M, x_outer, x_inner, residual_outer, residual_inner,
        X_INNER=X_INNER, RESIDUAL_INNER=RESIDUAL_INNER,
        N=N, EPS=eps, HAS_RESIDUAL=residual is not None, **config,
    )  # fmt: skip
    return y, s, rstd


@_forward.register_fake
def _(x, weight, residual, eps):
    like = x if residual is None else residual
    s = like.new_empty(0) if residual is None else like.new_empty(like.shape)
    rstd = x.new_empty(x.numel() // x.shape[-1], dtype=compute_dtype(x.dtype))
    return x.new_empty(x.shape), s, rstd


@register("rms_norm_backward")
def _backward(
    dy: torch.Tensor, s: torch.Tensor, weight: torch.Tensor, rstd: torch.Tensor, ds: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(gradient of s in its dtype, including ds, the gradient from other uses of s, if given; gradient of weight)."""
    N = s.shape[-1]
    M = s.numel() // N
    dx = torch.empty_like(s, memory_format=torch.contiguous_format)
    if M == 0:
        return dx, torch.zeros_like(weight)
    dweight = weight.new_empty(N)
    dy, dy_outer, dy_inner, DY_INNER = row_layout(dy)
    s, s_outer, s_inner, S_INNER = row_layout(s)
    ds_rows, ds_outer, ds_inner, DS_INNER = row_layout(s if ds is None else ds)
    config = backward_config(N, s.element_size())
    per_sm = config.pop("PER_SM")
    tiles = triton.cdiv(M, config["ROWS"])
    programs = tiles if N > ONE_BLOCK_BACKWARD else min(tiles, num_sms(s.device) * per_sm)
    partial = torch.empty((programs, N), dtype=rstd.dtype, device=s.device)
    arguments = (
        dy, s, weight.contiguous(), rstd, ds_rows, dx, partial,
        M, dy_outer, dy_inner, s_outer, s_inner, ds_outer, ds_inner,
    )  # fmt: skip
    config |= {
        "DY_INNER": DY_INNER,
        "S_INNER": S_INNER,
        "DS_INNER": DS_INNER,
        "N": N,
        "HAS_DS": ds is not None,
    }
    if N > ONE_BLOCK_BACKWARD:
        wrap_triton(_rms_norm_backward_wide_kernel)[(programs,)](*arguments, **config)
    else:
        wrap_triton(_rms_norm_backward_kernel)[(programs,)](*arguments, programs, **config)
    block = (
        16 if N <= 4096 else 128
    )  # 64 bytes of a partial row, so that narrow rows use many multiprocessors
    wrap_triton(_sum_rows_kernel)[(triton.cdiv(N, block),)](
        partial, dweight, programs, N, ROWS=4096 // block, BLOCK=block, num_warps=8
    )
    return dx, dweight


@_backward.register_fake
def _(dy, s, weight, rstd, ds):
    return s.new_empty(s.shape), weight.new_empty(weight.shape)


def _setup_context(ctx, inputs, output):
    x, weight, residual, _ = inputs
    _, s, rstd = output
    ctx.has_residual, ctx.x_dtype = residual is not None, x.dtype
    ctx.save_for_backward(x if residual is None else s, weight, rstd)
    ctx.set_materialize_grads(False)


def _autograd(ctx, dy, ds, _drstd):
    s, weight, rstd = ctx.saved_tensors
    if dy is None:
        dy = torch.zeros_like(s, dtype=ctx.x_dtype)
    dsum, dweight = _backward(dy, s, weight, rstd, ds if ctx.has_residual else None)
    return dsum.to(ctx.x_dtype), dweight, dsum if ctx.has_residual else None, None


_forward.register_autograd(_autograd, setup_context=_setup_context)


@overload
def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-5, residual: None = None
) -> torch.Tensor: ...
@overload
def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]: ...
@overload
def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-5, *, residual: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]: ...
def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-5, residual: torch.Tensor | None = None
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """y, or (y, x + residual) with a residual, for x and residual (..., N) and weight (N,). Raises ValueError for
    inconsistent shapes."""
    if x.dim() < 1 or weight.shape != x.shape[-1:]:
        raise ValueError(
            f"rms_norm: weight {tuple(weight.shape)} must be (N,) for x {tuple(x.shape)} = (..., N)"
        )
    if not 1 <= x.shape[-1] <= MAX_WIDTH:
        raise ValueError(f"rms_norm: rows of {x.shape[-1]} values are outside 1 to {MAX_WIDTH}")
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"rms_norm: residual {tuple(residual.shape)} must have x's shape {tuple(x.shape)}")
    if not use_triton("rms_norm", x):
        return rms_norm_reference(x, weight, eps, residual)
    y, s, _ = _forward(x, weight, residual, eps)
    return y if residual is None else (y, s)
