"""Fully sharded data parallelism: every rank keeps 1/N of each weight, gradient and optimizer state.

In: the shape of a model and a mesh of N ranks ("shard"), or of R × N ("replicate", "shard") for hsdp. Out: a
ShardedModel, which the loop, the optimizers and checkpoints use. Weights are split by rows with torch's `fully_shard`, once
for each block and once for the rest (the root: embedding, final norm, head). N need not divide the number of rows.

With --bf16 or --fp16 the fp32 weights are cast before they travel, gradients travel and are summed in fp32. So norms and
biases also compute with 16-bit weights, and gradients are rounded to 16 bits once per forward pass.

Collectives of a step of k forward passes through L blocks:

    all-gathers       1 + 2 L k   the root once per step; each block for each forward and again for each backward
    reduce-scatters   1 + L       after the last pass; before it, gradients accumulate on each rank (k times as many if
                                  a rank has no memory for 4 bytes per parameter more: choice.accumulates_whole)
    all-reduces       3           of scalars: loss, gradient norm, whether a rank was asked to stop
    hsdp              1 + L       more all-reduces, of the reduced gradients over the replicas
    Muon              2 ⌈M / N⌉   all-to-alls, for M matrices, N at a time (sharded_muon.py)

The root stays gathered until the end of the last backward, because the loss reads the head outside the model's forward.
A block is gathered while the block before it (in the backward: after it) computes.
"""

import itertools
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM
from lmfast.settings import Precision
from lmfast.training.parallel.choice import Kind
from lmfast.training.parallel.environment import machine_size
from lmfast.training.parallel.pieces import Piece, cut, fused_widths, tensor_piece
from lmfast.training.parallel.ranks import Ranks
from lmfast.training.parallel.sharded_muon import ShardedMatrix

