"""Bytes that autograd saves per token for the backward, by layer, with and without recomputation. Does not import torch.

Input: a resolved config, the dtype of the products, how activations are checkpointed, and whether the layer has a value
embedding (table). Output: `Saved`, which keeps apart what tensor parallelism divides among its ranks. Explained in
docs/memory.md; a test compares it with real models.
"""

from typing import Literal, NamedTuple

from lmfast.model.config import ResolvedConfig

Checkpointing = Literal["none", "block", "selective"]

ELEMENT_SIZE = {"bf16": 2, "fp16": 2, "fp32": 4, "fp8": 2}  # fp8 products read casts of 16-bit activations


class Saved(NamedTuple):
    """Bytes per token. whole: on every rank; split: divided among the tensor-parallel ranks."""

    whole: int = 0
    split: int = 0

    def on_rank(self, tensor_parallel: int = 1) -> int:
        """Bytes per token on one of the tensor-parallel ranks."""
        return self.whole + self.split // tensor_parallel

    def plus(self, other: "Saved") -> "Saved":
        return Saved(self.whole + other.whole, self.split + other.split)

    def times(self, count: int) -> "Saved":
        return Saved(count * self.whole, count * self.split)

    def minus(self, other: "Saved") -> "Saved":
        return Saved(self.whole - other.whole, self.split - other.split)


def layer_kinds(config: ResolvedConfig) -> dict[bool, int]:
    """Numbers of layers with a value embedding (True) and without."""
    tables = config.num_value_embeddings
    return {table: count for table, count in ((True, tables), (False, config.num_layers - tables)) if count}


def layer_activations(config: ResolvedConfig, table: bool, dtype: str, plain: bool = False) -> Saved:
    """What a layer saves without recomputation. plain: with PyTorch's operators, as on a CPU."""
    e, d, hidden = ELEMENT_SIZE[dtype], config.d_model, config.ffn_hidden
    queries, kv = config.attention_width, config.num_kv_heads * config.head_dim
    reads = _sublayer_inputs(config)
    norms = 0 if config.norm == "none" else reads
    whole = e * (reads + norms) * d + 4 * norms
    ffn = hidden * ((3 if config.ffn == "swiglu" else 2) + plain)  # plain: the gate before its SiLU
    elements = queries + (ffn if not config.num_experts else 0)
    floats = config.num_heads
    if _reads_projection(config, table):
        elements += queries + 2 * kv
    if config.position == "rope" or config.qk_norm:
        elements += queries + kv  # queries and keys are separate tensors instead of views of the projection
    if config.qk_norm:
        floats += config.num_heads + config.num_kv_heads
    split = e * elements + 4 * floats
    if table:
        split += (e + 4) * kv  # the sum with the values, and the embeddings
    if plain:  # the norms' normalised x before their weight
        whole += 2 * e * d
    if config.num_experts:
        whole += _expert_activations(config, e, ffn)
    if config.dropout:
        whole += 2 * d  # one byte each
    return Saved(whole, split)


def _expert_activations(config: ResolvedConfig, e: int, ffn: int) -> int:
    """What routing and the experts save, beyond the input. e: bytes of an element; ffn: elements that one expert saves."""
    d, k = config.d_model, config.experts_per_token
    elements = k * (ffn + 2 * d)  # the token's copy for each expert, what that saves, and its output
    floats = (
        config.num_experts + k + (1 + k if k > 1 else 0)
    )  # probabilities, weights before and after the division
    if e < 4:  # the router reads its input in fp32; only attention beside it needs it in 16 bits
        floats += d
        elements -= 0 if config.parallel_block else d
    return e * elements + 4 * floats + 8 * 3 * k  # the chosen experts and their order


def final_activations(config: ResolvedConfig, dtype: str, plain: bool = False) -> int:
    """Bytes per token outside the layers: the last norm, the gradient of the hidden states, ids, the embedding's dropout."""
    e, d = ELEMENT_SIZE[dtype], config.d_model
    once = (2 * d if config.norm == "pre" else d) + (d if plain else 0)
    return e * once + 4 * (config.norm == "pre") + 8 + (d if config.dropout else 0)


def kept_activations(
    config: ResolvedConfig,
    table: bool,
    dtype: str,
    checkpointing: Checkpointing,
    plain: bool = False,
    tensor_parallel: int = 1,
) -> Saved:
    """What a layer keeps from the forward to its backward."""
    if checkpointing == "none":
        return layer_activations(config, table, dtype, plain)
    e, d = ELEMENT_SIZE[dtype], config.d_model
    if checkpointing == "block":
        return Saved(e * d)
    # Besides the input the results of attention and of the products. A norm or a dropout needs that of the last product,
    # too; with tensor parallelism every sum over the ranks is kept.
    queries, kv = config.attention_width, config.num_kv_heads * config.head_dim
    logits = 0
    if config.num_experts:  # the backward of their weighted sum reads the results of all experts
        sums, logits = 1 + config.experts_per_token, 4 * config.num_experts
    else:
        qkv, up = (d, (queries + 2 * kv) // tensor_parallel), (d, _up_width(config) // tensor_parallel)
        out, down = (queries // tensor_parallel, d), (config.ffn_hidden // tensor_parallel, d)
        reduced = tensor_parallel > 1
        unused = unused_products(qkv, out, up, down, reduced, needs_last_product(config))
        sums = (out not in unused) + (down not in unused)
        if reduced:
            sums += 1 if config.parallel_block else 2
    return Saved(
        e * (1 + sums) * d + logits,
        e * (queries + 2 * kv + queries + _up_width(config)) + 4 * config.num_heads,
    )


Sizes = tuple[int, int]
"""(K, N) of a product"""


def unused_products(
    qkv: Sizes, out: Sizes, up: Sizes, down: Sizes, reduced: bool, last_is_needed: bool
) -> set[Sizes]:
    """The sizes of products whose results `selective` does not keep, from those of a dense block: the last one, which
    nothing in the backward reads, or if they are `reduced` over ranks, those whose sum is kept instead. One with the sizes
    of a product that is needed is kept, too, because only the sizes tell them apart."""
    unused, kept = {down}, {qkv, up}
    if reduced:
        unused.add(out)
    elif last_is_needed:
        return set()
    else:
        kept.add(out)
    return unused - kept


def needs_last_product(config: ResolvedConfig) -> bool:
    """Whether the backward of a block reads what follows its last product: a norm, or the mask of a dropout."""
    return config.norm == "post" or config.dropout > 0


def _sublayer_inputs(config: ResolvedConfig) -> int:
    return 1 if config.parallel_block else 2  # parallel sublayers share one


def _up_width(config: ResolvedConfig) -> int:
    copies = config.experts_per_token if config.num_experts else 1
    return copies * (2 if config.ffn == "swiglu" else 1) * config.ffn_hidden


def _reads_projection(config: ResolvedConfig, table: bool) -> bool:
    """Whether the backward reads the product of queries, keys and values. With value embeddings the values are not a view
    of it, so after a rotation nothing is."""
    return config.qk_norm or config.position != "rope" or not table
