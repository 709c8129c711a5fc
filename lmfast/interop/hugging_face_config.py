"""A ModelConfig as the config.json of a Hugging Face folder, and back. Does not import torch.

Classes: Llama (SmolLM too), Mistral, Qwen2, Qwen3. Rejects, by name, settings that these classes or lmfast lack. Checked
against transformers 5; rope_theta, rope_scaling and torch_dtype are what version 4 reads.
"""

import re
from pathlib import Path
from typing import Any, TypeVar

from lmfast.errors import UserError
from lmfast.model.config import ModelConfig, ResolvedConfig

Number = TypeVar("Number", int, float)

CLASSES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
LLAMA_SETTINGS = {
    "norm": "pre",
    "position": "rope",
    "ffn": "swiglu",
    "value_embeddings": False,
    "logit_softcap": None,
    "parallel_block": False,
    "num_experts": 0,
}
"""the settings that Llama and its relatives cannot express, with the value that they imply"""
_KINDS = ("full_attention", "sliding_attention")  # of a layer, in layer_types
NEUTRAL = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "partial_rotary_factor": 1.0,
    "quantization_config": None,
}
"""settings of config.json that lmfast lacks, with the only value that it can import"""
KV_HEADS = {"MistralForCausalLM": 8, "Qwen2ForCausalLM": 32, "Qwen3ForCausalLM": 32}
"""num_key_value_heads of a file that does not set it; one of null is num_attention_heads, as everywhere in Llama"""
_THEIR_NAMES = {
    "context_length": "max_position_embeddings",
    "d_model": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "d_ff": "intermediate_size",
    "norm_eps": "rms_norm_eps",
    "rope_factor": "factor",
    "rope_low_freq_factor": "low_freq_factor",
    "rope_high_freq_factor": "high_freq_factor",
    "rope_original_context": "original_max_position_embeddings",
}
"""{our setting: key of config.json}, for messages"""


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
    if config.qk_norm and config.qkv_bias:
        raise UserError(
            "qkv_bias is true and qk_norm too; no Hugging Face class for this architecture has both"
        )
    model_type = "qwen3" if config.qk_norm else "qwen2" if config.qkv_bias else "llama"
    windowed = [config.layer_window(i) is not None for i in range(config.num_layers)]
    has_windows = any(windowed) and (config.sliding_window or 0) < config.context_length
    if model_type == "llama" and has_windows:
        raise UserError(
            f"sliding_window is {config.sliding_window}, which Hugging Face's Llama does not support; only models with "
            "qk_norm or qkv_bias, or without windows, can be exported"
        )
    if model_type == "llama" and config.d_model % config.num_heads:
        raise UserError(
            f"d_model {config.d_model} is not divisible by num_heads {config.num_heads}, as Hugging Face's Llama requires; "
            "only models with qk_norm or qkv_bias can be exported without"
        )
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_factor != 1:
        rope |= {
            "rope_type": "llama3",
            "factor": config.rope_factor,
            "low_freq_factor": config.rope_low_freq_factor,
            "high_freq_factor": config.rope_high_freq_factor,
            "original_max_position_embeddings": config.rope_original_context,
        }
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
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": rope,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_dropout": 0.0,
        "use_cache": True,
        "dtype": dtype,
        "torch_dtype": dtype,
    }
    if config.rope_factor != 1:
        found["rope_scaling"] = rope
    if model_type != "qwen2":
        found["attention_bias"] = False
    if model_type == "llama":
        found["mlp_bias"] = False
    elif has_windows:
        found |= {"use_sliding_window": True, "sliding_window": config.sliding_window, "max_window_layers": 0}
        found["layer_types"] = [_KINDS[w] for w in windowed]
    return found


