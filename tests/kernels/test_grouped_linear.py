"""Grouped products compared with a loop over F.linear."""

import sys

import pytest
import torch

import lmfast_kernels
from lmfast_kernels.grouped_linear import grouped_linear_reference
from tests.kernels.cpu_native import assert_like_float64, graph_calls, needs_library

MODULE = sys.modules["lmfast_kernels.grouped_linear"]
SIZES = [[3, 0, 7, 1], [0, 0, 5, 0], [40, 24, 90, 6]]


def make(sizes, K=20, N=35):
    ends = torch.tensor(sizes).cumsum(0).int()
    return [torch.randn(sum(sizes), K), torch.randn(len(sizes), N, K)], ends


@needs_library
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_agrees_with_float64(sizes):
    tensors, ends = make(sizes)
    assert_like_float64(
        lambda x, weight: lmfast_kernels.grouped_linear(x, weight, ends),
        lambda x, weight: grouped_linear_reference(x, weight, ends),
        tensors,
    )


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_use_pytorchs_products(sizes, dtype):
    tensors, ends = make(sizes)
    inputs = [x.to(dtype).requires_grad_() for x in tensors]
    ours, plain = lmfast_kernels.grouped_linear(*inputs, ends), grouped_linear_reference(*inputs, ends)
    torch.testing.assert_close(ours, plain)
    upstream = torch.randn_like(ours)
    for a, b in zip(*(torch.autograd.grad(y, inputs, upstream) for y in (ours, plain)), strict=True):
        torch.testing.assert_close(a, b)


def test_autocast_casts_both_like_linear():
    (x, weight), ends = make([3, 0, 7, 1])
    with torch.autocast("cpu", torch.bfloat16):
        y = lmfast_kernels.grouped_linear(x, weight, ends)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, grouped_linear_reference(x.bfloat16(), weight.bfloat16(), ends))


@needs_library
def test_few_rows_without_a_gradient_use_pytorchs_products():
    (x, weight), ends = make([3, 0, 7, 1])
    assert torch.equal(
        lmfast_kernels.grouped_linear(x, weight, ends), grouped_linear_reference(x, weight, ends)
    )


def test_other_sizes_of_the_groups_do_not_recompile():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    function = torch.compile(lmfast_kernels.grouped_linear, fullgraph=True, dynamic=False, backend=backend)
    for sizes in ([3, 0, 7, 1], [0, 11, 0, 0], [2, 3, 3, 3]):
        tensors, ends = make(sizes)
        inputs = [x.requires_grad_() for x in tensors]
        torch.testing.assert_close(function(*inputs, ends), grouped_linear_reference(*inputs, ends))
    assert len(graphs) == 1


def test_operator_registration():
    (x, weight), ends = make([2, 0, 3], 4, 6)
    inputs = (x.requires_grad_(), weight.requires_grad_(), ends, True)
    torch.library.opcheck(torch.ops.lmfast.grouped_linear.default, inputs)


def test_on_cuda_in_bfloat16_torchs_kernel_is_called(monkeypatch):
    """Its values and gradients on the CPU, where PyTorch runs a loop, are those of ours."""
    assert not MODULE.uses_grouped_mm(*make([3, 0, 7, 1], 16, 24)[0])
    monkeypatch.setattr(MODULE, "uses_grouped_mm", lambda x, weight: True)
    tensors, ends = make([3, 0, 7, 1], 16, 24)
    inputs = [x.bfloat16().requires_grad_() for x in tensors]
    theirs, plain = lmfast_kernels.grouped_linear(*inputs, ends), grouped_linear_reference(*inputs, ends)
    torch.testing.assert_close(theirs, plain)
    upstream = torch.randn_like(theirs)
    for a, b in zip(*(torch.autograd.grad(y, inputs, upstream) for y in (theirs, plain)), strict=True):
        torch.testing.assert_close(a, b)
    assert any(
        "grouped_mm" in name
        for name in graph_calls(lambda *x: lmfast_kernels.grouped_linear(*x, ends), inputs)
    )


def test_while_a_graph_is_captured_no_size_is_read():
    (x, weight), ends = make([3, 0, 7, 1])
    torch.testing.assert_close(
        MODULE.masked_products(x, weight, ends), grouped_linear_reference(x, weight, ends)
    )


@pytest.mark.parametrize(("M", "K", "N"), [(3, 0, 5), (3, 4, 0), (0, 4, 5)])
def test_empty_sums_are_zero(M, K, N):
    x, weight = torch.ones(M, K, requires_grad=True), torch.ones(2, N, K, requires_grad=True)
    y = lmfast_kernels.grouped_linear(x, weight, torch.tensor([M, M], dtype=torch.int32))
    y.sum().backward()
    assert y.shape == (M, N) and not y.any() and not x.grad.any() and not weight.grad.any()


def test_bad_arguments():
    (x, weight), ends = make([3, 0, 7, 1])
    with pytest.raises(ValueError, match=r"must be \(G, N, K\)"):
        lmfast_kernels.grouped_linear(x[:, 1:], weight, ends)
    with pytest.raises(ValueError, match=r"must be \(4,\) of torch.int32"):
        lmfast_kernels.grouped_linear(x, weight, ends.long())
