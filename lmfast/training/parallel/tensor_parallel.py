"""A run's model when its layers are split over tensor ranks: what the loop, the optimizers and checkpoints use of it.

In: the shape of the whole model and the ranks. Out: a TensorParallelModel, with the interface of fsdp.ShardedModel. Its
initial weights are drawn in chunks, in the order of a single process, so that they are the same; no rank ever holds the
whole model.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM
from lmfast.training.parallel.gradients import Gradients
from lmfast.training.parallel.pieces import Piece, cut, fused_widths, tensor_piece
from lmfast.training.parallel.ranks import Ranks
from lmfast.training.parallel.sharded_muon import ShardedMatrix
from lmfast.training.parallel.tensor_model import allocate, split_model
from lmfast.training.parallel.tensor_parts import in_whole, split_dimension, tensor_parts


class TensorParallelModel:
    """This rank's part of a model. `weights`: by name, what the optimizer updates."""

    reduces_gradients = False

    def __init__(self, config: ModelConfig, device: torch.device, ranks: Ranks):
        """The weights are allocated, but not initialised."""
        assert ranks.tensor_group is not None
        self.whole = TransformerLM.without_memory(config)
        self.parts = tensor_parts(self.whole, ranks.tensor_rank, ranks.tensor_size)
        self.model = split_model(config, ranks)
        allocate(self.model, device)
        self.model.sharded = True
        self.weights: dict[str, nn.Parameter] = dict(self.model.named_parameters())
        self.group = ranks.tensor_group
        self.gradients = Gradients(self.weights, ranks)

    def weight_pieces(self) -> dict[str, list[Piece]]:
        """{weight: its pieces that this rank has}, cut into the matrices fused in it; for checkpoints."""
        widths = fused_widths(self.model)
        uncut = {name: tensor_piece(name, weight) for name, weight in self.weights.items()}
        return {name: in_whole(cut(piece, widths.get(name, ())), self.parts) for name, piece in uncut.items()}

    def begin_pass(self, last: bool) -> None:
        """Nothing to do: all weights are there, and DistributedDataParallel sums gradients over the data ranks."""

    def gradient_norm(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """(norm of the whole gradient, loss), the same on all ranks; makes gradients of replicated weights equal."""
        return self.gradients.norm(loss)

    def matrices(self, widths: Mapping[str, Sequence[int]]) -> list[ShardedMatrix]:
        """The matrices in these weights, for Muon."""
        found: list[ShardedMatrix] = []
        for name in widths:
            row = 0
            for part in self.parts[name]:
                rows, columns = part.size
                by_columns = split_dimension(name) == 1
                counts = [columns if by_columns else rows] * self.group.size()
                width = rows if by_columns else columns
                found.append(ShardedMatrix(self.weights[name], (row, row + rows), counts, width, by_columns))
                row += rows
        return found
