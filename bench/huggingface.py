"""Our model's shape and weights as Hugging Face's LlamaForCausalLM: the peer of training and generation.

In: a TransformerLM of the Llama shape (pre-norm, RoPE, SwiGLU, no dropout). Out: a LlamaForCausalLM on the same device
with copies of its weights. Rejected: other shapes, and a weight that has no counterpart (load_state_dict is strict).
"""

from collections.abc import Callable

import torch

from lmfast.interop.hugging_face import split_weights
from lmfast.model.transformer import TransformerLM


def llama(model: TransformerLM):
    """A LlamaForCausalLM that computes what `model` computes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = model.config
    plain = {
        "norm": "pre", "position": "rope", "ffn": "swiglu", "qk_norm": False, "parallel_block": False, "dropout": 0.0,
        "value_embeddings": False, "logit_softcap": None, "sliding_window": None, "qkv_bias": False, "rope_factor": 1.0,
    }  # fmt: skip
    if any(getattr(shape, name) != value for name, value in plain.items()):
        raise ValueError("only the plain Llama shape has a counterpart in LlamaForCausalLM")
    config = LlamaConfig(
        vocab_size=shape.vocab_size, hidden_size=shape.d_model, intermediate_size=shape.d_ff,
        num_hidden_layers=shape.num_layers, num_attention_heads=shape.num_heads, num_key_value_heads=shape.num_kv_heads,
        max_position_embeddings=shape.context_length, rms_norm_eps=shape.norm_eps, head_dim=shape.head_dim,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=shape.tie_embeddings, bos_token_id=None, eos_token_id=None, attn_implementation="sdpa",
    )  # fmt: skip
    with torch.device(model.embedding.weight.device):
        theirs = LlamaForCausalLM(config)
    theirs.load_state_dict(split_weights(model) | {"lm_head.weight": model.head.weight.detach()})
    return theirs


def greedy(theirs, prompts: torch.Tensor, new: int) -> Callable[[], list[list[int]]]:
    """A call of its greedy generate that returns exactly `new` ids for each row of `prompts`, (batch, length) ids."""
    ids = prompts.to(theirs.device)
    mask = torch.ones_like(ids)

    def run() -> list[list[int]]:
        made = theirs.generate(
            ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0
        )
        return made[:, ids.shape[1] :].tolist()

    return run
