"""What ranks send per training step, how long it takes, and how much of that computation hides. Does not import torch.

In: a model, its layout over GPUs (parallel_memory.py), tokens, and the rates of links. Out: bytes that each GPU sends, and
seconds. Collectives are those of lmfast/training/parallel/, sent around a ring: of S bytes, an all-gather or a
reduce-scatter over n ranks sends S (n − 1) / n from each, an all-reduce twice that (Patarasuk & Yuan 2009; for sharded
weights Rajbhandari et al. 2020, arXiv:1910.02054, section 7; for tensor parallelism Shoeybi et al. 2019, arXiv:1909.08053).
Latency is neglected and links reach their full rate, so times are lower bounds.

What computation hides:

    fsdp, hsdp   in the forward, the gather of a block runs while the block before it computes; in the backward, that and
                 the reduction of the block after it do. Nothing hides the gathers of the root and of the first
                 block of a forward or backward, and the reductions of root and last block at the end.
    ddp          gradients are reduced while the backward of the last pass computes, except that of the embedding, which
                 comes last. (With --compile all are reduced after it.)
    tensor       nothing: the next operation reads each sum.
"""

import re
from dataclasses import dataclass

from lmfast.errors import UserError
from lmfast.model.accounting import forward_flops, training_flops_per_token
from lmfast.model.activations import ELEMENT_SIZE, Checkpointing, needs_last_product
from lmfast.model.config import ModelConfig, ResolvedConfig
from lmfast.model.parallel_memory import Layout, weight_groups

GRADIENT = 4  # bytes of an element: gradients are reduced in fp32


@dataclass(frozen=True)
class Links:
    """Rates of one GPU in one direction, in bytes per second. network: to other machines."""

    within: float
    network: float | None = None


@dataclass(frozen=True)
class Sent:
    """Bytes that one GPU sends in a step, by purpose."""

    gathered: float = 0.0  # weights, fsdp and hsdp
    reduced: float = 0.0  # gradients
    replicas: float = 0.0  # gradients between machines, hsdp
    tensor: float = 0.0  # activations and their gradients

    @property
    def total(self) -> float:
        return sum(vars(self).values())


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step. communication: all of it; exposed: the part that computation does not hide."""

    computation: float
    communication: float
    exposed: float

    @property
    def total(self) -> float:
        return self.computation + self.exposed


def parse_rate(text: str, name: str) -> float:
    """Bytes per second of a rate such as 900GB/s (bytes) or 400Gb/s (bits); `name` for the UserError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kKMGT])(b|B|bit|bits)(?:/s|ps)", text.strip())
    value = 0.0 if match is None else float(match[1])
    if match is None or not 0 < value < 1e6:
        raise UserError(f"{name} is {text!r}; give a rate such as 900GB/s (bytes) or 400Gb/s (bits)")
    factor = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[match[2].upper()]
    return value * factor / (1 if match[3] == "B" else 8)


def ring(size: float, ranks: int) -> float:
    """Bytes that each of `ranks` sends to gather, or to reduce and scatter, a tensor of `size` bytes."""
    return size * (ranks - 1) / ranks


def bytes_sent(
    config: ModelConfig,
    tokens: int,
    dtype: str,
    layout: Layout,
    passes: int = 1,
    checkpointing: Checkpointing = "none",
    reductions: int = 1,
) -> Sent:
    """What a GPU sends in a step of `passes` forward passes over `tokens` of its tokens each. reductions: of sharded
    gradients per step, 1 or one per pass (parallel_memory.keeps_whole_gradient)."""
    config = config.resolved()
    groups, shards = weight_groups(config, layout.tensor_parallel), layout.shards
    element, blocks = ELEMENT_SIZE[dtype], groups.total - groups.root
    replicas = layout.data_ranks // shards
    return Sent(
        gathered=ring(element * (groups.root + 2 * passes * blocks), shards) if shards > 1 else 0.0,
        reduced=reductions * ring(GRADIENT * groups.total, shards)
        if shards > 1
        else 2 * ring(GRADIENT * groups.total, replicas),
        replicas=2 * ring(GRADIENT * groups.total / shards, replicas) if shards > 1 else 0.0,
        tensor=_sums(config, checkpointing)
        * passes
        * 2
        * ring(tokens * config.d_model * element, layout.tensor_parallel),
    )


