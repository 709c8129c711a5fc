"""Memory of training and generation in bytes, computed from a ModelConfig. Does not import torch.

Assumes fp32 weights, gradients and AdamW moments, products in bf16, fp16 or fp32, lmfast_kernels on a GPU, no
recomputation, and one device. The formulas are explained in docs/memory.md; a test compares them with what autograd saves
for real models.
"""

from dataclasses import dataclass

from lmfast.model.accounting import num_parameters, parameters
from lmfast.model.bisection import largest_satisfying
from lmfast.model.config import ModelConfig

USABLE = 0.9
"""usable fraction of a device's memory: CUDA's context, cuBLAS and fragmentation take the rest"""

ELEMENT_SIZE = {"bf16": 2, "fp16": 2, "fp32": 4, "fp8": 2}  # fp8 products read casts of 16-bit activations

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
    head_gradient: int
    workspace: int

    @property
    def total(self) -> int:
        return sum(vars(self).values())


def training_memory(
    config: ModelConfig, batch: int, dtype: str, length: int | None = None, plain: bool = False
) -> TrainingMemory:
    """Memory of a step over `batch` sequences of `length` tokens (default: context_length).

    dtype: of the products (bf16, fp16, fp8 or fp32). plain: with PyTorch's operators, as on a CPU.
    """
    config = config.resolved()
    element, count = ELEMENT_SIZE[dtype], num_parameters(config)
    tokens = batch * (length or config.context_length)
    head = config.vocab_size * config.d_model
    matrices = parameters(config)["attention"] + parameters(config)["feed_forward"]
    up = (2 if config.ffn == "swiglu" else 1) * config.ffn_hidden
    logits = element * tokens * config.vocab_size
    logits = min(logits, LARGEST_LOGITS_BYTES, max(LOGITS_BYTES, logits // 8))
    loss = (
        3 if plain else 1
    ) * logits + element * head  # PyTorch's: their log-probabilities and gradients, too
    return TrainingMemory(
        weights=4 * count,
        gradients=4 * count,
        optimizer=8 * count,
        weight_copies=0 if dtype == "fp32" else element * matrices,
        activations=tokens * activation_bytes_per_token(config, dtype, plain),
        head_gradient=4 * head,
        workspace=max(loss, element * tokens * (config.ffn_hidden + up + 2 * config.d_model)),
    )


def activation_bytes_per_token(config: ModelConfig, dtype: str, plain: bool = False) -> int:
    """Bytes that autograd saves per token, for every arrangement of the model (docs/memory.md).

    plain: with PyTorch's operators; exact in fp32 for pre-norm, RoPE and SwiGLU, approximate for the others.
    """
    config = config.resolved()
    e, d, hidden = ELEMENT_SIZE[dtype], config.d_model, config.ffn_hidden
    heads, kv_heads = config.num_heads, config.num_kv_heads
    queries, kv = config.attention_width, kv_heads * config.head_dim
    reads = 1 if config.parallel_block else 2  # sublayer inputs; parallel sublayers share one
    norms = 0 if config.norm == "none" else reads
    elements = (reads + norms) * d + queries + 2 * kv + queries
    floats = norms + heads
    if config.position == "rope" or config.qk_norm:
        elements += queries + kv  # queries and keys are separate tensors instead of views of the projection
    if config.qk_norm:
        floats += heads + kv_heads
    elements += (3 if config.ffn == "swiglu" else 2) * hidden
    once = 2 * d if config.norm == "pre" else d
    if plain:  # the norms' normalised x before their weight, the gate before its SiLU
        elements, once = elements + 2 * d + hidden, once + d
    # With value embeddings the values are not a view of the fused projection, which may then be freed.
    unread = 0 if config.qk_norm or config.position != "rope" else queries + 2 * kv
    tables = config.num_value_embeddings
    values = tables * (e * (kv - unread) + 4 * kv)
    masks = (2 * config.num_layers + 1) * d if config.dropout else 0  # one byte each
    layers = config.num_layers * (e * elements + 4 * floats) + values
    return layers + e * once + 4 * (config.norm == "pre") + 8 + masks


def kv_cache_bytes_per_token(config: ModelConfig, element_size: int = 2) -> int:
    """Bytes per token of a sequence in the key/value cache, over all layers.

    Layers with a sliding window also store all tokens: a window saves reading, not memory.
    """
    config = config.resolved()
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * element_size


def largest_batch(config: ModelConfig, memory_bytes: float, dtype: str) -> int:
    """The largest number of sequences of context_length per forward pass that fits into `USABLE` of the memory, or 0."""
    return largest_satisfying(
        lambda batch: training_memory(config, batch, dtype).total <= USABLE * memory_bytes
    )
