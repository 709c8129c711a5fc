"""The FP8 feed-forward without CUDA: close to the exact one, the same when compiled, errors."""

import pytest
import torch

import lmfast_kernels
from lmfast_kernels.feed_forward import feed_forward_reference
from lmfast_kernels.fp8_feed_forward import gradient_to_fp8, hidden_to_fp8


def operands(rows=32, width=48, hidden=64):
    x = torch.randn(2, rows, width, requires_grad=True)
    up = torch.randn(2 * hidden, width) * width**-0.5
    down = torch.randn(width, hidden) * hidden**-0.5
    return x, up.requires_grad_(), down.requires_grad_()


def fp8(*inputs):
    return lmfast_kernels.feed_forward(*inputs, fp8=True)


@pytest.mark.parametrize("scale", [1e-9, 1.0])
def test_is_close_to_the_exact_result(scale):
    inputs, dy = operands(), torch.randn(2, 32, 48) * scale
    y, exact = fp8(*inputs), feed_forward_reference(*inputs)
    assert 0 < (y - exact).norm() < 0.08 * exact.norm()
    got, wanted = torch.autograd.grad(y, inputs, dy), torch.autograd.grad(exact, inputs, dy)
    for a, b in zip(got, wanted, strict=True):
        assert (a - b).norm() < 0.12 * b.norm()


def test_gradients_equal_swiglus():
    both = torch.randn(16, 64, dtype=torch.float64, requires_grad=True)
    dhidden = torch.randn(16, 32)
    gate, up = both.chunk(2, 1)
    (wanted,) = torch.autograd.grad(torch.nn.functional.silu(gate) * up, both, dhidden.double())
    both32 = both.detach().float()
    got, across, inverse = gradient_to_fp8(dhidden, both32, hidden_to_fp8(both32)[3])
    assert torch.equal(across.float(), got.float().t())
    # half of e5m2's last bit, or of its smallest value
    assert ((got.double() * inverse - wanted).abs() <= 2.0**-3 * wanted.abs() + 2.0**-17 * inverse).all()


def test_non_finite_values_propagate():
    both = torch.ones(16, 64)
    both[3, 5] = float("inf")
    assert hidden_to_fp8(both)[2].isnan()
    both[3, 5] = float("nan")
    *_, inverse, bound = hidden_to_fp8(both)
    assert inverse.isnan() and gradient_to_fp8(torch.ones(16, 32), both, bound)[2].isnan()
    for bad in (float("inf"), float("nan")):
        dhidden = torch.ones(16, 32)
        dhidden[0, 7] = bad
        assert gradient_to_fp8(dhidden, torch.ones(16, 64), torch.ones(()))[2].isnan()


@pytest.mark.parametrize("size", [0.1, 1.0, 30.0])
def test_no_derivative_exceeds_the_bound(size):
    both = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)) * size
    bound = hidden_to_fp8(both)[3]
    gate = both[:, :64].double().requires_grad_()
    silu = torch.nn.functional.silu(gate)
    (slope,) = torch.autograd.grad(silu.sum(), gate)
    largest = max(silu.abs().max(), (slope * both[:, 64:]).abs().max())
    assert largest <= bound <= 64 * largest  # six powers of two of e5m2's thirty


def test_values_far_below_the_largest_are_kept():
    both = torch.full((16, 32), 1.0)
    both[0] = 100.0
    dhidden = torch.full((16, 16), 2.0**-8)
    dhidden[0, 0] = 1.0
    got, _, inverse = gradient_to_fp8(dhidden, both, hidden_to_fp8(both)[3])
    ordinary = got[5:].float() * inverse
    silu, slope = 0.7310586, 0.9276706  # of 1
    torch.testing.assert_close(ordinary[:, 16:], torch.full((11, 16), 2.0**-8 * silu), rtol=2.0**-3, atol=0)
    torch.testing.assert_close(ordinary[:, :16], torch.full((11, 16), 2.0**-8 * slope), rtol=2.0**-3, atol=0)


def test_compiled_agrees_with_eager():
    inputs = operands()
    results = []
    for function in (fp8, torch.compile(fp8, fullgraph=True)):
        with torch.autocast("cpu", torch.bfloat16):
            y = function(*inputs)
        assert y.dtype == torch.bfloat16
        results.append((y.detach().float(), *torch.autograd.grad(y, inputs, torch.ones_like(y))))
    for a, b in zip(*results, strict=True):
        assert a.dtype == torch.float32 and (a - b).norm() < 1e-2 * b.norm()


def test_rejects_sizes_that_are_not_multiples_of_16():
    for sizes in ({"rows": 12}, {"width": 40}, {"hidden": 72}):
        with pytest.raises(ValueError, match="fp8 needs multiples of 16"):
            fp8(*operands(**sizes))
