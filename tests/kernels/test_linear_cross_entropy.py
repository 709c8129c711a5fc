"""The output loss without CUDA: equal to the cross-entropy of all logits, computed in chunks."""

from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import lmfast_kernels
from tests.kernels.large_logits import assert_large_logits

module = import_module("lmfast_kernels.linear_cross_entropy")


def operands(rows=12, width=8, vocab=30, dtype=torch.float32):
    hidden = torch.randn(rows, width, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocab, width, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, vocab, (rows,))
    targets[::5] = -100
    return hidden, weight, targets


def test_equals_pytorch():
    hidden, weight, targets = operands()
    loss, count = lmfast_kernels.linear_cross_entropy(hidden, weight, targets)
    want = F.cross_entropy(hidden @ weight.t(), targets, reduction="sum")
    torch.testing.assert_close(loss, want)
    assert count.item() == (targets != -100).sum()
    grads, wanted = torch.autograd.grad(loss, (hidden, weight)), torch.autograd.grad(want, (hidden, weight))
    torch.testing.assert_close(grads, wanted)


@pytest.mark.parametrize("options", [{}, {"softcap": 2.0}, {"z_loss": 0.1}, {"softcap": 3.0, "z_loss": 0.01}])
@pytest.mark.parametrize("chunk_bytes", [1, 4 * 30 * 5, 2**30])
def test_chunks_equal_the_reference(options, chunk_bytes, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk_bytes)
    hidden, weight, targets = operands(dtype=torch.float64)
    loss, _ = lmfast_kernels.linear_cross_entropy(hidden, weight, targets, **options)
    want, _ = module.linear_cross_entropy_reference(hidden, weight, targets, **options)
    torch.testing.assert_close(loss, want)
    grads, wanted = (
        torch.autograd.grad(3 * loss, (hidden, weight)),
        torch.autograd.grad(3 * want, (hidden, weight)),
    )
    torch.testing.assert_close(grads, wanted)


@pytest.mark.parametrize("mode", ["auto", "torch"])
@pytest.mark.parametrize("offset", [100.0, 1e4, -1e4])
@pytest.mark.parametrize("z_loss", [0.0, 0.01])
def test_large_logits_have_accurate_gradients(offset, z_loss, mode, monkeypatch):
    """`auto` is the C++ operator if this CPU supports it, `torch` the chunks of PyTorch operations."""
    monkeypatch.setattr(lmfast_kernels.backend, "MODE", mode)
    assert_large_logits(offset, z_loss)


@pytest.mark.parametrize("softcap", [None, 30.0])
def test_a_scaled_half_gradient_overflows_to_infinity(softcap):
    """A GradScaler then skips the step; finite values are correct, and none becomes NaN."""
    hidden, weight, targets = operands(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.float16):
        half = hidden.detach().half().requires_grad_()
        loss, _ = lmfast_kernels.linear_cross_entropy(half, weight, targets, softcap=softcap)
    plain = torch.autograd.grad(loss, half, retain_graph=True)[0].double()
    scaled = torch.autograd.grad(loss * 2.0**16, half)[0].double()
    assert scaled.isinf().any() and scaled.isfinite().any() and not scaled.isnan().any()
    wanted = plain * 2.0**16
    assert torch.equal(scaled.isinf(), wanted.abs() >= 65520)
    torch.testing.assert_close(scaled[scaled.isfinite()], wanted[scaled.isfinite()], rtol=1e-3, atol=0)


def test_gradcheck():
    hidden, weight, targets = operands(4, 3, 5, torch.float64)
    assert torch.autograd.gradcheck(
        lambda h, w: lmfast_kernels.linear_cross_entropy(h, w, targets, softcap=2.0, z_loss=0.1)[0],
        (hidden, weight),
    )


class LargestTensor(TorchDispatchMode):
    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, torch.Tensor):
                self.elements = max(self.elements, x.numel())
        return out


