"""The tensors of a TransformerLM and their parts under the names that Llama, Mistral, Qwen2 and Qwen3 share in Hugging
Face folders. There the fused projections (queries, keys and values; gate and up) are separate matrices. Rotated pairs are
(i, i + head_dim / 2) on both sides, so no row changes its place. Does not import torch.
"""

from lmfast.model.config import ResolvedConfig

Parts = list[tuple[str, int]]
"""(name in a Hugging Face folder, number of rows) in the order in which they are fused"""


def tensor_parts(config: ResolvedConfig) -> dict[str, Parts]:
    """{name of our tensor: its parts}; a tied head has none."""
    d_model, head_dim, d_ff = config.d_model, config.head_dim, config.d_ff
    kv = config.num_kv_heads * head_dim
    found: dict[str, Parts] = {"embedding.weight": [("model.embed_tokens.weight", config.vocab_size)]}
    for i in range(config.num_layers):
        ours, theirs = f"blocks.{i}", f"model.layers.{i}"
        attention = f"{theirs}.self_attn"
        widths = {"q_proj": config.attention_width, "k_proj": kv, "v_proj": kv}
        found |= {
            f"{ours}.attention_norm.weight": [(f"{theirs}.input_layernorm.weight", d_model)],
            f"{ours}.attention.qkv.weight": [(f"{attention}.{k}.weight", n) for k, n in widths.items()],
            f"{ours}.attention.out.weight": [(f"{attention}.o_proj.weight", d_model)],
            f"{ours}.ffn_norm.weight": [(f"{theirs}.post_attention_layernorm.weight", d_model)],
            f"{ours}.feed_forward.up.weight": [
                (f"{theirs}.mlp.gate_proj.weight", d_ff),
                (f"{theirs}.mlp.up_proj.weight", d_ff),
            ],
            f"{ours}.feed_forward.down.weight": [(f"{theirs}.mlp.down_proj.weight", d_model)],
        }
        if config.qkv_bias:
            found[f"{ours}.attention.qkv.bias"] = [(f"{attention}.{k}.bias", n) for k, n in widths.items()]
        if config.qk_norm:
            found |= {
                f"{ours}.attention.{k}.weight": [(f"{attention}.{k}.weight", head_dim)]
                for k in ("q_norm", "k_norm")
            }
    found["final_norm.weight"] = [("model.norm.weight", d_model)]
    if not config.tie_embeddings:
        found["head.weight"] = [("lm_head.weight", config.vocab_size)]
    return found
