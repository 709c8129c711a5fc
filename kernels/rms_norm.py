"""Root mean square norm, with an optional residual added first: y = s / sqrt(mean(s²) + eps) · weight.

In: x (..., N), weight (N,), residual like x in shape or None. N up to 65,536; float32, float16, bfloat16
(float64 in plain PyTorch). Out: y in x's dtype; with a residual also s = x + residual in the residual's
dtype. Cast order: everything from the sum to the product with the weight in float32, one rounding at the end
(as `F.rms_norm` does; Hugging Face's Llama rounds before the weight). The norm is taken of s as rounded to
its dtype, which is what the next layer sees. Under autocast nothing changes: the dtypes of the inputs decide.
Source: Zhang and Sennrich 2019, arXiv:1910.07467.

On paper, x (16,384, 4,096) bf16, weight fp32, at 3.35 TB/s: forward reads x and writes y, 268 MB, 80 µs;
with a residual twice that, 160 µs; backward reads dy and x and writes dx, 403 MB, and 528 partial rows of
dweight, 9 MB written and read, 126 µs. About 8 FLOPs a value (0.5 GFLOP) is nothing beside the bytes.
"""

import torch

from kernels.backend import (
    compute_dtype,
    dense_rows,
    jit,
    num_sms,
    power_of_two,
    register,
    tl,
    triton,
    use_triton,
    wrap_triton,
)

MAX_WIDTH = 65536
# Widest row that one program holds in registers; wider rows are walked in blocks, twice. The backward also
# keeps dweight there: at 16,384 it spilled 64 to 112 bytes a thread (sm_90).
ONE_BLOCK = 16384
ONE_BLOCK_BACKWARD = 8192


