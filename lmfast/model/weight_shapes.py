"""The weights of a TransformerLM by name, without a model. Does not import torch."""

from lmfast.model.config import ResolvedConfig


def weight_shapes(config: ResolvedConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of `TransformerLM.named_weights()`, in its order: a tied head is absent."""
    d_model, hidden = config.d_model, config.ffn_hidden
    kv = config.num_kv_heads * config.head_dim
    qkv = config.attention_width + 2 * kv
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (config.vocab_size, d_model)}
    if config.position == "learned":
        shapes["position_embedding.weight"] = (config.context_length, d_model)
    for layer in range(config.num_layers):
        block: dict[str, tuple[int, ...]] = {}
        if config.norm != "none":
            block["attention_norm.weight"] = (d_model,)
        if config.has_value_embedding(layer):
            block["attention.value_weight"] = (config.num_kv_heads, 1)
        block["attention.qkv.weight"] = (qkv, d_model)
        if config.qkv_bias:
            block["attention.qkv.bias"] = (qkv,)
        block["attention.out.weight"] = (d_model, config.attention_width)
        if config.qk_norm:
            block["attention.q_norm.weight"] = block["attention.k_norm.weight"] = (config.head_dim,)
        if config.has_value_embedding(layer):
            block["attention.value_embedding.weight"] = (config.vocab_size, kv)
        if config.norm != "none" and not config.parallel_block:
            block["ffn_norm.weight"] = (d_model,)
        if config.num_experts:
            block["feed_forward.router.weight"] = (config.num_experts, d_model)
        up = 2 * hidden if config.ffn == "swiglu" else hidden
        block["feed_forward.up.weight"] = ((config.num_experts or 1) * up, d_model)
        block["feed_forward.down.weight"] = ((config.num_experts or 1) * d_model, hidden)
        shapes |= {f"blocks.{layer}.{name}": shape for name, shape in block.items()}
    if config.norm == "pre":
        shapes["final_norm.weight"] = (d_model,)
    if not config.tie_embeddings:
        shapes["head.weight"] = (config.vocab_size, d_model)
    return shapes


def fused_widths(config: ResolvedConfig) -> dict[str, list[int]]:
    """{weight or bias: numbers of rows of the matrices fused in it}, for the projections that fuse several."""
    kv = config.num_kv_heads * config.head_dim
    widths: dict[str, list[int]] = {}
    for layer in range(config.num_layers):
        block = f"blocks.{layer}"
        widths[f"{block}.attention.qkv.weight"] = [config.attention_width, kv, kv]
        if config.qkv_bias:
            widths[f"{block}.attention.qkv.bias"] = [config.attention_width, kv, kv]
        if config.ffn == "swiglu":
            widths[f"{block}.feed_forward.up.weight"] = [config.ffn_hidden] * 2
    return widths
