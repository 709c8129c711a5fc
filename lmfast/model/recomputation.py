"""Activation checkpointing: the backward of a block recomputes activations instead of reading them from memory.

In: a model and how much to recompute. block: everything but the input of each block. selective: all but the results of
matrix products and attention, which take nearly all of the time; norms, rotations, activation functions and casts are
recomputed. Both use torch.utils.checkpoint within the forward of a block, so that FSDP's hooks are outside of it and
torch.compile traces one graph. Recomputation has the random state of the forward, so that dropout is the same. Generation
and evaluation are not affected. What this saves is counted in activations.py.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from lmfast.model.activations import Checkpointing, Sizes, needs_last_product, unused_products
from lmfast.model.layers import Block, FeedForward
from lmfast.model.shards import WHOLE
from lmfast.model.transformer import TransformerLM

EXPENSIVE = {
    *("aten.mm.default", "aten.addmm.default", "aten._scaled_mm.default", "aten._grouped_mm.default"),
    *("aten._scaled_dot_product_cudnn_attention.default", "aten._scaled_dot_product_flash_attention.default"),
    *("aten._scaled_dot_product_efficient_attention.default",),
    *("aten._scaled_dot_product_flash_attention_for_cpu.default",),
    "lmfast.grouped_linear.default",
    *("lmfast.attention_forward.default", "lmfast.attention_blocks.default"),
    *("lmfast.cpu_linear.default", "lmfast.cpu_self_attention.default", "lmfast.cpu_feed_forward.default"),
    "_c10d_functional.all_reduce.default",
}
"""operators whose results selective checkpointing keeps"""
PRODUCTS = {"aten.mm.default", "aten._scaled_mm.default", "lmfast.cpu_linear.default"}
"""those that multiply (tokens, K) with (K, N) or, in lmfast's case, (N, K)"""


def use_checkpointing(model: TransformerLM, kind: Checkpointing) -> None:
    """Makes the blocks of `model` recompute activations in training, or not (none)."""
    for block in model.blocks:
        block.recomputed = None if kind == "none" else _recomputed(model, block, kind)


def _recomputed(model: TransformerLM, block: Block, kind: Checkpointing) -> Callable[..., Any]:
    """A function (run, x) → run(x) that keeps what `kind` says."""
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": model.config.dropout > 0}
    if kind == "selective":
        # Warns that compiled regions must not write in place; ours do not.
        logging.getLogger("torch._higher_order_ops.wrap").setLevel(logging.ERROR)
        unused = _unused_products(block, needs_last_product(model.config))
        options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _policy(unused))
    return functools.partial(checkpoint, **options)


def _unused_products(block: Block, last_is_needed: bool) -> set[Sizes]:
    """The sizes of the products of a block whose results are not kept."""
    attention, layer = block.attention, block.feed_forward
    if not isinstance(layer, FeedForward):
        return set()
    weights = attention.qkv.weight, attention.out.weight, layer.up.weight, layer.down.weight
    qkv, out, up, down = map(_sizes, weights)
    return unused_products(qkv, out, up, down, block.shards is not WHOLE, last_is_needed)


def _sizes(weight: Tensor) -> Sizes:
    """(K, N) of the product with a weight (N, K)."""
    return weight.shape[1], weight.shape[0]


def _policy(unused: set[Sizes]) -> Callable[..., CheckpointPolicy]:
    def policy(context: Any, operator: Any, *arguments: Any, **named: Any) -> CheckpointPolicy:
        name = str(operator)
        if name not in EXPENSIVE:
            return CheckpointPolicy.PREFER_RECOMPUTE
        if name in PRODUCTS and unused:
            weight = arguments[1]
            sizes = _sizes(weight) if name.startswith("lmfast") else tuple(weight.shape)
            if sizes in unused:
                return CheckpointPolicy.PREFER_RECOMPUTE
        return CheckpointPolicy.MUST_SAVE

    return policy
