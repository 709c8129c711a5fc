"""RMSNorm without CUDA: PyTorch's result, the documented cast order, error messages."""

import pytest
import torch
import torch.nn.functional as F

import lmfast_kernels


def test_equals_pytorch():
    x, weight = torch.randn(3, 5, 24), torch.randn(24)
    torch.testing.assert_close(lmfast_kernels.rms_norm(x, weight, 1e-6), F.rms_norm(x, (24,), weight, 1e-6))


def test_residual_is_added_first():
    x, residual, weight = torch.randn(4, 24), torch.randn(4, 24), torch.randn(24)
    y, s = lmfast_kernels.rms_norm(x, weight, residual=residual)
    assert torch.equal(s, x + residual)
    assert torch.equal(y, lmfast_kernels.rms_norm(x + residual, weight))


def test_rounds_once_at_the_end():
    x, weight = torch.randn(64, 48).bfloat16(), torch.randn(48)
    y = lmfast_kernels.rms_norm(x, weight)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, F.rms_norm(x.float(), (48,), weight, 1e-5).bfloat16())


def test_dtypes_of_a_float_stream_under_autocast():
    x, residual, weight = torch.randn(4, 8).bfloat16(), torch.randn(4, 8), torch.ones(8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, s = lmfast_kernels.rms_norm(x, weight, residual=residual)
    assert (y.dtype, s.dtype) == (torch.bfloat16, torch.float32)


def test_gradcheck():
    x, weight, residual = (
        torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((3, 5), 5, (3, 5))
    )
    assert torch.autograd.gradcheck(
        lambda *a: lmfast_kernels.rms_norm(a[0], a[1], residual=a[2]), (x, weight, residual)
    )


def test_compiles_to_plain_operations(assert_plain):
    assert_plain(lambda x, w: lmfast_kernels.rms_norm(x, w, residual=x), torch.randn(4, 8), torch.randn(8))


@pytest.mark.parametrize(
    "x, weight, residual, message",
    [
        ((4, 8), (9,), None, r"weight \(9,\) must be \(N,\) for x \(4, 8\)"),
        ((4, 8), (8,), (4, 9), r"residual \(4, 9\) must have x's shape"),
        ((1, 65537), (65537,), None, "outside 1 to 65536"),
    ],
)
def test_rejects(x, weight, residual, message):
    residual = None if residual is None else torch.zeros(residual)
    with pytest.raises(ValueError, match=message):
        lmfast_kernels.rms_norm(torch.zeros(x), torch.zeros(weight), residual=residual)
