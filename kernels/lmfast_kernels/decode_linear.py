"""Products of one to four rows with a weight matrix for decoding, y = f(x) Wᵀ, where f is the identity, RMSNorm or SwiGLU.

In: weight (N, K), rows dense. `decode_linear`: x (..., K). `decode_norm_linear`: x (..., K), norm_weight (K,), residual
like x or None; out (y, s): y = rms_norm(s) Wᵀ with s = x + residual. `decode_swiglu_linear`: x (..., 2K), the gate first.
Out: y (..., N). x, residual and weight have one dtype (float32, float16, bfloat16). Sums in float32; f rounds
exactly where `rms_norm` and `swiglu` do, so only the order of sums differs from those operators. No gradient.
These operators and cuBLAS are used for more than MAX_ROWS rows (MAX_PLAIN_ROWS for the identity), mixed dtypes, calls
that need gradients, and devices without Triton.

A program multiplies a few rows of the weight over all of K, with a fixed order of sums and without atomics. It first
loads its tile of the weight (all of it for K up to 4,096, with 16-byte loads) and computes f from the L2 cache meanwhile;
one program writes s. K is not split: with N of 768 there are 192 programs, and the whole matrix (9 KB per
multiprocessor, 30 KB for K of 2,560) is in flight at once. Costs: docs/kernels.md.
"""

import torch

