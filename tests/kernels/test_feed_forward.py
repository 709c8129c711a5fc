"""The C++ feed-forward compared with its three operators in float64."""

import pytest
import torch

import lmfast_kernels
from lmfast_kernels.feed_forward import feed_forward_reference
from tests.kernels.cpu_native import (
    assert_like_float64,
    assert_same_with_any_threads,
    assert_same_without_gradients,
    graph_calls,
    needs_library,
)


def operands(M, D, hidden):
    return [torch.randn(M, D), torch.randn(2 * hidden, D) / D**0.5, torch.randn(D, hidden) / hidden**0.5]


@needs_library
@pytest.mark.parametrize("M, D, hidden", [(1, 8, 8), (70, 32, 24), (57, 20, 37), (1100, 32, 64)])
def test_agrees_with_float64(M, D, hidden):
    assert_like_float64(lmfast_kernels.feed_forward, feed_forward_reference, operands(M, D, hidden))


@needs_library
def test_threads_and_graph():
    assert_same_with_any_threads(lmfast_kernels.feed_forward, operands(600, 32, 48))
    assert any(
        "cpu_feed_forward" in name for name in graph_calls(lmfast_kernels.feed_forward, operands(9, 8, 8))
    )


@needs_library
def test_without_gradients_nothing_is_saved():
    tensors = operands(70, 20, 37)
    assert_same_without_gradients(lmfast_kernels.feed_forward, tensors, "cpu_feed_forward")
    assert not torch.ops.lmfast.cpu_feed_forward(*tensors, False)[1].numel()
    tensors[0] = tensors[0][:8]
    with torch.no_grad():  # too few rows
        assert torch.equal(lmfast_kernels.feed_forward(*tensors), feed_forward_reference(*tensors))


@needs_library
def test_infinite_gates_are_finite_if_the_reference_is():
    x, up, down = operands(3, 8, 8)
    for scale in (1e4, -1e4):
        got = lmfast_kernels.feed_forward((x * scale).requires_grad_(), up, down)
        torch.testing.assert_close(got, feed_forward_reference(x * scale, up, down), rtol=1e-4, atol=1.0)


def test_rejects():
    with pytest.raises(ValueError, match=r"must be \(2F, D\)"):
        lmfast_kernels.feed_forward(torch.zeros(2, 8), torch.zeros(10, 8), torch.zeros(8, 6))


def test_without_hidden_values_results_are_zero():
    left_behind = [torch.full((12,), 7.0) for _ in range(20)]
    del left_behind  # memory that is not written would contain sevens
    x, up, down = (torch.ones(shape, requires_grad=True) for shape in ((3, 4), (0, 4), (4, 0)))
    y = lmfast_kernels.feed_forward(x, up, down)
    y.sum().backward()
    assert y.shape == (3, 4) and not y.any() and not x.grad.any()