def test_never_stores_all_logits():
    hidden, weight, targets = operands(4096, 8, 1024)
    with LargestTensor() as seen:
        lmfast_kernels.linear_cross_entropy(hidden, weight, targets)[0].backward()
    assert seen.elements <= module.CHUNK_BYTES // 4 < 4096 * 1024


def test_no_gradient_and_frozen_weights():
    hidden, weight, targets = operands()
    want = lmfast_kernels.linear_cross_entropy(hidden, weight, targets)[0]
    with torch.no_grad():
        loss, _ = lmfast_kernels.linear_cross_entropy(hidden, weight, targets)
    assert not loss.requires_grad and torch.equal(loss, want)
    frozen, _ = lmfast_kernels.linear_cross_entropy(hidden, weight.detach(), targets)
    torch.testing.assert_close(torch.autograd.grad(frozen, hidden), torch.autograd.grad(want, hidden))


def test_ignore_index_may_be_a_token():
    hidden, weight, targets = operands()
    targets[0] = 7
    loss, count = lmfast_kernels.linear_cross_entropy(hidden, weight, targets.clamp(min=0), ignore_index=7)
    assert count.item() == (targets.clamp(min=0) != 7).sum() and loss.isfinite()


def test_no_tokens():
    hidden, weight = torch.zeros(0, 8, requires_grad=True), torch.zeros(9, 8, requires_grad=True)
    loss, count = lmfast_kernels.linear_cross_entropy(hidden, weight, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0 and count.item() == 0 and not weight.grad.any()


def test_autocast_casts_only_the_products():
    hidden, weight, targets = operands()
    want = torch.autograd.grad(
        lmfast_kernels.linear_cross_entropy(hidden, weight, targets)[0], (hidden, weight)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = lmfast_kernels.linear_cross_entropy(hidden.bfloat16(), weight, targets)
    grads = torch.autograd.grad(loss, (hidden, weight))
    assert loss.dtype == grads[1].dtype == torch.float32
    for a, b in zip(grads, want):
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.05)


def test_compiles_to_plain_operations(assert_plain):
    hidden, weight, targets = operands()
    assert_plain(
        lambda h, w: lmfast_kernels.linear_cross_entropy(h, w, targets)[0], hidden.detach(), weight.detach()
    )
    compiled = torch.compile(lmfast_kernels.linear_cross_entropy, fullgraph=True)
    got = torch.autograd.grad(compiled(hidden, weight, targets)[0], (hidden, weight))
    want = torch.autograd.grad(
        lmfast_kernels.linear_cross_entropy(hidden, weight, targets)[0], (hidden, weight)
    )
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    "hidden, weight, targets, options, message",
    [
        ((3, 8), (5, 9), torch.zeros(3).long(), {}, r"must be \(..., D\)"),
        ((3, 8), (5, 8), torch.zeros(4).long(), {}, r"must be integers of shape \(3,\)"),
        ((3, 8), (5, 8), torch.zeros(3), {}, r"must be integers of shape \(3,\)"),
        ((3, 8), (5, 8), torch.zeros(3).long(), {"softcap": 0.0}, "softcap 0.0 must be positive"),
    ],
)
def test_rejects(hidden, weight, targets, options, message):
    with pytest.raises(ValueError, match=message):
        lmfast_kernels.linear_cross_entropy(torch.zeros(hidden), torch.zeros(weight), targets, **options)


@pytest.mark.parametrize("mode", ["auto", "torch"])
def test_a_second_derivative_is_an_error(mode, monkeypatch):
    """The gradients are computed in the forward and constants to autograd, so a second derivative would be wrong."""
    monkeypatch.setattr(lmfast_kernels.backend, "MODE", mode)
    hidden, weight, targets = operands()
    loss = lmfast_kernels.linear_cross_entropy(hidden, weight, targets)[0].square()
    grads = torch.autograd.grad(loss, (hidden, weight), create_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        sum(g.square().sum() for g in grads).backward()