from lmfast_kernels.autograd import needs_gradient
from lmfast_kernels.backend import (
    autocast_dtype,
    dense_last,
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
from lmfast_kernels.linear import linear
from lmfast_kernels.rms_norm import MAX_WIDTH, rms_norm
from lmfast_kernels.swiglu import swiglu
from lmfast_kernels.tuning import tuned

# cuBLAS multiplies four rows in 4.5 µs, these kernels in 5.1, with a norm in 5.8.
MAX_ROWS, MAX_PLAIN_ROWS = 4, 2
# For a sweep on a device, with `lmfast_kernels.tuning.use_config("decode_linear", **candidate)`. BLOCK_N: weight rows per
# program.
CANDIDATES = (
    {"BLOCK_N": 4},
    {"BLOCK_N": 8},
    {"BLOCK_N": 16},
    {"BLOCK_N": 2},
    {"BLOCK_N": 4, "num_warps": 8},
    {"BLOCK_N": 4, "BLOCK_K": 512, "num_warps": 4},
)


@jit
def _input(
    x_ptr, residual_ptr, gate_width, mask, dtype: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr, SWIGLU: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """A block of x + residual or silu(gate) · up, rounded to `dtype`, as ACC."""
    x = tl.load(x_ptr, mask=mask, other=0.0).to(ACC)
    if HAS_RESIDUAL:
        x = (x + tl.load(residual_ptr, mask=mask, other=0.0).to(ACC)).to(dtype).to(ACC)
    if SWIGLU:
        up = tl.load(x_ptr + gate_width, mask=mask, other=0.0).to(ACC)
        x = (x * tl.sigmoid(x) * up).to(dtype).to(ACC)
    return x


@jit
def _decode_linear_kernel(
    x_ptr, residual_ptr, norm_ptr, weight_ptr, y_ptr, s_ptr,  # (M, K) (M, K) (K,) (N, K) (M, N) (M, K)
    M, N, x_row, residual_row, weight_row,
    K: tl.constexpr, EPS: tl.constexpr, NORM: tl.constexpr, HAS_RESIDUAL: tl.constexpr, SWIGLU: tl.constexpr,
    DOUBLE: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Columns of y, for all rows. Tiles are (ROWS, BLOCK_N, BLOCK_K), of size 1 in dimensions that a tensor lacks."""
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    dtype: tl.constexpr = y_ptr.dtype.element_ty
    columns = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = tl.arange(0, ROWS).to(tl.int64)
    ks = tl.arange(0, BLOCK_K)
    weight_ptr += columns[None, :, None] * weight_row + ks[None, None, :]
    x_ptr += rows[:, None, None] * x_row + ks[None, None, :]
    residual_ptr += rows[:, None, None] * residual_row + ks[None, None, :]
    in_rows, in_columns = rows[:, None, None] < M, columns[None, :, None] < N
    squares = tl.zeros((ROWS, 1), ACC)
    if NORM and BLOCK_K < K:  # a row has several blocks: compute its norm first
        for start in tl.static_range(0, K, BLOCK_K):
            mask = in_rows & (start + ks[None, None, :] < K)
            x = _input(x_ptr + start, residual_ptr + start, 0, mask, dtype, HAS_RESIDUAL, SWIGLU, ACC)
            squares += tl.sum(x * x, axis=2)
    total = tl.zeros((ROWS, BLOCK_N), ACC)
    for start in tl.static_range(0, K, BLOCK_K):
        in_k = start + ks[None, None, :] < K
        weight = tl.load(
            weight_ptr + start, mask=in_columns & in_k, other=0.0
        )  # first, because it comes from memory
        if BLOCK_K >= K:
            tl.debug_barrier()  # otherwise ptxas moves these loads after SwiGLU, two at a time, to save registers
        mask = in_rows & in_k
        x = _input(x_ptr + start, residual_ptr + start, K, mask, dtype, HAS_RESIDUAL, SWIGLU, ACC)
        if NORM:
            if HAS_RESIDUAL:
                s_place = rows[:, None, None] * K + start + ks[None, None, :]
                tl.store(s_ptr + s_place, x.to(s_ptr.dtype.element_ty), mask=mask & (tl.program_id(0) == 0))
            norm = tl.load(norm_ptr + start + ks, mask=start + ks < K, other=0.0).to(ACC)[None, None, :]
            if BLOCK_K >= K:
                squares = tl.sum(x * x, axis=2)
            rstd = 1.0 / tl.sqrt(squares / K + EPS)
            x = (x * rstd[:, :, None] * norm).to(dtype).to(ACC)
        total += tl.sum(x * weight.to(ACC), axis=2)
    places = rows[:, None] * N + columns[None, :]
    tl.store(y_ptr + places, total.to(dtype), mask=(rows[:, None] < M) & (columns[None, :] < N))


def config(N: int, K: int, sms: int) -> dict[str, int]:
    """All of K at once up to 4,096, eight values per thread along it; four weight rows per program, or eight if that
    leaves two programs per multiprocessor.
    """
    block_k = min(4096, max(16, power_of_two(K)))
    block_n = 8 if triton.cdiv(N, 8) >= 2 * sms else 4
    chosen = {"BLOCK_N": block_n, "BLOCK_K": block_k, "num_warps": min(8, max(1, block_k // 256))}
    return tuned("decode_linear", chosen)


@register("decode_linear")
def _product(
    x: torch.Tensor,
    weight: torch.Tensor,
    norm_weight: torch.Tensor | None,
    residual: torch.Tensor | None,
    eps: float,
    swiglu: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(y, x + residual); the latter is empty without a residual."""
    N, K = weight.shape
    y = x.new_empty((*x.shape[:-1], N))
    s = x.new_empty(x.shape if residual is not None else 0)
    rows, weight = dense_rows(x), dense_last(weight)
    added = rows if residual is None else dense_rows(residual)
    chosen = config(N, K, num_sms(x.device))
    wrap_triton(_decode_linear_kernel)[(triton.cdiv(N, chosen["BLOCK_N"]),)](
        rows, added, weight if norm_weight is None else norm_weight.contiguous(), weight, y, s,
        rows.shape[0], N, rows.stride(0), added.stride(0), weight.stride(0),
        K=int(K), EPS=eps, NORM=norm_weight is not None, HAS_RESIDUAL=residual is not None, SWIGLU=swiglu,
        DOUBLE=x.dtype == torch.float64, ROWS=power_of_two(rows.shape[0]), **chosen,
    )  # fmt: skip
    return y, s


@_product.register_fake
def _(x, weight, norm_weight, residual, eps, swiglu):
    return x.new_empty((*x.shape[:-1], weight.shape[0])), x.new_empty(x.shape if residual is not None else 0)


def _fits(weight: torch.Tensor, *inputs: torch.Tensor, most: int = MAX_ROWS) -> bool:
    """Whether the kernel supports these inputs (..., any width), the first of which is x, with at most `most` rows."""
    x = inputs[0]
    if not use_triton("decode_linear", x):
        return False
    rows = x.numel() // max(1, x.shape[-1])
    if not (1 <= rows <= most and weight.numel()) or weight.shape[1] > MAX_WIDTH:
        return False
    if needs_gradient(weight, *inputs):
        return False
    return {weight.dtype, *(t.dtype for t in inputs)} == {autocast_dtype(x) or weight.dtype}


def _validate(name: str, x: torch.Tensor, weight: torch.Tensor, times: int = 1) -> None:
    if weight.dim() != 2 or x.dim() < 1 or x.shape[-1] != times * weight.shape[1]:
        raise ValueError(
            f"{name}: weight {tuple(weight.shape)} must be (N, K) for x {tuple(x.shape)} = (..., "
            f"{'K' if times == 1 else f'{times}K'})"
        )


def decode_linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x Wᵀ for x (..., K) and weight (N, K). Raises ValueError for inconsistent shapes."""
    _validate("decode_linear", x, weight)
    if _fits(weight, x, most=MAX_PLAIN_ROWS):
        return _product(x, weight, None, None, 0.0, False)[0]
    return linear(x, weight)


def decode_norm_linear(
    x: torch.Tensor,
    norm_weight: torch.Tensor,
    weight: torch.Tensor,
    eps: float = 1e-5,
    residual: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(rms_norm(s) Wᵀ, s) with s = x + residual, or x, for x and residual (..., K), norm_weight (K,) and weight (N, K).
    Raises ValueError for inconsistent shapes."""
    _validate("decode_norm_linear", x, weight)
    if norm_weight.shape != x.shape[-1:] or (residual is not None and residual.shape != x.shape):
        other = norm_weight if residual is None or residual.shape == x.shape else residual
        raise ValueError(
            f"decode_norm_linear: norm_weight must be (K,) and residual like x {tuple(x.shape)} = (..., K), "
            f"not {tuple(other.shape)}"
        )
    if _fits(weight, x) if residual is None else _fits(weight, x, residual):
        y, s = _product(x, weight, norm_weight, residual, eps, False)
        return y, x if residual is None else s
    if residual is None:
        return linear(rms_norm(x, norm_weight, eps), weight), x
    normed, s = rms_norm(x, norm_weight, eps, residual)
    return linear(normed, weight), s


def decode_swiglu_linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(silu(gate) · up) Wᵀ for x = [gate, up] (..., 2K) and weight (N, K). Raises ValueError for inconsistent shapes."""
    _validate("decode_swiglu_linear", x, weight, times=2)
    if _fits(weight, x):
        return _product(x, weight, None, None, 0.0, True)[0]
    return linear(swiglu(*x.chunk(2, dim=-1)), weight)
