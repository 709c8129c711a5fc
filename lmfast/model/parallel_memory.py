"""Memory of one rank of a run on several devices in bytes, computed from a ModelConfig. Does not import torch.

Input: the model, the batch of a rank, and how ranks divide the model. Output: `RankMemory`. Assumptions are those of
memory.py, and of lmfast/training/parallel/: ddp copies everything to each rank; fsdp divides weights, gradients and
optimizer state among the ranks (hsdp: among those of a machine) and gathers them block by block (ZeRO stage 3: Rajbhandari
et al. 2020, arXiv:1910.02054); tensor parallelism divides the matrices of the blocks, the embedding and the head
(Shoeybi et al. 2019, arXiv:1909.08053). Explained in docs/guides/parallel.md.
"""

from dataclasses import dataclass
from typing import Literal

from lmfast.model.accounting import parameters
from lmfast.model.activations import ELEMENT_SIZE, Checkpointing, layer_kinds
from lmfast.model.config import ModelConfig, ResolvedConfig
from lmfast.model.memory import USABLE, TrainingMemory, activation_bytes_per_token, step_workspace

Parallel = Literal["ddp", "fsdp", "hsdp"]

GATHERED_BLOCKS = 2
"""blocks whose weights are gathered at the same time: the current one, and the next one in advance"""


@dataclass(frozen=True)
class Layout:
    """How ranks divide a model and its batch.

    kind: the data-parallel part. ranks: all of them. ranks_per_machine: for hsdp, which shards within a machine;
    defaults to `ranks`. Sizes that do not divide are rejected where they are set.
    """

    kind: Parallel = "ddp"
    ranks: int = 1
    tensor_parallel: int = 1
    ranks_per_machine: int | None = None

    @property
    def data_ranks(self) -> int:
        """Ranks, or groups of tensor-parallel ranks, that read different rows."""
        return self.ranks // self.tensor_parallel

    @property
    def shards(self) -> int:
        """Number of parts of each weight in the data-parallel dimension."""
        if self.kind == "ddp":
            return 1
        within = self.ranks if self.kind == "fsdp" else self.ranks_per_machine or self.ranks
        return max(1, within // self.tensor_parallel)


@dataclass(frozen=True)
class RankMemory(TrainingMemory):
    """Memory of one training step on one rank in bytes, by purpose."""

    gathered: int  # weights of other ranks, while they are used
    reduced: int  # gradients before they are reduced and divided


@dataclass(frozen=True)
class WeightGroups:
    """Numbers of parameters that a tensor-parallel rank holds, by what FSDP gathers together."""

    blocks: dict[int, int]  # size → number of blocks of that size
    root: int

    @property
    def total(self) -> int:
        return self.divided_by(1)

    def divided_by(self, shards: int) -> int:
        """Parameters of a rank if each group is divided by itself."""
        return -(-self.root // shards) + sum(n * -(-size // shards) for size, n in self.blocks.items())


def rank_memory(
    config: ModelConfig,
    batch: int,
    dtype: str,
    layout: Layout,
    length: int | None = None,
    plain: bool = False,
    checkpointing: Checkpointing = "none",
    whole_gradient: bool = False,
) -> RankMemory:
    """Memory of a step on one rank. batch: sequences of `length` tokens (default: context_length) of this rank in a
    forward pass. dtype and plain: as in `training_memory`, with which one rank agrees. whole_gradient: as
    `keeps_whole_gradient` decides."""
    config = config.resolved()
    split, element = layout.tensor_parallel, ELEMENT_SIZE[dtype]
    tokens = batch * (length or config.context_length)
    groups = weight_groups(config, split)
    kept, recomputed = activation_bytes_per_token(config, dtype, plain, checkpointing, split)
    activations, again = tokens * kept, tokens * recomputed
    head_gradient = 4 * -(-config.vocab_size // split) * config.d_model
    own = groups.divided_by(layout.shards)
    copies = gathered = reduced = 0
    if layout.shards > 1:
        gathered = element * (GATHERED_BLOCKS * max(groups.blocks) + groups.root)
        # A gradient in the dtype of the products, and its fp32 copy to be reduced. Those of the root exist when the
        # activations of the blocks do not any more.
        root = (element + 4) * groups.root - activations - again - head_gradient
        reduced = max((element + 4) * max(groups.blocks), root)
        if whole_gradient:
            reduced += 4 * groups.total
    elif dtype != "fp32":
        matrices = parameters(config)["attention"] + parameters(config)["feed_forward"]
        copies = element * matrices // split
    return RankMemory(
        weights=4 * own,
        gradients=4 * own,
        optimizer=8 * own,
        weight_copies=copies,
        gathered=gathered,
        reduced=reduced,
        activations=activations,
        recomputed=again,
        head_gradient=head_gradient,
        workspace=step_workspace(config, tokens, dtype, plain, split),
    )


def keeps_whole_gradient(
    config: ModelConfig,
    batch: int,
    dtype: str,
    layout: Layout,
    passes: int,
    capacity: float | None,
    length: int | None = None,
    plain: bool = False,
    checkpointing: Checkpointing = "none",
) -> bool:
    """Whether a rank of a sharded model keeps the whole gradient, 4 bytes per parameter, until the last of several forward
    passes: if it fits `capacity` bytes of memory, or they are unknown. Otherwise gradients are reduced after each pass."""
    if layout.shards == 1 or passes == 1:
        return False
    if capacity is None:
        return True
    memory = rank_memory(config, batch, dtype, layout, length, plain, checkpointing, whole_gradient=True)
    return memory.total <= USABLE * capacity


def weight_groups(config: ResolvedConfig, tensor_parallel: int = 1) -> WeightGroups:
    """The parameters of each block and of the root (embeddings, final norm, head) on one tensor-parallel rank."""
    count, layers = parameters(config), config.num_layers
    final_norm = config.d_model * (config.norm == "pre")
    split = (count["attention"] + count["feed_forward"] + count["biases"]) // layers
    norms = (count["norms"] - final_norm + count["router"]) // layers
    table = count["value_embeddings"] // max(1, config.num_value_embeddings)
    blocks = {
        norms + -(-(split + has_table * table) // tensor_parallel): number
        for has_table, number in layer_kinds(config).items()
    }
    vocabulary = -(-config.vocab_size // tensor_parallel) * config.d_model
    heads = 1 if config.tie_embeddings else 2
    return WeightGroups(blocks, heads * vocabulary + count["position_embedding"] + final_norm)
