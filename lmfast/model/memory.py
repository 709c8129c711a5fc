"""Memory of training and generation in bytes, computed from a ModelConfig. Does not import torch.

Assumes fp32 weights, gradients and AdamW moments, products in bf16, fp16 or fp32, lmfast_kernels on a GPU, and one device
(several: parallel_memory.py). The formulas are explained in docs/memory.md; a test compares them with what autograd saves
for real models. Activations are counted in activations.py.
"""

from dataclasses import dataclass

from lmfast.model.accounting import num_parameters, parameters
from lmfast.model.activations import (
    ELEMENT_SIZE,
    Checkpointing,
    Saved,
    final_activations,
    kept_activations,
    layer_activations,
    layer_kinds,
)
from lmfast.model.bisection import largest_satisfying
from lmfast.model.config import ModelConfig, ResolvedConfig

USABLE = 0.9
"""usable fraction of a device's memory: CUDA's context, cuBLAS and fragmentation take the rest"""

# Bounds of the logits buffer in lmfast_kernels/linear_cross_entropy.py; a test compares them.
LOGITS_BYTES = 384 * 2**20
LARGEST_LOGITS_BYTES = 2**30


@dataclass(frozen=True)
class TrainingMemory:
    """Memory of one training step on one device in bytes, by purpose."""

    weights: int
    gradients: int
    optimizer: int
    weight_copies: int
    activations: int
    recomputed: int
    head_gradient: int
    workspace: int

    @property
    def total(self) -> int:
        return sum(vars(self).values())


def training_memory(
    config: ModelConfig,
    batch: int,
    dtype: str,
    length: int | None = None,
    plain: bool = False,
    checkpointing: Checkpointing = "none",
) -> TrainingMemory:
    """Memory of a step over `batch` sequences of `length` tokens (default: context_length).

    dtype: of the products (bf16, fp16, fp8 or fp32). plain: with PyTorch's operators, as on a CPU.
    """
    config = config.resolved()
    count = num_parameters(config)
    tokens = batch * (length or config.context_length)
    matrices = parameters(config)["attention"] + parameters(config)["feed_forward"]
    kept, recomputed = activation_bytes_per_token(config, dtype, plain, checkpointing)
    return TrainingMemory(
        weights=4 * count,
        gradients=4 * count,
        optimizer=8 * count,
        weight_copies=0 if dtype == "fp32" else ELEMENT_SIZE[dtype] * matrices,
        # With experts, also the number of tokens of each.
        activations=tokens * kept + 4 * config.num_layers * config.num_experts,
        recomputed=tokens * recomputed,
        head_gradient=4 * config.vocab_size * config.d_model,
        workspace=step_workspace(config, tokens, dtype, plain),
    )


def activation_bytes_per_token(
    config: ModelConfig,
    dtype: str,
    plain: bool = False,
    checkpointing: Checkpointing = "none",
    tensor_parallel: int = 1,
) -> tuple[int, int]:
    """(bytes that autograd keeps per token for the backward, bytes that the backward of one layer recomputes at most), for
    every arrangement of the model (docs/memory.md), on one of `tensor_parallel` ranks.

    plain: with PyTorch's operators; exact in fp32 for pre-norm, RoPE and SwiGLU, also with experts, approximate for the
    others.
    """
    config = config.resolved()
    kept, recomputed = Saved(final_activations(config, dtype, plain)), 0
    for table, count in layer_kinds(config).items():
        own = kept_activations(config, table, dtype, checkpointing, plain, tensor_parallel)
        kept = kept.plus(own.times(count))
        # What the layer has kept is part of what its backward reads, or is freed when the rest has been recomputed.
        missing = layer_activations(config, table, dtype, plain).minus(own)
        recomputed = max(recomputed, missing.on_rank(tensor_parallel))
    return kept.on_rank(tensor_parallel), recomputed


def step_workspace(
    config: ResolvedConfig, tokens: int, dtype: str, plain: bool = False, tensor_parallel: int = 1
) -> int:
    """Bytes of temporary tensors: the larger of those of the loss and of those in the backward of a feed-forward."""
    element = ELEMENT_SIZE[dtype]
    vocabulary, hidden = config.vocab_size // tensor_parallel, config.ffn_hidden // tensor_parallel
    up = (2 if config.ffn == "swiglu" else 1) * hidden
    logits = element * tokens * vocabulary
    logits = min(logits, LARGEST_LOGITS_BYTES, max(LOGITS_BYTES, logits // 8))
    loss = (3 if plain else 1) * logits  # PyTorch's: their log-probabilities and gradients, too
    rows = tokens * (config.experts_per_token if config.num_experts else 1)  # of the feed-forward
    return max(
        loss + element * vocabulary * config.d_model, element * rows * (hidden + up + 2 * config.d_model)
    )


def kv_cache_bytes_per_token(config: ModelConfig, element_size: int = 2) -> int:
    """Bytes per token of a sequence in the key/value cache, over all layers.

    Layers with a sliding window also store all tokens: a window saves reading, not memory.
    """
    config = config.resolved()
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * element_size


def largest_batch(
    config: ModelConfig, memory_bytes: float, dtype: str, checkpointing: Checkpointing = "none"
) -> int:
    """The largest number of sequences of context_length per forward pass that fits into `USABLE` of the memory, or 0."""
    return largest_satisfying(
        lambda batch: (
            training_memory(config, batch, dtype, checkpointing=checkpointing).total <= USABLE * memory_bytes
        )
    )
