"""Shared by the tests of the C++ code: where it runs; of its operators, agreement with float64, repeatability, one compiled
graph."""

import pytest
import torch

from lmfast_kernels import cpu_build, cpu_library

needs_library = pytest.mark.skipif(
    not cpu_library.available(), reason="needs Linux, AVX2, AVX-512 or NEON, g++ and LMFAST_KERNELS=auto"
)


needs_decoder = pytest.mark.skipif(
    cpu_build.library("decoder") is None, reason=f"needs the C++ decoder: {cpu_build.why_not('decoder')}"
)


def gradients(function, tensors):
    """(result, gradients) for an upstream gradient that depends only on the shape."""
    inputs = [x.detach().clone().requires_grad_() for x in tensors]
    result = function(*inputs)
    upstream = torch.randn(result.shape, generator=torch.Generator().manual_seed(1)).to(result.dtype)
    return [result.detach(), *torch.autograd.grad(result, inputs, upstream)]


def assert_like_float64(function, reference, tensors, factor=4.0):
    """Errors are at most `factor` times those of the float32 reference, plus a few roundings; results are repeatable."""
    ours, again = gradients(function, tensors), gradients(function, tensors)
    exact = gradients(reference, [x.double() for x in tensors])
    plain = gradients(reference, tensors)
    for a, b, e, p in zip(ours, again, exact, plain, strict=True):
        assert torch.equal(a, b)
        limit = factor * (p - e).abs().max() + 4e-6 * e.abs().max() + 1e-6
        assert (a - e).abs().max() <= limit


def assert_same_with_any_threads(function, tensors):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = gradients(function, tensors)
        torch.set_num_threads(3)
        three = gradients(function, tensors)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


def assert_same_without_gradients(function, tensors, name):
    """Without gradients the operator `name` runs too; the result is the same to the bit."""
    with torch.no_grad():
        result = function(*tensors)
        assert any(name in call for call in graph_calls(function, tensors))
    assert torch.equal(result, gradients(function, tensors)[0])


def graph_calls(function, tensors) -> list[str]:
    """Names of the calls in the graph when compiled with fullgraph."""
    torch._dynamo.reset()
    names = []

    def keep(graph, example_inputs):
        names.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch.compile(function, fullgraph=True, backend=keep)(*[x.clone().requires_grad_() for x in tensors])
    return names
