"""The RMSNorm kernels against float64: every road through them (narrow, one row, wide), values and gradients."""

from importlib import import_module

import pytest
import torch

import kernels
from tests.kernels.interpreted.conftest import assert_agrees, assert_compiles

module = import_module("kernels.rms_norm")
NARROW = ("_rms_norm_forward_kernel", "_rms_norm_backward_kernel")


def operands(shape, dtype, residual=None, weight_dtype=None):
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    weight = torch.randn(shape[-1], dtype=weight_dtype or dtype, requires_grad=True)
    inputs = [x, weight]
    if residual is not None:
        inputs.append(torch.randn(shape, dtype=residual, requires_grad=True))
    return inputs, [torch.randn(shape, dtype=dtype) for _ in inputs[1:]]


def ours(x, weight, residual=None):
    return kernels.rms_norm(x, weight, 1e-5, residual)


def theirs(x, weight, residual=None):
    return module.rms_norm_reference(x, weight, 1e-5, residual)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1), (1, 48), (37, 48), (2, 3, 130), (70, 1000), (130, 7)])
@pytest.mark.parametrize("with_residual", [False, True])
def test_agrees(dtype, shape, with_residual, launched):
    inputs, upstream = operands(shape, dtype, dtype if with_residual else None)
    assert_agrees(ours, theirs, inputs, upstream)
    launched(*NARROW)


@pytest.mark.parametrize("with_residual", [False, True])
def test_wide_rows(with_residual, launched):
    inputs, upstream = operands((3, 17000), torch.float32, torch.float32 if with_residual else None)
    assert_agrees(ours, theirs, inputs, upstream)
    launched("_rms_norm_forward_kernel", "_rms_norm_backward_wide_kernel")


def test_half_stream_into_float_residual():
    inputs, upstream = operands((5, 48), torch.float16, torch.float32, weight_dtype=torch.float32)
    assert_agrees(ours, theirs, inputs, upstream)


def test_bfloat16_rounds_like_the_reference():
    x, weight = torch.randn(6, 96, dtype=torch.bfloat16), torch.randn(96)
    got, want = ours(x, weight).double(), theirs(x.double(), weight.double())
    torch.testing.assert_close(
        got, want, rtol=2**-7, atol=1e-3
    )  # the interpreter truncates instead of rounding


def test_strided_rows_and_expanded_gradients():
    base = torch.randn(4, 3, 2 * 40, requires_grad=True)
    weight = torch.randn(40, requires_grad=True)
    assert_agrees(
        lambda b, w: ours(b[..., 40:], w).sum(),
        lambda b, w: theirs(b[..., 40:], w).sum(),
        [base, weight],
        [torch.ones(())],
    )
    column = torch.randn(40, 6, requires_grad=True)  # last dimension not dense
    assert_agrees(
        lambda c, w: ours(c.t(), w), lambda c, w: theirs(c.t(), w), [column, weight], [torch.randn(6, 40)]
    )


def test_only_one_output_used():
    inputs, upstream = operands((4, 24), torch.float64, torch.float64)
    for place in (0, 1):
        assert_agrees(
            lambda x, w, r, place=place: ours(x, w, r)[place] + 0 * w,
            lambda x, w, r, place=place: theirs(x, w, r)[place] + 0 * w,
            inputs,
            upstream[:1],
        )


def test_no_rows():
    x, weight = torch.randn(0, 8, requires_grad=True), torch.randn(8, requires_grad=True)
    y = ours(x, weight)
    grads = torch.autograd.grad(y.sum(), (x, weight))
    assert y.shape == (0, 8) and torch.equal(grads[1], torch.zeros(8))


def test_gradcheck_and_opcheck():
    inputs, _ = operands((3, 5), torch.float64, torch.float64)
    assert torch.autograd.gradcheck(ours, inputs)
    assert torch.autograd.gradcheck(ours, inputs[:2])
    torch.library.opcheck(module._forward, (inputs[0], inputs[1], inputs[2], 1e-5))
    torch.library.opcheck(module._forward, (inputs[0], inputs[1], None, 1e-5))


def test_compiled_and_repeated():
    inputs, upstream = operands((19, 33), torch.float32, torch.float32)
    assert_compiles(ours, inputs, upstream)


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("_rms_norm_forward_kernel", "squares / N + EPS", "squares / N"),
        ("_rms_norm_backward_kernel", "dx = (dy - normed *", "dx = (dy + normed *"),
        ("_rms_norm_backward_kernel", "dweight += dy * normed", "dweight = dy * normed"),
        ("_rms_norm_backward_kernel", "if HAS_DS:", "if not HAS_DS:"),
    ],
)
def test_a_broken_kernel_fails(name, old, new, mutate):
    mutate(module, name, old, new)
    inputs, upstream = operands((70, 1000), torch.float32, torch.float32)
    inputs[0].data *= 0.01
    inputs[2].data *= 0.01
    with pytest.raises(AssertionError, match="off by"):
        assert_agrees(ours, theirs, inputs, upstream)
