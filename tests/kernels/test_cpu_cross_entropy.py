"""The C++ output layer and loss compared with the textbook formula in float64."""

from importlib import import_module

import pytest
import torch

import lmfast_kernels
from tests.kernels.cpu_native import (
    assert_like_float64,
    assert_same_with_any_threads,
    assert_same_without_gradients,
    graph_calls,
    needs_library,
)

reference = import_module("lmfast_kernels.linear_cross_entropy").linear_cross_entropy_reference


def losses(function, targets, **options):
    return lambda hidden, weight: function(hidden, weight, targets, **options)[0]


@needs_library
@pytest.mark.parametrize("M, D, vocab", [(1, 8, 3), (30, 24, 50), (1100, 16, 300)])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_agrees_with_float64(M, D, vocab, z_loss):
    targets = torch.randint(0, vocab, (M,))
    targets[::7] = -100
    if M == 1:
        targets[:] = 1
    tensors = [torch.randn(M, D), torch.randn(vocab, D)]
    ours, theirs = (
        losses(f, targets, z_loss=z_loss) for f in (lmfast_kernels.linear_cross_entropy, reference)
    )
    assert_like_float64(ours, theirs, tensors, factor=8.0)
    assert any("cpu_linear_cross_entropy" in name for name in graph_calls(ours, tensors))


@needs_library
def test_without_gradients_only_the_loss_is_computed():
    targets = torch.randint(0, 50, (530,))
    targets[::7] = -100
    tensors = [torch.randn(530, 24), torch.randn(50, 24)]
    ours = losses(lmfast_kernels.linear_cross_entropy, targets, z_loss=1e-2)
    assert_same_without_gradients(ours, tensors, "cpu_linear_cross_entropy")
    _, *grads = torch.ops.lmfast.cpu_linear_cross_entropy(*tensors, targets, -100, 0.0, False)
    assert not any(grad.numel() for grad in grads)


@needs_library
def test_threads_and_a_target_outside():
    targets = torch.randint(0, 90, (600,))
    tensors = [torch.randn(600, 16), torch.randn(90, 16)]
    assert_same_with_any_threads(losses(lmfast_kernels.linear_cross_entropy, targets), tensors)
    targets[5] = 90
    assert losses(lmfast_kernels.linear_cross_entropy, targets)(
        *[x.requires_grad_() for x in tensors]
    ).isnan()
