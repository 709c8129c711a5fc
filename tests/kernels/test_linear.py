"""The C++ projection compared with float64, at sizes that are not multiples of a tile."""

import pytest
import torch
import torch.nn.functional as F

import lmfast_kernels
from tests.kernels.cpu_native import (
    assert_like_float64,
    assert_same_with_any_threads,
    assert_same_without_gradients,
    graph_calls,
    needs_library,
)


@needs_library
@pytest.mark.parametrize("M, K, N", [(1, 1, 1), (15, 16, 32), (77, 35, 51), (130, 600, 100), (600, 64, 257)])
def test_agrees_with_float64(M, K, N):
    assert_like_float64(lmfast_kernels.linear, F.linear, [torch.randn(M, K), torch.randn(N, K)])


@needs_library
def test_any_strides_and_threads():
    x, weight = torch.randn(3, 40, 60).transpose(1, 2), torch.randn(48, 40)
    assert_like_float64(lmfast_kernels.linear, F.linear, [x, weight])
    assert_same_with_any_threads(lmfast_kernels.linear, [x, weight])


@needs_library
def test_float32_with_gradients_or_many_rows_uses_our_products():
    tensors = [torch.randn(4, 8), torch.randn(6, 8)]
    assert any("cpu_linear" in name for name in graph_calls(lmfast_kernels.linear, tensors))
    assert not any(
        "cpu_linear" in name for name in graph_calls(lmfast_kernels.linear, [x.double() for x in tensors])
    )
    with torch.no_grad():  # too few rows
        assert torch.equal(lmfast_kernels.linear(*tensors), F.linear(*tensors))
        assert not any("cpu_linear" in name for name in graph_calls(lmfast_kernels.linear, tensors))
    tensors[0] = torch.randn(2, 512, 8)
    assert_same_without_gradients(lmfast_kernels.linear, tensors, "cpu_linear")


def test_empty_input_and_errors():
    x = torch.zeros(0, 8, requires_grad=True)
    weight = torch.randn(6, 8, requires_grad=True)
    y = lmfast_kernels.linear(x, weight)
    y.sum().backward()
    assert y.shape == (0, 6) and not weight.grad.any()
    with pytest.raises(ValueError, match=r"must be \(N, K\)"):
        lmfast_kernels.linear(torch.zeros(2, 3), torch.zeros(4, 5))


@pytest.mark.parametrize("M, K, N", [(3, 0, 5), (3, 4, 0), (0, 4, 5)])
def test_empty_sums_are_zero(M, K, N):
    left_behind = [torch.full((20,), 7.0) for _ in range(20)]
    del left_behind  # memory that is not written would contain sevens
    x, weight = torch.ones(M, K, requires_grad=True), torch.ones(N, K, requires_grad=True)
    y = lmfast_kernels.linear(x, weight)
    y.sum().backward()
    assert y.shape == (M, N) and not y.any()
    assert x.grad.shape == x.shape and not x.grad.any() and not weight.grad.any()
