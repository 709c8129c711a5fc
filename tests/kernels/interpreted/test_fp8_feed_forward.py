"""The kernels that write hidden values and gradients in FP8, compared with PyTorch operations.

They store float32 here: the interpreter halves an e5m2 value that is rounded up to a power of two.
"""

from importlib import import_module

import pytest
import torch

import lmfast_kernels

module = import_module("lmfast_kernels.fp8_feed_forward")


def operands(rows, width, hidden):
    x = torch.randn(rows, width, requires_grad=True)
    up, down = torch.randn(2 * hidden, width) * width**-0.5, torch.randn(width, hidden) * hidden**-0.5
    return x, up.requires_grad_(), down.requires_grad_()


def result(inputs):
    y = lmfast_kernels.feed_forward(*inputs, fp8=True)
    return y.detach(), *torch.autograd.grad(y, inputs, torch.linspace(-1, 1, y.numel()).view(y.shape))


@pytest.mark.parametrize("shape", [(16, 16, 16), (80, 32, 144), (208, 16, 64)])
def test_agrees(shape, launched, monkeypatch):
    both = torch.randn(shape[0], 2 * shape[2])
    dhidden = torch.randn(shape[0], shape[2])
    found = []
    for choice in (True, False):
        with monkeypatch.context() as patched:
            patched.setattr(module, "use_triton", lambda *_, choice=choice: choice)
            patched.setattr(module, "FORMATS", (torch.float32, torch.float32))
            *hidden, bound = module.hidden_to_fp8(both)
            found.append((*hidden, *module.gradient_to_fp8(dhidden, both, bound)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * b.abs().max().item())
    launched("_hidden_kernel", "_gradient_kernel", "_maxima_kernel")


@pytest.mark.parametrize("shape", [(1, 1), (70, 130)])
def test_maxima(shape):
    both = torch.randn(shape[0], 2 * shape[1])
    gate, up = both.chunk(2, 1)
    silu = torch.nn.functional.silu(gate)
    want = torch.stack([(silu * up).abs().max(), silu.abs().max(), up.abs().max()])
    torch.testing.assert_close(module._maxima(both), want, rtol=1e-6, atol=0)
    both[-1, -1] = float("nan")  # of up
    assert module._maxima(both).isnan().tolist() == [True, False, True]
    both[-1, -1] = float("-inf")
    assert module._maxima(both)[2] == float("inf")


def test_in_fp8(monkeypatch):
    inputs = operands(48, 32, 80)
    got = result(inputs)
    monkeypatch.setattr(module, "use_triton", lambda *_: False)
    for a, b in zip(got, result(inputs), strict=True):
        assert (a - b).norm() < 0.15 * b.norm()


def test_compiles():
    inputs = operands(32, 16, 48)
    y = torch.compile(lambda *x: lmfast_kernels.feed_forward(*x, fp8=True), fullgraph=True)(*inputs)
    torch.testing.assert_close(y, lmfast_kernels.feed_forward(*inputs, fp8=True))
    torch.autograd.grad(y.sum(), inputs)
