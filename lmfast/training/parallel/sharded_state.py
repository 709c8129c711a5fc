"""Makes, loads and gathers the state of a run whose model is sharded. Import it only there: DTensor takes 0.5 s to load.

In: settings and a checkpoint of any format, of which each rank reads its slices, or none: then each rank draws all initial
weights in chunks and keeps its part. No rank ever holds the whole model.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lmfast.model.transformer import TransformerLM
from lmfast.settings import TrainSettings, selected_precision
from lmfast.training.checkpoint import Checkpoint
from lmfast.training.optimizers import Optimizer, load_state_tensors
from lmfast.training.parallel.choice import Kind
from lmfast.training.parallel.fsdp import ShardedModel, make_mesh
from lmfast.training.parallel.pieces import cut, fused_widths
from lmfast.training.parallel.ranks import Ranks
from lmfast.training.parallel.sharded import Sharded
from lmfast.training.parallel.whole_weights import draw_weights, read_pieces, read_state


def make_sharded(
    settings: TrainSettings,
    source: Checkpoint | None,
    may_grow: Callable[[str], bool] | None,
    device: torch.device,
    ranks: Ranks,
    kind: Kind,
) -> ShardedModel:
    """A sharded model with the weights of `source`, or initial ones from torch's default generator.

    may_grow: as for `read_pieces`."""
    whole, meta = (TransformerLM.without_memory(settings.model) for _ in range(2))
    mesh = make_mesh(kind, device, ranks)
    sharded = ShardedModel(meta, mesh, device, selected_precision(settings.run))
    if source is None:
        widths = fused_widths(whole)
        parts = (cut(piece, widths.get(name, ())) for name, piece in sharded.pieces.items())
        draw_weights(whole, (piece for some in parts for piece in some))
    else:
        shapes = {name: tuple(weight.shape) for name, weight in whole.named_weights().items()}
        read_pieces(source.weight_files, sharded.pieces.values(), shapes, {}, ranks, may_grow)
    return sharded


def load_sharded(
    sharded: Sharded, optimizer: Optimizer, checkpoint: Checkpoint, ranks: Ranks
) -> dict[str, Tensor]:
    """Loads the optimizer state of a checkpoint; returns its other tensors, of the loss scale."""
    assert isinstance(sharded, ShardedModel)
    fields, others = read_state(checkpoint.state_files, sharded.pieces.values(), ranks)
    load_state_tensors(sharded.weights, optimizer, fields)
    return others
