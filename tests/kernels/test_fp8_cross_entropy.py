"""The FP8 output loss without CUDA: close to the exact loss, the same when compiled, errors."""

import pytest
import torch

import lmfast_kernels

OPTIONS = [{}, {"softcap": 3.0, "z_loss": 0.01}]


def operands(rows=64, width=48, vocab=80):
    hidden = torch.randn(rows, width, requires_grad=True)
    weight = torch.randn(vocab, width, requires_grad=True)
    targets = torch.randint(0, vocab, (rows,))
    targets[::5] = -100
    return hidden, weight, targets


@pytest.mark.parametrize("options", OPTIONS)
def test_is_close_to_the_exact_loss(options):
    hidden, weight, targets = operands()
    loss, count = lmfast_kernels.linear_cross_entropy(hidden, weight, targets, fp8=True, **options)
    exact, exact_count = lmfast_kernels.linear_cross_entropy(hidden, weight, targets, **options)
    assert count == exact_count and 0 < abs(loss - exact) < 0.01 * exact
    got = torch.autograd.grad(0.5 * loss, (hidden, weight))
    wanted = torch.autograd.grad(0.5 * exact, (hidden, weight))
    for a, b in zip(got, wanted, strict=True):
        assert (a - b).norm() < 0.1 * b.norm()


@pytest.mark.parametrize("autocast", [False, True])
def test_compiled_agrees_with_eager(autocast):
    inputs = operands()

    def loss(*inputs):
        return lmfast_kernels.linear_cross_entropy(*inputs, fp8=True)[0]

    results = []
    for function in (loss, torch.compile(loss, fullgraph=True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = function(*inputs)
        results.append((out.detach(), *torch.autograd.grad(out, inputs[:2])))
    # Under autocast, versions of Inductor round to bfloat16 in other places, which moves some values to the next FP8 number.
    for eager, compiled in zip(*results, strict=True):
        assert (compiled - eager).norm() <= (0.05 if autocast else 1e-3) * eager.norm()


def test_without_gradients_it_is_the_exact_loss():
    inputs = operands()
    with torch.no_grad():
        got, want = (lmfast_kernels.linear_cross_entropy(*inputs, fp8=fp8)[0] for fp8 in (True, False))
    assert torch.equal(got, want)


def test_non_finite_values_propagate():
    hidden, weight, targets = operands()
    bad = hidden.detach().clone()
    bad[7, 3] = float("inf")
    bad.requires_grad_()
    loss, _ = lmfast_kernels.linear_cross_entropy(bad, weight, targets, fp8=True)
    assert loss.isnan()
    assert all(gradient.isnan().any() for gradient in torch.autograd.grad(loss, (bad, weight)))


def test_rejects_sizes_that_are_not_multiples_of_16():
    for sizes in ({"rows": 63}, {"width": 40}, {"vocab": 81}):
        with pytest.raises(ValueError, match="fp8 needs multiples of 16"):
            lmfast_kernels.linear_cross_entropy(*operands(**sizes), fp8=True)
