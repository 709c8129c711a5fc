"""The pointwise part of SwiGLU: silu(gate) · up = gate · sigmoid(gate) · up.

In: gate and up (..., N) of one shape and dtype; the last dimension dense, rows at any stride, so the two
halves of one fused projection need no copy; float32, float16, bfloat16 (float64 in plain PyTorch). Out: the
same shape and dtype, contiguous. Computed in float32 and rounded once. The backward recomputes the sigmoid,
so only the inputs are saved. Under autocast different dtypes of gate and up are promoted; otherwise they are an error.
Source: Shazeer 2020, arXiv:2002.05202. Costs: docs/kernels.md.
"""

import torch

from lmfast_kernels.backend import (
    autocast_dtype,
    compute_dtype,
    dense_rows,
    jit,
    power_of_two,
    register,
    tl,
    triton,
    use_triton,
    wrap_triton,
)


def swiglu_reference(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """The same computation in plain PyTorch: the oracle, and the implementation without Triton."""
    compute = compute_dtype(gate.dtype)
    return (torch.nn.functional.silu(gate.to(compute)) * up.to(compute)).to(gate.dtype)


@jit
def _tile(M, N, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """(rows, columns, which of them exist) of the program's tile."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    return rows, cols, (rows < M) & (cols < N)


@jit
def _load(pointer, stride, rows, cols, mask, ACC: tl.constexpr):
    return tl.load(pointer + rows * stride + cols, mask=mask, other=0.0).to(ACC)


@jit
def _swiglu_forward_kernel(
    gate_ptr, up_ptr, out_ptr,  # (M, N) each
    M, N, gate_stride, up_stride,
    DOUBLE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    rows, cols, mask = _tile(M, N, ROWS, BLOCK)
    gate = _load(gate_ptr, gate_stride, rows, cols, mask, ACC)
    up = _load(up_ptr, up_stride, rows, cols, mask, ACC)
    out = gate * tl.sigmoid(gate) * up
    tl.store(out_ptr + rows * N + cols, out.to(out_ptr.dtype.element_ty), mask=mask)


@jit
def _swiglu_backward_kernel(
    dout_ptr, gate_ptr, up_ptr, dgate_ptr, dup_ptr,  # (M, N) each
    M, N, dout_stride, gate_stride, up_stride,
    DOUBLE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    rows, cols, mask = _tile(M, N, ROWS, BLOCK)
    dout = _load(dout_ptr, dout_stride, rows, cols, mask, ACC)
    gate = _load(gate_ptr, gate_stride, rows, cols, mask, ACC)
    up = _load(up_ptr, up_stride, rows, cols, mask, ACC)
    sigmoid = tl.sigmoid(gate)
    dgate = dout * up * sigmoid * (1.0 + gate * (1.0 - sigmoid))
    tl.store(dgate_ptr + rows * N + cols, dgate.to(dgate_ptr.dtype.element_ty), mask=mask)
    tl.store(dup_ptr + rows * N + cols, (dout * gate * sigmoid).to(dup_ptr.dtype.element_ty), mask=mask)


def config(N: int) -> dict[str, int]:
    """A tile of 4096 values, 32 per thread; the widest block up to 1024 that wastes at most an eighth of N."""
    block = min(1024, power_of_two(N))
    while block > 128 and triton.cdiv(N, block) * block > N * 9 // 8:
        block //= 2
    return {"ROWS": 4096 // block, "BLOCK": block, "num_warps": 4}


@register("swiglu_forward")
def _forward(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(gate, memory_format=torch.contiguous_format)
    if gate.numel() == 0:
        return out
    gate_rows, up_rows = dense_rows(gate), dense_rows(up)
    M, N = gate_rows.shape
    chosen = config(N)
    grid = (triton.cdiv(M, chosen["ROWS"]), triton.cdiv(N, chosen["BLOCK"]))
    wrap_triton(_swiglu_forward_kernel)[grid](
        gate_rows, up_rows, out, M, N, gate_rows.stride(0), up_rows.stride(0),
        DOUBLE=gate.dtype == torch.float64, **chosen,
    )  # fmt: skip
    return out


@_forward.register_fake
def _(gate, up):
    return gate.new_empty(gate.shape)


@register("swiglu_backward")
def _backward(dout: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    dgate = torch.empty_like(gate, memory_format=torch.contiguous_format)
    dup = torch.empty_like(up, memory_format=torch.contiguous_format)
    if gate.numel() == 0:
        return dgate, dup
    dout_rows, gate_rows, up_rows = dense_rows(dout), dense_rows(gate), dense_rows(up)
    M, N = gate_rows.shape
    chosen = config(N)
    grid = (triton.cdiv(M, chosen["ROWS"]), triton.cdiv(N, chosen["BLOCK"]))
    wrap_triton(_swiglu_backward_kernel)[grid](
        dout_rows, gate_rows, up_rows, dgate, dup,
        M, N, dout_rows.stride(0), gate_rows.stride(0), up_rows.stride(0),
        DOUBLE=gate.dtype == torch.float64, **chosen,
    )  # fmt: skip
    return dgate, dup


@_backward.register_fake
def _(dout, gate, up):
    return gate.new_empty(gate.shape), up.new_empty(up.shape)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _autograd(ctx, dout):
    return _backward(dout, *ctx.saved_tensors)


_forward.register_autograd(_autograd, setup_context=_setup_context)


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) · up for gate and up (..., N). Raises ValueError if shapes or (without autocast) dtypes differ."""
    if gate.shape != up.shape or gate.dim() < 1:
        raise ValueError(
            f"swiglu: gate {tuple(gate.shape)} and up {tuple(up.shape)} must have one shape (..., N)"
        )
    if gate.dtype != up.dtype:
        if autocast_dtype(gate) is None:
            raise ValueError(f"swiglu: gate is {gate.dtype} and up is {up.dtype}; give both one dtype")
        common = torch.promote_types(gate.dtype, up.dtype)
        gate, up = gate.to(common), up.to(common)
    if not use_triton("swiglu", gate):
        return swiglu_reference(gate, up)
    return _forward(gate, up)
