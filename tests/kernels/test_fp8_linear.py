"""FP8 projections, emulated on the CPU: scales, rounding, gradients, propagation of NaN, errors."""

import pytest
import torch
import torch.nn.functional as F

import lmfast_kernels
from lmfast_kernels.fp8_linear import E4M3, E5M2, fits_fp8, fp8_mm, to_fp8, to_fp8_both

FORMATS = [(E4M3, 2.0**-4), (E5M2, 2.0**-3)]  # with the largest relative rounding of a normal number


def operands(rows=32, width=48, out=64, dtype=torch.float32):
    x = torch.randn(2, rows, width, dtype=dtype, requires_grad=True)
    return x, torch.randn(out, width, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("dtype, rounding", FORMATS)
@pytest.mark.parametrize("size", [1.0, 3e-24, 448.0, 449.0, 57345.0, 1e30])
def test_scales_are_powers_of_two_that_use_the_range(dtype, rounding, size):
    x = torch.linspace(-1, 1, 101) * size
    x8, inverse = to_fp8(x, dtype)
    limit = torch.finfo(dtype).max
    assert inverse.dtype == torch.float32 and torch.frexp(inverse).mantissa == 0.5
    assert limit / 2 <= x8.float().abs().max() <= limit
    close = (x8.float() * inverse - x).abs() <= rounding * x.abs() + 2.0**-9 * inverse
    assert close.all()


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
def test_both_layouts_have_the_same_values(dtype):
    x = torch.randn(48, 80)
    x8, across, inverse = to_fp8_both(x, dtype)
    want, want_inverse = to_fp8(x, dtype)
    assert torch.equal(x8.float(), want.float()) and torch.equal(across.float(), want.float().t())
    assert inverse == want_inverse and across.is_contiguous()


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
def test_zeros_stay_zeros(dtype):
    x8, inverse = to_fp8(torch.zeros(4, 4), dtype)
    assert not x8.float().any() and inverse.isfinite() and inverse > 0


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_non_finite_values_make_the_whole_result_nan(dtype, bad):
    x = torch.ones(16, 16)
    x[3, 5] = bad
    ones = to_fp8(torch.ones(16, 16), E4M3)
    assert fp8_mm(*to_fp8(x, dtype), *ones, torch.float32, fast=True).isnan().all()


def test_a_non_finite_gradient_reaches_both_gradients():
    x, weight = operands()
    dy = torch.zeros(2, 32, 64)
    dy[0, 0, 0] = float("inf")
    for gradient in torch.autograd.grad(lmfast_kernels.fp8_linear(x, weight), (x, weight), dy):
        assert gradient.isnan().all()


def test_equals_the_products_of_the_rounded_operands():
    """The oracle dequantises, then multiplies: y, dx and dweight."""
    x, weight = operands()
    dy = torch.randn(2, 32, 64)

    def rounded(tensor, dtype):
        values, inverse = to_fp8(tensor.detach(), dtype)
        return (values.double() * inverse).requires_grad_()

    y = lmfast_kernels.fp8_linear(x, weight)
    got = torch.autograd.grad(y, (x, weight), dy)
    x8, weight8, dy8 = rounded(x, E4M3), rounded(weight, E4M3), rounded(dy, E5M2)
    torch.testing.assert_close(y, F.linear(x8, weight8).float())
    wanted = torch.autograd.grad(F.linear(x8, weight8), (x8, weight8), dy8)
    torch.testing.assert_close(got, tuple(gradient.float() for gradient in wanted))


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_is_close_to_the_exact_product_at_any_scale(scale):
    x, weight = operands()
    dy = torch.randn(2, 32, 64) * scale
    y, exact = lmfast_kernels.fp8_linear(x, weight), F.linear(x, weight)
    assert (y - exact).norm() < 0.05 * exact.norm()
    got, wanted = torch.autograd.grad(y, (x, weight), dy), torch.autograd.grad(exact, (x, weight), dy)
    for a, b in zip(got, wanted, strict=True):
        assert (a - b).norm() < 0.08 * b.norm()


def test_compiled_equals_eager_to_the_bit():
    x, weight = operands()
    compiled = torch.compile(lmfast_kernels.fp8_linear, fullgraph=True)
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            got, wanted = compiled(x, weight), lmfast_kernels.fp8_linear(x, weight)
        assert got.dtype == (torch.bfloat16 if autocast else torch.float32)
        assert torch.equal(got, wanted)
        dy = torch.randn_like(got)
        pairs = zip(*(torch.autograd.grad(y, (x, weight), dy) for y in (got, wanted)), strict=True)
        assert all(torch.equal(a, b) and a.dtype == torch.float32 for a, b in pairs)


def test_autocast_casts_only_the_output():
    x, weight = operands()
    plain = lmfast_kernels.fp8_linear(x, weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(lmfast_kernels.fp8_linear(x, weight), plain.bfloat16())


def test_gradients_only_where_they_are_needed():
    x, weight = operands()
    lmfast_kernels.fp8_linear(x.detach(), weight).sum().backward()
    assert weight.grad is not None
    weight.grad = None
    lmfast_kernels.fp8_linear(x, weight.detach()).sum().backward()
    assert weight.grad is None and x.grad is not None


def test_twice_differentiated_is_an_error():
    x, weight = operands()
    (dx,) = torch.autograd.grad(lmfast_kernels.fp8_linear(x, weight).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


def test_no_rows():
    x, weight = operands(rows=0)
    y = lmfast_kernels.fp8_linear(x, weight)
    assert y.shape == (2, 0, 64)
    y.sum().backward()
    assert not weight.grad.any()


def test_rejects_inconsistent_arguments():
    assert fits_fp8(16, 48) and not fits_fp8(16, 40)
    with pytest.raises(ValueError, match=r"weight \(64, 48\) must be \(N, K\) for x \(2, 3\)"):
        lmfast_kernels.fp8_linear(torch.zeros(2, 3), torch.zeros(64, 48))
    for rows, shape in ((8, (64, 48)), (16, (60, 48)), (16, (64, 40))):
        with pytest.raises(ValueError, match="must be multiples of 16; use linear"):
            lmfast_kernels.fp8_linear(torch.zeros(rows, shape[1]), torch.zeros(shape))
