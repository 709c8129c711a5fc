"""What the loop, the optimizers and checkpoints use of a model whose weights are divided among ranks, as a Protocol.

Implemented by fsdp.ShardedModel and tensor_parallel.TensorParallelModel, which are imported only where they are used.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import torch.distributed as dist
from torch import Tensor, nn

from lmfast.model.transformer import TransformerLM
from lmfast.training.parallel.sharded_muon import ShardedMatrix

if TYPE_CHECKING:
    from lmfast.training.parallel.pieces import Piece


class Sharded(Protocol):
    """A model of which this rank has a part."""

    model: TransformerLM
    whole: TransformerLM
    """the model on the meta device, undivided, for names and shapes"""
    weights: dict[str, nn.Parameter]
    """this rank's part of each weight, by name: what the optimizer updates"""
    group: dist.ProcessGroup
    """the ranks among which a weight is divided"""
    reduces_gradients: bool
    """whether the backward itself sums gradients over the data ranks"""

    def begin_pass(self, last: bool) -> None:
        """To be called before each forward pass of a step; last: whether its gradients are the last of the step."""
        ...

    def gradient_norm(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """(norm of the whole gradient, loss), the same on all ranks, after the last backward of a step.

        Afterwards the gradients of `weights` are those of the step."""
        ...

    def matrices(self, widths: Mapping[str, Sequence[int]]) -> list[ShardedMatrix]:
        """The matrices in these weights, for Muon; widths: by name, one number for each matrix fused in the weight."""
        ...

    def weight_pieces(self) -> "dict[str, list[Piece]]":
        """{weight: its pieces that this rank has}, cut into the matrices fused in it; for checkpoints."""
        ...
