"""The SwiGLU kernels compared with float64: values and gradients, including strided halves of one projection."""

from importlib import import_module

import pytest
import torch

import lmfast_kernels
from tests.kernels.interpreted.conftest import assert_agrees, assert_compiles

module = import_module("lmfast_kernels.swiglu")
BOTH = ("_swiglu_forward_kernel", "_swiglu_backward_kernel")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", [(1,), (1, 1), (5, 48), (2, 3, 130), (33, 2100)])
def test_agrees(dtype, shape, launched):
    inputs = [torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(2)]
    assert_agrees(lmfast_kernels.swiglu, module.swiglu_reference, inputs, [torch.randn(shape, dtype=dtype)])
    launched(*BOTH)


def test_halves_of_one_projection_are_not_copied(monkeypatch):
    fused = torch.randn(3, 7, 2 * 33, requires_grad=True)
    copies = []
    monkeypatch.setattr(torch.Tensor, "contiguous", lambda self, *a, **k: copies.append(self) or self.clone())
    out = lmfast_kernels.swiglu(*fused.detach().chunk(2, -1))
    assert not copies
    monkeypatch.undo()
    torch.testing.assert_close(out, module.swiglu_reference(*fused.chunk(2, -1)))
    assert_agrees(
        lambda f: lmfast_kernels.swiglu(*f.chunk(2, -1)).sum(),  # an expanded gradient, too
        lambda f: module.swiglu_reference(*f.chunk(2, -1)).sum(),
        [fused],
        [torch.ones(())],
    )


def test_extremes_stay_finite():
    gate = torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4], requires_grad=True)
    up = torch.ones(5, requires_grad=True)
    out = lmfast_kernels.swiglu(gate, up)
    grads = torch.autograd.grad(out.sum(), (gate, up))
    assert all(x.isfinite().all() for x in (out, *grads))


def test_no_rows():
    gate = torch.randn(0, 8, requires_grad=True)
    assert torch.autograd.grad(lmfast_kernels.swiglu(gate, gate).sum(), gate)[0].shape == (0, 8)


def test_autocast_promotes():
    gate, up = torch.randn(3, 8), torch.randn(3, 8, dtype=torch.float16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = lmfast_kernels.swiglu(gate, up)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, module.swiglu_reference(gate, up.float()))


def test_gradcheck_and_opcheck():
    inputs = [torch.randn(3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lmfast_kernels.swiglu, inputs)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(module._forward, inputs, test_utils=checks)


def test_compiled_and_repeated():
    inputs = [torch.randn(6, 33, requires_grad=True) for _ in range(2)]
    assert_compiles(lmfast_kernels.swiglu, inputs, [torch.randn(6, 33)])


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("_swiglu_forward_kernel", "tl.sigmoid(gate) * up", "tl.sigmoid(up) * up"),
        ("_swiglu_backward_kernel", "(1.0 - sigmoid)", "sigmoid"),
    ],
)
def test_a_broken_kernel_fails(name, old, new, mutate):
    mutate(module, name, old, new)
    inputs = [torch.randn(5, 48, requires_grad=True) for _ in range(2)]
    with pytest.raises(AssertionError, match="off by"):
        assert_agrees(lmfast_kernels.swiglu, module.swiglu_reference, inputs, [torch.randn(5, 48)])