_TRAVELS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""dtype of gathered weights; None: that of the weights"""


class ShardedModel:
    """A model whose weights are DTensors, and `weights`: this rank's parts of them as plain parameters, by name.

    Both share memory. Optimizers update `weights`, whose gradients `gradient_norm` sets."""

    reduces_gradients = True

    def __init__(
        self,
        config: ModelConfig,
        mesh: DeviceMesh,
        device: torch.device,
        precision: Precision,
        split: TransformerLM | None = None,
    ):
        """The weights are allocated, but not initialised. split: a part of the model of shape `config` on the meta device,
        to be sharded instead of the whole."""
        self.whole = TransformerLM.without_memory(config)
        self.model = model = TransformerLM.without_memory(config) if split is None else split
        self.accumulates_whole = True
        """whether gradients stay unreduced until the last pass of a step; otherwise each pass reduces them"""
        self.mesh = mesh
        self.group = mesh.get_group(mesh.ndim - 1)
        self.parts: list[FSDPModule] = _shard(model, mesh, precision)
        _allocate(model, device)
        self.sharded: dict[str, nn.Parameter] = dict(model.named_parameters())
        self.pieces: dict[str, Piece] = {name: tensor_piece(name, p) for name, p in self.sharded.items()}
        """uncut, and possibly empty"""
        self.weights = {name: nn.Parameter(piece.tensor) for name, piece in self.pieces.items()}

    def weight_pieces(self) -> dict[str, list[Piece]]:
        """{weight: its pieces that this rank owns}, cut into the matrices fused in it; for checkpoints."""
        widths = fused_widths(self.model)
        return {name: cut(piece, widths.get(name, ())) for name, piece in self.pieces.items()}

    def begin_pass(self, last: bool) -> None:
        """To be called before each forward pass of a step; last: whether its gradients are the last of the step."""
        root = self.parts[-1]
        root.set_requires_gradient_sync(last or not self.accumulates_whole)
        root.set_requires_all_reduce(last)
        root.set_reshard_after_backward(last, recurse=False)

    def collect_gradients(self) -> list[Tensor]:
        """Moves the summed gradients of the step to `weights`; returns them."""
        grads: list[Tensor] = []
        for name, weight in self.weights.items():
            grad = self.sharded[name].grad
            assert isinstance(grad, DTensor), f"{name} takes part in the loss"
            weight.grad, self.sharded[name].grad = grad.to_local(), None
            grads.append(weight.grad)
        return grads

    def gradient_norm(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """(norm of the whole gradient, loss); moves the summed gradients of the step to `weights`."""
        grads = self.collect_gradients()
        square = torch.nn.utils.get_total_norm(grads).double().square()
        dist.all_reduce(square, group=self.group)
        return square.sqrt().float(), loss

    def matrices(self, widths: Mapping[str, Sequence[int]]) -> list[ShardedMatrix]:
        """The matrices in these weights, for Muon; widths: numbers of rows of the matrices fused in each."""
        found: list[ShardedMatrix] = []
        for name, rows in widths.items():
            total, width = self.pieces[name].shape
            each = -(-total // self.group.size())
            starts = [min(rank * each, total) for rank in range(self.group.size() + 1)]
            begin = 0
            for count in rows:
                inside = [min(max(start - begin, 0), count) for start in starts]  # of the matrix
                counts = [high - low for low, high in itertools.pairwise(inside)]
                own = self.group.rank()
                first = begin + inside[own] - starts[own]
                found.append(ShardedMatrix(self.weights[name], (first, first + counts[own]), counts, width))
                begin += count
        return found

    def gather_in_order(self) -> None:
        """Takes part in the all-gathers of a forward pass of another rank, without computing it."""
        *blocks, root = self.parts
        root.unshard()
        for block in blocks:
            block.unshard()
            block.reshard()

    def free(self) -> None:
        """Frees weights that are still gathered, those of the root after an evaluation; then parameters are DTensors."""
        for part in self.parts:
            part.reshard()


def make_mesh(kind: Kind, device: torch.device, ranks: Ranks) -> DeviceMesh:
    """The mesh over all ranks; for hsdp (machine, rank within the machine)."""
    if kind == "hsdp":
        local = machine_size()
        shape = ranks.world_size // local, local
        return init_device_mesh(device.type, shape, mesh_dim_names=("replicate", "shard"))
    return init_device_mesh(device.type, (ranks.world_size,), mesh_dim_names=("shard",))


def _shard(model: TransformerLM, mesh: DeviceMesh, precision: Precision) -> list[FSDPModule]:
    """The blocks and, last, the model as modules of FSDP2."""
    policy = MixedPrecisionPolicy(_TRAVELS[precision], torch.float32, cast_forward_inputs=False)
    parts: list[FSDPModule] = [
        fully_shard(part, mesh=mesh, mp_policy=policy) for part in [*model.blocks, model]
    ]
    for part in parts:
        part.set_gradient_divide_factor(1.0)  # a sum: losses are already divided by the tokens of all ranks
        part.set_force_sum_reduction_for_comms(True)
    *blocks, root = parts
    for part, following in zip([root, *blocks], blocks):
        part.set_modules_to_forward_prefetch([following])
    register_fsdp_forward_method(model, "hidden")
    model.sharded = True
    return parts


def _allocate(model: TransformerLM, device: torch.device) -> None:
    """Replaces meta weights by memory for this rank's parts; tied weights stay tied."""
    made: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if weight not in made:
                assert isinstance(weight, DTensor)
                local = torch.zeros(weight.to_local().shape, dtype=weight.dtype, device=device)
                made[weight] = nn.Parameter(
                    DTensor.from_local(
                        local,
                        weight.device_mesh,
                        weight.placements,
                        run_check=False,
                        shape=weight.shape,
                        stride=weight.stride(),
                    )
                )
            setattr(module, name, made[weight])
    model.load_state_dict({}, strict=False)  # makes FSDP2 take the new weights, and pad them
    model.reset_tables()