def _sums(config: ResolvedConfig, checkpointing: Checkpointing) -> int:
    """All-reduces over the tensor ranks in a pass (lmfast/training/parallel/tensor_shards.py), without those of scalars per
    token in the loss. With block checkpointing, what a backward needs is summed again."""
    sublayers = 1 if config.parallel_block else 2
    again = 0
    if checkpointing == "block":
        again = sublayers - (0 if needs_last_product(config) else 1)
    return config.num_layers * (2 * sublayers + again) + 2


def recomputation_flops(config: ModelConfig, sequence_length: float, checkpointing: Checkpointing) -> float:
    """FLOPs per sequence that a backward repeats. block: the forward of the blocks, but for their last product where nothing
    reads it; selective: none, under the convention, which counts products and attention only."""
    config = config.resolved()
    if checkpointing != "block":
        return 0.0
    forward = forward_flops(config, sequence_length)
    last = 0.0
    if not needs_last_product(config) and not config.num_experts:
        last = forward["feed_forward"] / (3 if config.ffn == "swiglu" else 2)
    return sum(forward.values()) - forward["head"] - last


def recomputed_share(config: ModelConfig, sequence_length: float, checkpointing: Checkpointing) -> float:
    """FLOPs that a backward repeats, relative to those of training without (at most a third)."""
    training = sequence_length * training_flops_per_token(config, sequence_length)
    return recomputation_flops(config, sequence_length, checkpointing) / training


def step_time(
    config: ModelConfig,
    rows: int,
    dtype: str,
    layout: Layout,
    links: Links,
    rate: float,
    passes: int = 1,
    checkpointing: Checkpointing = "none",
    reductions: int = 1,
) -> StepTime:
    """Time of a step of `passes` forward passes over `rows` sequences of context_length per data rank. rate: FLOP/s that a
    GPU reaches without communication. reductions: as for `bytes_sent`."""
    config = config.resolved()
    split, shards, layers = layout.tensor_parallel, layout.shards, config.num_layers
    forward = forward_flops(config, config.context_length, rows)
    again = rows * recomputation_flops(config, config.context_length, checkpointing) / split / rate
    all_forward, head = sum(forward.values()) / split / rate, forward["head"] / split / rate
    block = (all_forward - head) / layers
    backward = 2 * block + again / layers
    computation = passes * (3 * all_forward + again)

    sent = bytes_sent(config, rows * config.context_length, dtype, layout, passes, checkpointing, reductions)
    within, between = _rates(layout, links)
    groups = weight_groups(config, split)
    tensor = sent.tensor / links.within
    communication = tensor + (sent.gathered + sent.reduced) / within + sent.replicas / between
    if shards == 1:  # ddp
        embedding = -(-config.vocab_size // split) * config.d_model / groups.total
        reduction = sent.reduced / within
        hidden = min(reduction * (1 - embedding), 2 * all_forward + again)
        return StepTime(computation, communication, tensor + reduction - hidden)
    mean = (groups.total - groups.root) / layers
    gather = ring(ELEMENT_SIZE[dtype] * mean, shards) / within
    reduce = ring(GRADIENT * mean, shards) / within
    replicate = sent.replicas / between * mean / groups.total
    root = groups.root / mean
    exposed = gather * (root + 2 * passes)  # of the root, and of the first block of each forward and backward
    exposed += passes * (layers - 1) * max(0.0, gather - block)
    exposed += (passes - reductions) * (layers - 1) * max(0.0, gather - backward)
    exposed += (reductions - 1) * (layers - 1) * max(0.0, gather + reduce - backward)
    exposed += (layers - 1) * max(0.0, gather + reduce - backward, replicate - backward)
    exposed += (1 + root) * (reductions * reduce + replicate)
    return StepTime(computation, communication, tensor + min(exposed, communication - tensor))


def _rates(layout: Layout, links: Links) -> tuple[float, float]:
    """(bytes per second in the ring of shards or of ddp, in the ring of replicas).

    A ring over machines passes each GPU once, and leaves a machine over the network of all its GPUs in it."""
    network = links.network or links.within
    machine = layout.ranks_per_machine or layout.ranks
    group = layout.data_ranks if layout.kind == "ddp" else layout.shards
    members = max(1, min(machine, layout.ranks) // layout.tensor_parallel)
    within = links.within if group <= members else min(links.within, members * network)
    return within, network
