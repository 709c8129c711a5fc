"""The products of decoding, with and without a norm or SwiGLU, compared with float64 and with the operators."""

from importlib import import_module

import pytest
import torch

import lmfast_kernels
from lmfast_kernels.tuning import use_config

module = import_module("lmfast_kernels.decode_linear")
SHAPES = [(1, 48, 40), (2, 64, 17), (3, 37, 13), (4, 1, 3), (1, 5000, 5)]  # rows, K, N


def operands(rows, k, n, dtype=torch.float32):
    """x, norm weight, weight, residual, gate and up."""
    shapes = (rows, 1, k), (k,), (n, k), (rows, 1, k), (rows, 1, 2 * k)
    x, norm, weight, residual, both = (torch.randn(shape) for shape in shapes)
    weight *= k**-0.5
    return [x.to(dtype), norm, weight.to(dtype), residual.to(dtype), both.to(dtype)]


def unfused(x, norm, weight, residual, both):
    """The results of the operators, in the order of `fused`."""
    normed, s = lmfast_kernels.rms_norm(x, norm, 1e-5, residual)
    hidden = lmfast_kernels.swiglu(*both.chunk(2, -1))
    alone = lmfast_kernels.rms_norm(x, norm, 1e-5)
    return s, *(t @ weight.t() for t in (x, normed, alone, hidden))


def fused(x, norm, weight, residual, both):
    y, s = lmfast_kernels.decode_norm_linear(x, norm, weight, 1e-5, residual)
    alone, same = lmfast_kernels.decode_norm_linear(x, norm, weight, 1e-5)
    assert same is x
    return (
        s,
        lmfast_kernels.decode_linear(x, weight),
        y,
        alone,
        lmfast_kernels.decode_swiglu_linear(both, weight),
    )


def assert_correct(inputs):
    """Equal to the operators up to the last digits, and not further from float64, because they round at the same points."""
    got, theirs = fused(*inputs), unfused(*inputs)
    exact = unfused(*(x.double() for x in inputs))
    assert torch.equal(got[0], theirs[0]), "the sum is off by something"
    for i, (a, b, c) in enumerate(zip(got, theirs, exact, strict=True)):
        assert a.dtype == b.dtype and a.shape == b.shape and a.is_contiguous()
        slack = 8 * torch.finfo(a.dtype).eps * c.abs().max().clamp(min=1)
        error, allowed = (a - c).abs().max(), 2 * (b - c).abs().max() + slack
        assert error <= allowed, f"result {i} is off by {error:.3g}, allowed {allowed:.3g}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees(shape, dtype, launched):
    assert_correct(operands(*shape, dtype=dtype))
    launched("_decode_linear_kernel")


def test_rounds_where_the_operators_do():
    """With weights that select single values there are no sums whose order could differ, so results are bitwise equal."""
    x, norm, _, residual, both = operands(2, 24, 1, torch.float16)
    inputs = [x, norm, torch.eye(24).half(), residual, both]
    for i, (a, b) in enumerate(zip(fused(*inputs), unfused(*inputs), strict=True)):
        assert torch.equal(a, b), i


def test_strided_inputs():
    x, norm, weight, residual, both = operands(3, 20, 9)
    x = torch.stack([x, -x], -1)[..., 0]  # last dimension not dense
    residual = torch.cat([residual, residual], -1)[..., 20:]
    weight, norm = torch.cat([weight, weight], 1)[:, 20:], torch.stack([norm, norm], 1)[:, 0]
    assert_correct([x, norm, weight, residual, both])
    assert_correct([x, norm, weight.t().contiguous().t(), residual, both])


@pytest.mark.parametrize("candidate", [{"BLOCK_N": 2}, {"BLOCK_N": 16, "BLOCK_K": 16}])
def test_any_tile(candidate):
    with use_config("decode_linear", **candidate):
        assert_correct(operands(2, 40, 11))


@pytest.mark.parametrize(
    "rows, dtypes, grad",
    [
        (5, (torch.float32, torch.float32), False),
        (0, (torch.float32, torch.float32), False),
        (1, (torch.float32, torch.float32), True),
    ],
)
def test_other_inputs_use_the_operators(rows, dtypes, grad, monkeypatch):
    monkeypatch.setattr(module, "_product", None)
    x, norm, weight, residual, both = operands(rows, 8, 6)
    inputs = [x, norm, weight.requires_grad_(grad), residual, both]
    for a, b in zip(fused(*inputs), unfused(*inputs), strict=True):
        torch.testing.assert_close(a, b)
        assert not grad or a.requires_grad or a.shape == x.shape


def test_mixed_dtypes_and_autocast():
    x, _, weight, *_ = operands(1, 8, 6)
    assert not module._fits(weight, x.half()) and not module._fits(weight, x, x.half())
    with torch.autocast("cpu", torch.bfloat16):
        assert not module._fits(weight, x)
        assert module._fits(weight.bfloat16(), x.bfloat16())
        assert lmfast_kernels.decode_linear(x, weight).dtype == torch.bfloat16


def test_no_columns():
    x, _, weight, *_ = operands(1, 8, 6)
    assert lmfast_kernels.decode_linear(x, weight[:0]).shape == (1, 1, 0)


def test_one_graph_and_no_graph_agree():
    inputs = operands(2, 20, 6)
    compiled = torch.compile(fused, fullgraph=True, dynamic=False)(*inputs)
    for a, b in zip(compiled, fused(*inputs), strict=True):
        assert torch.equal(a, b)


def test_opcheck():
    x, norm, weight, residual, both = operands(2, 12, 5)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    for arguments in ((x, weight, norm, residual, 1e-5, False), (both, weight, None, None, 0.0, True)):
        torch.library.opcheck(module._product, arguments, test_utils=checks)


@pytest.mark.parametrize(
    "kernel, old, new",
    [
        ("_decode_linear_kernel", "squares / K + EPS", "squares / K + 0.01"),
        ("_decode_linear_kernel", "tl.program_id(0) == 0)", "tl.program_id(0) == 1000)"),
        ("_decode_linear_kernel", "total += tl.sum", "total = tl.sum"),
        ("_input", "tl.sigmoid(x)", "tl.sigmoid(x + 0.01)"),
    ],
)
def test_a_broken_kernel_fails(kernel, old, new, mutate):
    mutate(module, kernel, old, new)
    if kernel == "_input":  # the other kernel finds the broken copy by its name in this module
        mutate(module, "_decode_linear_kernel", "total", "total")
    with pytest.raises(AssertionError, match="off by"), use_config("decode_linear", BLOCK_K=16):
        assert_correct(operands(2, 40, 8))
