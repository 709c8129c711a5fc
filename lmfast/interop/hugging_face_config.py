"""A ModelConfig as the config.json of a Hugging Face folder. Rejects settings that its classes lack, by name.

Checked against transformers 5; rope_theta, rope_scaling and torch_dtype are what version 4 reads. Does not import torch.
"""

from typing import Any

from lmfast.errors import UserError
from lmfast.model.config import ResolvedConfig

LLAMA_SETTINGS = {
    "norm": "pre",
    "position": "rope",
    "ffn": "swiglu",
    "value_embeddings": False,
    "logit_softcap": None,
    "parallel_block": False,
}
"""the settings that Llama and its relatives cannot express, with the value that they imply"""


def reject_unsupported(config: ResolvedConfig, lacking: str) -> None:
    """Raises UserError naming the first setting that Llama cannot express. lacking: such as "llama.cpp does not support"."""
    for name, value in LLAMA_SETTINGS.items():
        if getattr(config, name) != value:
            raise UserError(
                f"{name} is {_shown(getattr(config, name))}, which {lacking}; only models with {name} {_shown(value)} "
                "can be exported"
            )


def to_config_json(config: ResolvedConfig, dtype: str) -> dict[str, Any]:
    """The config.json of a model. dtype: torch's name of the weights' dtype. Raises UserError for unsupported settings."""
    reject_unsupported(config, "no Hugging Face class for this architecture supports")
    windowed = [config.layer_window(i) is not None for i in range(config.num_layers)]
    has_windows = any(windowed) and (config.sliding_window or 0) < config.context_length
    if has_windows and not config.qk_norm:
        raise UserError(
            f"sliding_window is {config.sliding_window}, which Hugging Face's Llama does not support; only models with "
            "qk_norm, or without windows, can be exported"
        )
    model_type = "qwen3" if config.qk_norm else "llama"
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    found: dict[str, Any] = {
        "architectures": [f"{model_type.capitalize()}ForCausalLM"],
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": 1e-5,
        "rope_parameters": rope,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_cache": True,
        "dtype": dtype,
        "torch_dtype": dtype,
    }
    if model_type == "llama":
        found["mlp_bias"] = False
    elif has_windows:
        found |= {"use_sliding_window": True, "sliding_window": config.sliding_window, "max_window_layers": 0}
        found["layer_types"] = ["sliding_attention" if w else "full_attention" for w in windowed]
    return found


def _shown(value: object) -> str:
    """A value as in a YAML file."""
    return "not set" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
