"""Makes, loads and gathers the state of a run whose model is sharded. Import it only there: DTensor takes 0.5 s to load.

In: settings and a checkpoint in one file, of which each rank reads its slices, or none: then each rank draws all initial
weights in chunks and keeps its part. No rank ever holds the whole model.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from lmfast.model.transformer import TransformerLM
from lmfast.settings import TrainSettings, selected_precision
from lmfast.training.checkpoint import Checkpoint
from lmfast.training.optimizers import Optimizer, load_state_tensors, state_tensors
from lmfast.training.parallel.choice import Kind
from lmfast.training.parallel.fsdp import ShardedModel, make_mesh
from lmfast.training.parallel.pieces import cut, fused_widths
from lmfast.training.parallel.ranks import Ranks
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
        read_pieces(source.model_file, sharded.pieces.values(), shapes, {}, ranks, may_grow)
    return sharded


def load_sharded(
    sharded: ShardedModel, optimizer: Optimizer, checkpoint: Checkpoint, ranks: Ranks
) -> dict[str, Tensor]:
    """Loads the optimizer state of a checkpoint; returns its other tensors, of the loss scale."""
    path = checkpoint.path / "optimizer.safetensors"
    fields, others = read_state(path, sharded.pieces.values(), ranks)
    load_state_tensors(sharded.weights, optimizer, fields)
    return others


def gathered(sharded: ShardedModel, optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and optimizer state as whole tensors, on rank 0 in host memory, empty elsewhere. All ranks must call it."""
    weights: dict[str, Tensor] = {
        name: _whole(sharded, name, p.detach()) for name, p in sharded.weights.items()
    }
    state = state_tensors(sharded.weights, optimizer)
    return weights, {key: _whole(sharded, key.rpartition(".")[0], value) for key, value in state.items()}


def _whole(sharded: ShardedModel, name: str, part: Tensor) -> Tensor:
    like = sharded.sharded[name]
    assert isinstance(like, DTensor)
    if part.shape != sharded.weights[name].shape:  # a step count
        return part
    placed = DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    whole = placed.full_tensor()
    return whole.cpu() if dist.get_rank() == 0 else whole[:0]