def from_config_json(
    document: dict[str, Any], path: Path, context_length: int | None = None
) -> ResolvedConfig:
    """The model of a config.json. path: for messages. context_length: a shorter one than the model's.

    A key that is null counts as absent, but for sliding_window and num_key_value_heads. Raises UserError for another
    architecture and for settings that lmfast lacks, by the keys of the file."""
    nulls = {name for name, value in document.items() if value is None}
    document = _without_nulls(document)
    architectures = document.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    if name not in CLASSES:
        raise UserError(
            f"{path}: the architecture {name} is not supported; lmfast imports {', '.join(CLASSES)}"
        )
    for setting, value in NEUTRAL.items():
        if document.get(setting, value) != value:
            raise UserError(
                f"{path}: {setting} is {_shown(document[setting])}, which is not supported; only {_shown(value)} is"
            )
    read = _Reader(document, path)
    heads, d_model = read.get("num_attention_heads", int), read.get("hidden_size", int)
    kv_heads = heads if "num_key_value_heads" in nulls else KV_HEADS.get(name, heads)
    longest, layers = read.get("max_position_embeddings", int), read.get("num_hidden_layers", int)
    if layers > MOST_LAYERS:
        raise UserError(f"{path}: num_hidden_layers is {layers}, more than {MOST_LAYERS}")
    if context_length is not None and context_length > longest:
        raise UserError(
            f"{path}: max_position_embeddings is {longest}, less than --context-length {context_length}"
        )
    context_length = context_length or longest
    head_dim = read.get("head_dim", int, 128 if name == "Qwen3ForCausalLM" else d_model // max(1, heads))
    if head_dim % 2:
        raise UserError(f"{path}: head_dim is {head_dim}, which is not supported; only even ones are")
    settings: dict[str, Any] = {
        "vocab_size": read.get("vocab_size", int),
        "context_length": context_length,
        "d_model": d_model,
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": read.get("num_key_value_heads", int, kv_heads),
        "head_dim": head_dim,
        "d_ff": read.get("intermediate_size", int),
        "norm_eps": read.get("rms_norm_eps", float, 1e-6),
        "tie_embeddings": bool(document.get("tie_word_embeddings")),
        "qk_norm": name == "Qwen3ForCausalLM",
        "qkv_bias": name == "Qwen2ForCausalLM",
        **_rope(document, path),
        **({} if "sliding_window" in nulls else _windows(read, name, context_length)),
    }
    try:
        return ModelConfig(**settings).resolved()
    except UserError as error:
        message = re.sub(r"\w+", lambda word: _THEIR_NAMES.get(word[0], word[0]), str(error))
        raise UserError(f"{path}: {message}") from None


def _without_nulls(document: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _without_nulls(value) if isinstance(value, dict) else value
        for name, value in document.items()
        if value is not None
    }


MOST_LAYERS = 10_000
LARGEST = 2**31
"""above every size in use; protects from a damaged file"""


class _Reader:
    """Numbers of a JSON object. Raises UserError for missing ones and other types. within: the object's key in the file."""

    def __init__(self, document: dict[str, Any], path: Path, within: str = ""):
        self.document, self.path, self._prefix = document, path, f"{within}." if within else ""

    def get(self, name: str, kind: type[Number], default: Number | None = None) -> Number:
        value = self.document.get(name, default)
        kinds = (int, float) if kind is float else (int,)
        if isinstance(value, bool) or not isinstance(value, kinds):
            wanted = "a number" if kind is float else "a whole number"
            raise UserError(f"{self.path}: {self._prefix}{name} is {_shown(value)}; expected {wanted}")
        if not abs(value) < LARGEST:  # neither infinite
            raise UserError(f"{self.path}: {self._prefix}{name} is {_shown(value)[:30]}, which is too large")
        return kind(value)


def _rope(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """The settings of the rotation; `rope_scaling` and a `rope_theta` outside are what transformers 4 writes."""
    key = "rope_scaling" if document.get("rope_scaling") else "rope_parameters"
    given = document.get(key) or {}
    kind = given.get("rope_type", given.get("type", "default")) if isinstance(given, dict) else None
    if kind == "default" and "factor" in given:
        kind = None  # a scaling whose kind is not said
    if kind not in ("default", "llama3") or any(isinstance(value, dict) for value in given.values()):
        raise UserError(f"{path}: {key} {_shown(given)[:60]} is not supported; only default and llama3 are")
    read, outside = _Reader(given, path, key), _Reader(document, path)
    if (partial := read.get("partial_rotary_factor", float, 1.0)) != 1:
        raise UserError(
            f"{path}: {key}.partial_rotary_factor is {partial}, which is not supported; only 1 is"
        )
    theta = read if "rope_theta" in given else outside
    found: dict[str, Any] = {"rope_theta": theta.get("rope_theta", float, 10000.0)}
    if kind == "llama3":
        found |= {
            "rope_factor": read.get("factor", float),
            "rope_low_freq_factor": read.get("low_freq_factor", float),
            "rope_high_freq_factor": read.get("high_freq_factor", float),
            "rope_original_context": read.get("original_max_position_embeddings", int),
        }
    return found


def _windows(read: _Reader, name: str, context_length: int) -> dict[str, Any]:
    """sliding_window and window_pattern, if windows are shorter than the context."""
    document, layers = read.document, read.get("num_hidden_layers", int)
    if name == "MistralForCausalLM":  # every layer, and 4096 unless the file says otherwise
        windowed = [True] * layers
    elif name != "LlamaForCausalLM" and document.get("use_sliding_window"):
        first = read.get("max_window_layers", int, 28)
        kinds = document.get("layer_types") or [_KINDS[i >= first] for i in range(layers)]
        if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in _KINDS for kind in kinds):
            raise UserError(f"{read.path}: layer_types {_shown(kinds)[:60]} is not supported")
        windowed = [kind == _KINDS[True] for kind in kinds]
    else:
        return {}
    window = read.get("sliding_window", int, 4096)
    if window >= context_length or not any(windowed):
        return {}
    if windowed[-1]:
        raise UserError(
            f"{read.path}: sliding_window is {window} in the last layer, where lmfast always attends to the whole context; "
            f"give --context-length {window}, within which it does not matter"
        )
    return {"sliding_window": window, "window_pattern": "".join("SL"[not w] for w in windowed)}


def _shown(value: object) -> str:
    """A value as in a YAML file."""
    return "not set" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
