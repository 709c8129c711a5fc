"""The products of decoding without CUDA: equal to the separate operators, one compiled graph, gradients, errors."""

import pytest
import torch
import torch.nn.functional as F

import lmfast_kernels


def operands(rows=2, k=8, n=6):
    """x, norm weight, weight, residual."""
    return [torch.randn(shape) for shape in ((rows, 1, k), (k,), (n, k), (rows, 1, k))]


def test_results_equal_the_operators():
    x, norm, weight, residual = operands()
    assert torch.equal(lmfast_kernels.decode_linear(x, weight), F.linear(x, weight))
    y, s = lmfast_kernels.decode_norm_linear(x, norm, weight, 1e-5, residual)
    assert torch.equal(y, F.linear(lmfast_kernels.rms_norm(x + residual, norm, 1e-5), weight))
    assert torch.equal(s, x + residual)
    y, s = lmfast_kernels.decode_norm_linear(x, norm, weight, 1e-3)
    assert torch.equal(y, F.linear(lmfast_kernels.rms_norm(x, norm, 1e-3), weight)) and s is x
    both = torch.cat([x, residual], -1)
    assert torch.equal(
        lmfast_kernels.decode_swiglu_linear(both, weight),
        F.linear(lmfast_kernels.swiglu(x, residual), weight),
    )


def test_gradients_equal_the_operators():
    x, norm, weight, residual = (t.requires_grad_() for t in operands())
    y, _ = lmfast_kernels.decode_norm_linear(x, norm, weight, 1e-5, residual)
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(y.square().sum(), (x, norm, weight, residual)))


def test_compile_to_plain_operations(assert_plain):
    x, norm, weight, residual = operands()
    assert_plain(lmfast_kernels.decode_linear, x, weight)
    assert_plain(lmfast_kernels.decode_norm_linear, x, norm, weight, 1e-5, residual)
    assert_plain(lmfast_kernels.decode_swiglu_linear, torch.cat([x, x], -1), weight)


def test_errors():
    x, norm, weight, residual = operands()
    with pytest.raises(
        ValueError, match=r"decode_linear: weight \(6, 8\) must be \(N, K\) for x \(2, 1, 7\)"
    ):
        lmfast_kernels.decode_linear(x[..., 1:], weight)
    with pytest.raises(ValueError, match=r"decode_swiglu_linear: .* for x \(2, 1, 8\) = \(\.\.\., 2K\)"):
        lmfast_kernels.decode_swiglu_linear(x, weight)
    with pytest.raises(ValueError, match=r"decode_norm_linear: .* not \(7,\)"):
        lmfast_kernels.decode_norm_linear(x, norm[1:], weight, 1e-5, residual)
    with pytest.raises(ValueError, match=r"residual like x \(2, 1, 8\) = \(\.\.\., K\), not \(1, 1, 8\)"):
        lmfast_kernels.decode_norm_linear(x, norm, weight, 1e-5, residual[:1])
