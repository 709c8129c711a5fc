"""A loss function compiled by torch.compile as one graph, with a count of compilations.

Input: a loss function of a model and tensors. Output: the same function, compiled for the shapes it is called with.
`graphs` counts the graphs that Dynamo has compiled. A run should need one; more are recompiles (another shape or mode)
and cost tens of seconds during training. `key` identifies the first graph. torch rejects a function with graph breaks at
the first call. The hooks of a sharded model would break the graph, so its blocks are compiled one by one (CompiledBlocks);
blocks of a kind share one graph, and the loss itself is one operator of ours.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lmfast.model.device import disable_compile_workers
from lmfast.model.inductor import inductor
from lmfast.model.transformer import TransformerLM


class CompiledLoss:
    """Called like the function that it compiles."""

    def __init__(self, loss_fn: Callable[..., Tensor]):
        self.graphs = 0
        self.key: str | None = None
        disable_compile_workers()
        self._compiled = torch.compile(loss_fn, fullgraph=True, dynamic=False, backend=self._count)

    def _count(self, graph: torch.fx.GraphModule, inputs: list) -> Callable:
        self.graphs += 1
        self.key = self.key or _key(graph, inputs)
        return inductor(graph, inputs)

    def __call__(self, *arguments) -> Tensor:
        return self._compiled(*arguments)

    @property
    def recompiles(self) -> int:
        """Number of compilations after the first."""
        return max(0, self.graphs - 1)


class CompiledBlocks(CompiledLoss):
    """Calls `loss_fn`; the blocks of the model are compiled for training, each for itself."""

    def __init__(self, loss_fn: Callable[..., Tensor], model: TransformerLM):
        self.graphs, self.kinds = 0, 0
        self.key: str | None = None
        disable_compile_workers()
        self._loss_fn = loss_fn
        for block in model.blocks:
            block.forward = self._compile(block.forward)

    def _compile(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        compiled = torch.compile(forward, fullgraph=True, dynamic=False, backend=self._count)
        return lambda *arguments: (compiled if torch.is_grad_enabled() else forward)(*arguments)

    def __call__(self, *arguments) -> Tensor:
        loss = self._loss_fn(*arguments)
        self.kinds = self.kinds or self.graphs
        return loss

    @property
    def recompiles(self) -> int:
        """Number of compilations after the first call."""
        return self.graphs - self.kinds


def _key(graph: torch.fx.GraphModule, inputs: list) -> str:
    """A hash of a graph, its inputs, the device and the version of torch."""
    shapes = [(str(x.dtype), tuple(x.shape)) if isinstance(x, Tensor) else x for x in inputs]
    kinds = {x.device.type for x in inputs if isinstance(x, Tensor)}
    device = torch.cuda.get_device_name() if "cuda" in kinds else ""
    text = "\0".join([graph.code, str(shapes), str(sorted(kinds)), device, torch.__version__])
    return hashlib.sha256(text.encode()).hexdigest()[:24]
