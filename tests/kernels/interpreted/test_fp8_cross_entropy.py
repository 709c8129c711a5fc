"""The kernels of the FP8 loss compared with the reference: several chunks and groups, ignored tokens, softcap, z-loss."""

from importlib import import_module

import pytest
import torch

import lmfast_kernels

module = import_module("lmfast_kernels.fp8_cross_entropy")


def operands(rows, width, vocab):
    hidden = torch.randn(rows, width, requires_grad=True)
    weight = torch.randn(vocab, width, requires_grad=True)
    targets = torch.randint(0, vocab, (rows,))
    targets[1::4] = -100
    return hidden, weight, targets


def result(inputs, **options):
    loss, _ = lmfast_kernels.linear_cross_entropy(*inputs, fp8=True, **options)
    return loss.detach(), *torch.autograd.grad(0.5 * loss, inputs[:2])


def compare(inputs, tolerance, monkeypatch, **options):
    got = result(inputs, **options)
    with monkeypatch.context() as patched:
        patched.setattr(module, "use_triton", lambda *_: False)
        wanted = result(inputs, **options)
    torch.testing.assert_close(got[0], wanted[0], rtol=1e-6, atol=1e-5)
    for a, b in zip(got[1:], wanted[1:], strict=True):
        assert (a - b).norm() < tolerance * b.norm()


@pytest.mark.parametrize("shape", [(16, 16, 32), (400, 32, 144), (32, 16, 4112)])
@pytest.mark.parametrize(
    "options", [{}, {"softcap": 2.0, "z_loss": 0.1}], ids=["plain", "softcap and z-loss"]
)
@pytest.mark.parametrize("small", [False, True], ids=["one chunk", "chunks of a tile"])
def test_agrees(shape, options, small, launched, monkeypatch):
    """With dlogits in float32, because the interpreter halves an e5m2 value that is rounded up to a power of two."""
    monkeypatch.setattr(module, "E5M2", torch.float32)
    if small:
        monkeypatch.setattr(module, "LOGITS_BYTES", 1)
        monkeypatch.setattr(module, "DLOGITS_BYTES", 2 * module.TILE * shape[2])
    compare(operands(*shape), 1e-5, monkeypatch, **options)
    launched("_row_kernel", "_dlogits_kernel")


def test_dlogits_in_fp8(monkeypatch):
    compare(operands(48, 16, 64), 0.08, monkeypatch)


def test_compiles():
    inputs = operands(32, 16, 48)
    compiled = torch.compile(lambda *x: lmfast_kernels.linear_cross_entropy(*x, fp8=True)[0], fullgraph=True)
    loss = compiled(*inputs)
    torch.testing.assert_close(
        (loss.detach(), *torch.autograd.grad(0.5 * loss, inputs[:2])), result(inputs), rtol=1e-3, atol=1e-3
    )


def test_an_invalid_id_gives_nan():
    hidden, weight, targets = operands(16, 16, 32)
    targets[0] = 32
    assert lmfast_kernels.linear_cross_entropy(hidden, weight, targets, fp8=True)[0].isnan()


def test_rows_within():
    assert module.rows_within(64 * 2**20, 65536, 2 * 32000) == 1024
    assert module.rows_within(512 * 2**20, 65536, 32000) == 16768
    assert module.rows_within(2**40, 48, 10) == 48
    assert module.rows_within(1, 1000, 10) == 128