def rms_norm_reference(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """The same maths in plain PyTorch: the oracle, and the path wherever Triton is not chosen."""
    compute = compute_dtype(x.dtype)
    s = x if residual is None else (x.to(compute) + residual.to(compute)).to(residual.dtype)
    wide = s.to(compute)
    rstd = torch.rsqrt((wide * wide).mean(-1, keepdim=True) + eps)
    y = (wide * rstd * weight.to(compute)).to(x.dtype)
    return y if residual is None else (y, s)


@jit
def _rms_norm_forward_kernel(
    x_ptr, residual_ptr, weight_ptr, y_ptr, s_ptr, rstd_ptr,  # (M, N) (M, N) (N,) (M, N) (M, N) (M,)
    M, x_stride, residual_stride,
    N: tl.constexpr, EPS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    acc = rstd_ptr.dtype.element_ty
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    squares = tl.zeros((ROWS, 1), acc)
    for start in tl.static_range(0, N, BLOCK):
        cols = start + tl.arange(0, BLOCK)[None, :]
        mask = (rows < M) & (cols < N)
        s = tl.load(x_ptr + rows * x_stride + cols, mask=mask, other=0.0).to(acc)
        if HAS_RESIDUAL:
            s += tl.load(residual_ptr + rows * residual_stride + cols, mask=mask, other=0.0).to(acc)
            rounded = s.to(s_ptr.dtype.element_ty)
            tl.store(s_ptr + rows * N + cols, rounded, mask=mask)
            s = rounded.to(acc)
        squares += tl.sum(s * s, axis=1, keep_dims=True)
    rstd = 1.0 / tl.sqrt(squares / N + EPS)
    tl.store(rstd_ptr + rows, rstd, mask=rows < M)
    for start in tl.static_range(0, N, BLOCK):
        cols = start + tl.arange(0, BLOCK)[None, :]
        mask = (rows < M) & (cols < N)
        if BLOCK < N:  # the row did not fit in registers: add again (what was stored may still be in flight)
            s = tl.load(x_ptr + rows * x_stride + cols, mask=mask, other=0.0).to(acc)
            if HAS_RESIDUAL:
                s += tl.load(residual_ptr + rows * residual_stride + cols, mask=mask, other=0.0).to(acc)
                s = s.to(s_ptr.dtype.element_ty).to(acc)
        weight = tl.load(weight_ptr + cols, mask=cols < N, other=0.0).to(acc)
        tl.store(y_ptr + rows * N + cols, (s * rstd * weight).to(y_ptr.dtype.element_ty), mask=mask)


@jit
def _rms_norm_backward_kernel(
    dy_ptr, s_ptr, weight_ptr, rstd_ptr, ds_ptr, dx_ptr, partial_ptr,  # partial: (programs, N)
    M, dy_stride, s_stride, ds_stride, tiles_per_program,
    N: tl.constexpr, HAS_DS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    acc = rstd_ptr.dtype.element_ty
    program = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)[None, :]
    weight = tl.load(weight_ptr + cols, mask=cols < N, other=0.0).to(acc)
    dweight = tl.zeros((ROWS, BLOCK), acc)
    for tile in range(0, tiles_per_program):
        rows = (program * tiles_per_program + tile) * ROWS + tl.arange(0, ROWS)[:, None]
        mask = (rows < M) & (cols < N)
        dy = tl.load(dy_ptr + rows * dy_stride + cols, mask=mask, other=0.0).to(acc)
        s = tl.load(s_ptr + rows * s_stride + cols, mask=mask, other=0.0).to(acc)
        rstd = tl.load(rstd_ptr + rows, mask=rows < M, other=0.0)
        normed = s * rstd
        dweight += dy * normed
        dy *= weight
        dx = (dy - normed * (tl.sum(dy * normed, axis=1, keep_dims=True) / N)) * rstd
        if HAS_DS:
            dx += tl.load(ds_ptr + rows * ds_stride + cols, mask=mask, other=0.0).to(acc)
        tl.store(dx_ptr + rows * N + cols, dx.to(dx_ptr.dtype.element_ty), mask=mask)
    dweight_row = tl.sum(dweight, axis=0, keep_dims=True)
    tl.store(partial_ptr + program * N + cols, dweight_row, mask=cols < N)


@jit
def _rms_norm_backward_wide_kernel(
    dy_ptr, s_ptr, weight_ptr, rstd_ptr, ds_ptr, dx_ptr, partial_ptr,  # partial: (programs, N)
    M, dy_stride, s_stride, ds_stride,
    N: tl.constexpr, HAS_DS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    acc = rstd_ptr.dtype.element_ty
    program = tl.program_id(0).to(tl.int64)
    rows = program * ROWS + tl.arange(0, ROWS)[:, None]
    rstd = tl.load(rstd_ptr + rows, mask=rows < M, other=0.0)
    products = tl.zeros((ROWS, 1), acc)
    for start in range(0, N, BLOCK):
        cols = start + tl.arange(0, BLOCK)[None, :]
        mask = (rows < M) & (cols < N)
        weight = tl.load(weight_ptr + cols, mask=cols < N, other=0.0).to(acc)
        dy = tl.load(dy_ptr + rows * dy_stride + cols, mask=mask, other=0.0).to(acc) * weight
        s = tl.load(s_ptr + rows * s_stride + cols, mask=mask, other=0.0).to(acc)
        products += tl.sum(dy * s * rstd, axis=1, keep_dims=True)
    for start in range(0, N, BLOCK):
        cols = start + tl.arange(0, BLOCK)[None, :]
        mask = (rows < M) & (cols < N)
        weight = tl.load(weight_ptr + cols, mask=cols < N, other=0.0).to(acc)
        dy = tl.load(dy_ptr + rows * dy_stride + cols, mask=mask, other=0.0).to(acc)
        normed = tl.load(s_ptr + rows * s_stride + cols, mask=mask, other=0.0).to(acc) * rstd
        dweight = tl.sum(dy * normed, axis=0, keep_dims=True)
        tl.store(partial_ptr + program * N + cols, dweight, mask=cols < N)
        dx = (dy * weight - normed * (products / N)) * rstd
        if HAS_DS:
            dx += tl.load(ds_ptr + rows * ds_stride + cols, mask=mask, other=0.0).to(acc)
        tl.store(dx_ptr + rows * N + cols, dx.to(dx_ptr.dtype.element_ty), mask=mask)


def forward_config(N: int) -> dict[str, int]:
    """Rows a program, columns a block, warps: 32 values a thread, so four 16-byte loads of bf16 in flight."""
    block = power_of_two(N) if N <= ONE_BLOCK else 4096
    rows = max(1, 4096 // block)
    warps = 8 if N > ONE_BLOCK else max(4, rows * block // 1024)
    return {"ROWS": rows, "BLOCK": block, "num_warps": warps}


def backward_config(N: int) -> dict[str, int]:
    """16 values a thread, with dweight in registers beside the row; a wide row's tile is 8 rows high
    instead.
    """
    if N > ONE_BLOCK_BACKWARD:
        return {"ROWS": 8, "BLOCK": 1024, "num_warps": 8}
    block = power_of_two(N)
    rows = max(1, 2048 // block)
    return {"ROWS": rows, "BLOCK": block, "num_warps": max(4, rows * block // 512)}


@register("rms_norm_forward")
def _forward(
    x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(y, s, rstd); without a residual s is empty, the norm being x's own."""
    N = x.shape[-1]
    rows = dense_rows(x)
    M = rows.shape[0]
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    rstd = torch.empty(M, dtype=compute_dtype(x.dtype), device=x.device)
    if residual is None:
        residual_rows, s = rows, torch.empty(0, dtype=x.dtype, device=x.device)
    else:
        residual_rows = dense_rows(residual)
        s = torch.empty_like(residual, memory_format=torch.contiguous_format)
    if M == 0:
        return y, s, rstd
    config = forward_config(N)
    wrap_triton(_rms_norm_forward_kernel)[(triton.cdiv(M, config["ROWS"]),)](
        rows, residual_rows, weight.contiguous(), y, s, rstd,
        M, rows.stride(0), residual_rows.stride(0),
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
    """(gradient of s in its dtype, with ds added where s had a reader of its own; gradient of weight)."""
    N = s.shape[-1]
    dy_rows, s_rows = dense_rows(dy), dense_rows(s)
    ds_rows = s_rows if ds is None else dense_rows(ds)
    M = s_rows.shape[0]
    dx = torch.empty_like(s, memory_format=torch.contiguous_format)
    if M == 0:
        return dx, torch.zeros_like(weight)
    config = backward_config(N)
    tiles = triton.cdiv(M, config["ROWS"])
    # programs share out the rows so that about 16 warps a multiprocessor are at work; each leaves one
    # partial row
    wanted = num_sms(s.device) * max(1, 16 // config["num_warps"])
    tiles_each = 1 if N > ONE_BLOCK else triton.cdiv(tiles, wanted)
    programs = triton.cdiv(tiles, tiles_each)
    partial = torch.empty((programs, N), dtype=rstd.dtype, device=s.device)
    pointers = (dy_rows, s_rows, weight.contiguous(), rstd, ds_rows, dx, partial)
    strides = (M, dy_rows.stride(0), s_rows.stride(0), ds_rows.stride(0))
    if N > ONE_BLOCK_BACKWARD:
        wrap_triton(_rms_norm_backward_wide_kernel)[(programs,)](
            *pointers, *strides, N=N, HAS_DS=ds is not None, **config
        )
    else:
        wrap_triton(_rms_norm_backward_kernel)[(programs,)](
            *pointers, *strides, tiles_each, N=N, HAS_DS=ds is not None, **config
        )
    return dx, partial.sum(0).to(weight.dtype)


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


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-5, residual: torch.Tensor | None = None
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """y, or (y, x + residual) when a residual is given. Raises ValueError on shapes that do not fit."""
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
