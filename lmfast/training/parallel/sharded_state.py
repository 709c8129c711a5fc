"""Makes and loads the state of a run whose model is divided among ranks. Import it only there: DTensor takes 0.5 s to load.

In: settings and a checkpoint of any format, of which each rank reads its rectangles, or none: then each rank draws all
initial weights in chunks and keeps its part. No rank ever holds the whole model.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lmfast.settings import TrainSettings, selected_precision
from lmfast.training.checkpoint import Checkpoint
from lmfast.training.optimizers import Optimizer, load_state_tensors
from lmfast.training.parallel.choice import Kind
from lmfast.training.parallel.fsdp import ShardedModel, make_mesh
from lmfast.training.parallel.pieces import fused_widths
from lmfast.training.parallel.ranks import Ranks
from lmfast.training.parallel.reading import read_state
from lmfast.training.parallel.sharded import Sharded
from lmfast.training.parallel.tensor_parallel import TensorParallelModel
from lmfast.training.parallel.two_dimensional import TwoDimensionalModel
from lmfast.training.parallel.whole_weights import draw_weights, read_pieces, read_together
from lmfast.training.tensor_files import TensorFiles


def make_sharded(
    settings: TrainSettings,
    source: Checkpoint | None,
    may_grow: Callable[[str], bool] | None,
    device: torch.device,
    ranks: Ranks,
    kind: Kind,
) -> Sharded:
    """A rank's part of a model with the weights of `source`, or initial ones from torch's default generator.

    may_grow: as for `whole_weights.read_pieces`."""
    sharded = _allocated(settings, device, ranks, kind)
    pieces = [piece for some in sharded.weight_pieces().values() for piece in some]
    if source is None:
        draw_weights(sharded.whole, pieces)
    else:
        shapes = {name: tuple(weight.shape) for name, weight in sharded.whole.named_weights().items()}
        read_pieces(source.weight_files, pieces, shapes, fused_widths(sharded.whole), ranks, may_grow)
    return sharded


def _allocated(settings: TrainSettings, device: torch.device, ranks: Ranks, kind: Kind) -> Sharded:
    precision = selected_precision(settings.run)
    if ranks.tensor_size == 1:
        return ShardedModel(settings.model, make_mesh(kind, device, ranks), device, precision)
    if kind == "fsdp":
        return TwoDimensionalModel(settings.model, device, precision, ranks)
    return TensorParallelModel(settings.model, device, ranks)


def load_sharded(
    sharded: Sharded, optimizer: Optimizer, checkpoint: Checkpoint, ranks: Ranks
) -> dict[str, Tensor]:
    """Loads the optimizer state of a checkpoint; returns its other tensors, of the loss scale."""
    widths, pieces = fused_widths(sharded.whole), sharded.weight_pieces()
    fields: dict[str, Tensor] = {}
    others: dict[str, Tensor] = {}

    def read(files: TensorFiles) -> None:
        for name, weight in sharded.weights.items():
            state = read_state(files, weight.detach(), name, pieces[name], widths)
            fields.update({f"{name}.{field}": value for field, value in state.items()})
        for name in files.shapes:
            if name.startswith("loss_scale."):
                others[name] = torch.from_numpy(files.read(name).copy())

    read_together(checkpoint.state_files, read, ranks)
    load_state_tensors(sharded.weights, optimizer, fields)
    return others
