"""The weights of a TransformerLM for the C++ decoder, without copying them."""

import dataclasses

import torch

from lmfast.inference.cpu.weights import DecoderWeights
from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM
from lmfast_kernels import cpu_build

# Model settings that the decoder supports. All others must have their default.
_SUPPORTED = {
    "vocab_size", "context_length", "d_model", "num_layers", "num_heads", "num_kv_heads", "head_dim", "d_ff",
    "rope_theta", "rope_factor", "rope_low_freq_factor", "rope_high_freq_factor", "rope_original_context", "norm",
    "norm_eps", "position", "ffn", "qk_norm", "qkv_bias", "value_embeddings", "zero_init", "logit_softcap",
    "tie_embeddings", "parallel_block", "dropout", "sliding_window", "window_pattern",
}  # fmt: skip


def unsupported_reason(model: TransformerLM) -> str | None:
    """Why the decoder does not support this model in its present state; None if it does."""
    if model.embedding.weight.device.type != "cpu":
        return "it is not on the CPU"
    if torch.is_autocast_enabled("cpu") or any(p.dtype != torch.float32 for p in model.parameters()):
        return "it does not compute in float32"
    if model.training and model.config.dropout:
        return "it is in training mode, with dropout"
    for field in dataclasses.fields(ModelConfig):
        if field.name not in _SUPPORTED and getattr(model.config, field.name) != field.default:
            return f"its {field.name} is not supported there"
    return cpu_build.why_not("decoder") or None


def weights_of(model: TransformerLM) -> DecoderWeights:
    """The arrays of a model on the CPU in fp32, which share its memory where that is contiguous."""
    unused = model.unused_ids
    return DecoderWeights(
        model.config,
        {name: weight.detach().contiguous().numpy() for name, weight in model.named_weights().items()},
        (model.rope_cos.numpy(), model.rope_sin.numpy()),
        None if unused is None else unused.numpy(),
    )
