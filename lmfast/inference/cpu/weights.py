"""What the C++ decoder reads of a model. Does not import torch."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from lmfast.model.config import ModelConfig, ResolvedConfig
from lmfast_kernels import cpu_build

# Model settings that the decoder supports. All others must have their default.
_SUPPORTED = {
    "vocab_size", "context_length", "d_model", "num_layers", "num_heads", "num_kv_heads", "head_dim", "d_ff",
    "rope_theta", "rope_factor", "rope_low_freq_factor", "rope_high_freq_factor", "rope_original_context", "norm",
    "norm_eps", "position", "ffn", "qk_norm", "qkv_bias", "value_embeddings", "zero_init", "logit_softcap",
    "tie_embeddings", "parallel_block", "experts_per_token", "dropout", "sliding_window", "window_pattern",
}  # fmt: skip


@dataclass(frozen=True)
class DecoderWeights:
    """A model's shape and arrays, all C-contiguous and fp32 but the ids."""

    config: ResolvedConfig
    tensors: dict[str, np.ndarray]
    """by the names of TransformerLM.named_weights(): a tied head has the name of the embedding"""
    rope: tuple[np.ndarray, np.ndarray]
    """cos and sin (context_length, head_dim / 2), as model/rope.py computes them"""
    sinusoids: np.ndarray | None
    """(context_length, d_model) as model/sinusoidal.py computes it, with position sinusoidal"""
    unused_ids: np.ndarray | None = None
    """(n,) int64: ids that are never chosen"""


def model_blocker(config: ModelConfig) -> str | None:
    """Why the decoder cannot be used for models of this shape on this machine; None if it can."""
    for field in dataclasses.fields(ModelConfig):
        if field.name not in _SUPPORTED and getattr(config, field.name) != field.default:
            return f"its {field.name} is not supported there"
    return cpu_build.why_not("decoder") or None
