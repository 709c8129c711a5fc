"""Shared by the tests of the PyTorch implementations: compiled as one graph of operators that Inductor can fuse."""

from collections.abc import Callable

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def assert_plain():
    """A function that checks that compiled (fullgraph) and eager code agree and the graph contains no operator of ours."""

    def check(function: Callable, *inputs: torch.Tensor) -> None:
        torch._dynamo.reset()
        graphs = []

        def keep(graph, example_inputs):
            graphs.append(graph)
            return graph.forward

        compiled = torch.compile(function, fullgraph=True, backend=keep)(*inputs)
        expected = function(*inputs)
        torch.testing.assert_close(compiled, expected)
        targets = [str(node.target) for graph in graphs for node in graph.graph.nodes]
        assert graphs and not any("lmfast" in target for target in targets), targets

    return check
