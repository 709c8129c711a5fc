"""Tensor parallelism within groups of ranks and FSDP among the groups: each of D × N ranks has 1/(D · N) of every matrix.

In: the shape of the whole model and the ranks. Out: a model as of fsdp.ShardedModel, whose layers are split over N tensor
ranks first; FSDP then divides the rows of what a tensor rank has over the D data ranks. Muon, samples and tasks are
rejected (tensor_check.py).
"""

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from lmfast.model.config import ModelConfig
from lmfast.settings import Precision
from lmfast.training.parallel.fsdp import ShardedModel
from lmfast.training.parallel.gradients import Gradients
from lmfast.training.parallel.pieces import Piece
from lmfast.training.parallel.ranks import Ranks
from lmfast.training.parallel.tensor_model import split_model
from lmfast.training.parallel.tensor_parts import in_whole, tensor_parts


class TwoDimensionalModel(ShardedModel):
    """This rank's part of a model. The weights are allocated, but not initialised."""

    def __init__(self, config: ModelConfig, device: torch.device, precision: Precision, ranks: Ranks):
        assert ranks.data_group is not None
        mesh = DeviceMesh.from_group(ranks.data_group, device.type)
        super().__init__(config, mesh, device, precision, split_model(config, ranks))
        self.tensor_parts = tensor_parts(self.whole, ranks.tensor_rank, ranks.tensor_size)
        self.gradients = Gradients(self.weights, ranks, shards=ranks.data_group)

    def weight_pieces(self) -> dict[str, list[Piece]]:
        """{weight: its pieces that this rank has}, cut into the matrices fused in it; for checkpoints."""
        own = super().weight_pieces()
        return {name: in_whole(pieces, self.tensor_parts) for name, pieces in own.items()}

    def gradient_norm(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """(norm of the whole gradient, loss), the same on all ranks; moves the gradients of the step to `weights`."""
        self.collect_gradients()
        return self.gradients.norm(loss)
