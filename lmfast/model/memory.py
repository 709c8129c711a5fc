"""What training and generation keep in memory, in bytes: pure arithmetic on a ModelConfig, no torch.

Assumed: fp32 weights, gradients and AdamW moments; matrix products autocast to bf16 or fp16 (or fp32 throughout); the
operators of `kernels` on a GPU; no recomputation; the loss by `linear_cross_entropy`, which holds no logits for the
backward; one device. What autograd saves is then exact, and a test counts it on real models; torch.compile may save
less, for it may recompute what is cheap. The plain PyTorch operators, which run on CPUs, save more.

Saved a token, with e bytes an element, hidden = ffn_hidden, kv = num_kv_heads × head_dim (pre-norm, RoPE, SwiGLU):
    a layer   e × (4 d_model        two norms: the residual sum that goes in, the normed x that the projection reads
                   + d_model + 2 kv the fused projection, which the values are a view of
                   + d_model + kv   rotated queries and keys
                   + d_model        attention's output
                   + 3 hidden)      gate, up, and the product that the down projection reads
              + 4 × (2 + num_heads) the norms' 1/rms, attention's logsumexp, fp32
    a layer with value embeddings keeps them, 4 kv bytes, and their sum with the values instead of the fused projection
    once      e × 2 d_model         the last residual sum; the loss's gradient towards the hidden states
              + 4 + 8               the last 1/rms, the token id
Besides, whatever the batch: the 16-bit copies of the blocks' matrices that autocast makes, and the head's gradient,
which the loss computes while it runs forward (fp32). On a CPU PyTorch's operators save hidden + 2 d_model elements more
for a layer, d_model more once, and hold the logits three times.

A step's peak is at most the sum of everything: early in the backward most gradients are not there yet, late in it most
activations are gone. `workspace` is on paper only: the larger of the loss's buffer of logits with its copy of the head,
and the gradients at hand in one feed-forward's backward.
"""

from dataclasses import dataclass

from lmfast.model.accounting import num_parameters, parameters
from lmfast.model.bisection import largest_satisfying
from lmfast.model.config import ModelConfig

USABLE = 0.9
"""share of a device's memory that is planned with: CUDA's context, cuBLAS and fragmentation take some"""

ELEMENT_SIZE = {"bf16": 2, "fp16": 2, "fp32": 4, "fp8": 2}  # fp8 products read casts of 16-bit activations

# The bounds of the loss's buffer in lmfast_kernels/linear_cross_entropy.py; a test compares.
LOGITS_BYTES = 384 * 2**20
LARGEST_LOGITS_BYTES = 2**30


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one training step on one device, by what they hold."""

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
    """Memory of a step over `batch` sequences of `length` (context_length), products in `dtype` (bf16, fp16, fp8 or fp32).

    plain: by PyTorch's operators, as on a CPU.
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
    """What autograd saves for each token of a batch (the sum in this module's docstring, for every arrangement).

    plain: by PyTorch's operators, exact in fp32 for pre-norm, RoPE and SwiGLU; the others come close.
    """
    config = config.resolved()
    e, d, hidden = ELEMENT_SIZE[dtype], config.d_model, config.ffn_hidden
    heads, kv_heads = config.num_heads, config.num_kv_heads
    kv = kv_heads * config.head_dim
    reads = 1 if config.parallel_block else 2  # sublayer inputs: both sublayers may share one
    norms = 0 if config.norm == "none" else reads
    elements = (reads + norms) * d + d + 2 * kv + d
    floats = norms + heads
    if config.position == "rope" or config.qk_norm:
        elements += d + kv  # queries and keys are tensors of their own, no longer views of the projection
    if config.qk_norm:
        floats += heads + kv_heads
    elements += (3 if config.ffn == "swiglu" else 2) * hidden
    once = 2 * d if config.norm == "pre" else d
    if plain:  # the norms' normalised x before their weight, the gate before its SiLU
        elements, once = elements + 2 * d + hidden, once + d
    # With value embeddings the values are no view of the fused projection, which then nothing may need any more.
    unread = 0 if config.qk_norm or config.position == "none" else d + 2 * kv
    tables = config.num_value_embeddings
    values = tables * (e * (kv - unread) + 4 * kv)
    masks = (2 * config.num_layers + 1) * d if config.dropout else 0  # one byte each
    layers = config.num_layers * (e * elements + 4 * floats) + values
    return layers + e * once + 4 * (config.norm == "pre") + 8 + masks


def kv_cache_bytes_per_token(config: ModelConfig, element_size: int = 2) -> int:
    """Bytes that one more token of one sequence occupies in the key/value cache, all layers.

    A layer with a sliding window keeps all tokens, too: a window saves reading, not memory.
    """
    config = config.resolved()
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * element_size


def largest_batch(config: ModelConfig, memory_bytes: float, dtype: str) -> int:
    """Most sequences of context_length in one forward pass that fit into `USABLE` of the memory; 0 when none does."""

    return largest_satisfying(
        lambda batch: training_memory(config, batch, dtype).total <= USABLE * memory_bytes
    )
