"""The shape of a transformer. Does not import torch, so that `--help` is fast.

Every field is a setting of the same name in YAML and on the command line (`d_model`, `--d-model`). `resolved()` derives
the fields that are None from the others; models, checkpoints and counts always use its ResolvedConfig.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from lmfast.errors import UserError


@dataclass(frozen=True)
class ModelConfig:
    """Decoder-only transformer (Llama-like: RMSNorm, RoPE, SwiGLU) and its ablations."""

    vocab_size: int | None = None
    """number of token ids; taken from the tokenizer or token file if not set"""
    context_length: int = 1024
    """maximum sequence length in tokens, in training and generation"""
    d_model: int = 768
    """width of the residual stream"""
    num_layers: int = 12
    """transformer blocks"""
    num_heads: int = 12
    """query heads; the head dimension must be even"""
    num_kv_heads: int | None = None
    """key/value heads (grouped-query attention); defaults to num_heads"""
    head_dim: int | None = None
    """width of a head; defaults to d_model / num_heads"""
    d_ff: int | None = None
    """hidden width of SwiGLU; defaults to 4 * d_model; silu and relu2 use 1.5 times as much, for equal parameters"""
    rope_theta: float = 10000.0
    """base of the rotary frequencies"""
    rope_factor: float = 1.0
    """divisor of low rotary frequencies, to extend the context as in Llama 3; 1 changes nothing"""
    rope_low_freq_factor: float = 1.0
    """rope_factor: divides frequencies of fewer rotations than this in rope_original_context fully"""
    rope_high_freq_factor: float = 4.0
    """rope_factor: keeps frequencies of more rotations than this, and interpolates in between"""
    rope_original_context: int = 8192
    """rope_factor: context length in tokens before the extension"""
    norm: Literal["pre", "post", "none"] = "pre"
    """RMSNorm before each sublayer, after each residual sum, or none"""
    norm_eps: float = 1e-5
    """added to the mean square in RMSNorm"""
    position: Literal["rope", "none", "learned", "sinusoidal"] = "rope"
    """rotary position embedding, none (NoPE), or a learned or sinusoidal vector per position added to the embedding"""
    ffn: Literal["swiglu", "silu", "relu2"] = "swiglu"
    """feed-forward: gated SiLU, plain SiLU or squared ReLU, with equal parameter counts"""
    num_experts: int = 0
    """feed-forwards of width d_ff per layer, of which a router selects experts_per_token for each token; 0: one for all"""
    experts_per_token: int = 2
    """num_experts: feed-forwards that a token passes through"""
    qk_norm: bool = False
    """apply RMSNorm to each query and key head before the rotation"""
    qkv_bias: bool = False
    """add a learned bias to queries, keys and values"""
    value_embeddings: bool = False
    """add a learned vector per token id to the values of every other layer, including the last"""
    zero_init: bool = False
    """initialise the projections that write to the residual stream to zero"""
    logit_softcap: float | None = None
    """replace logits by softcap * tanh(logits / softcap); no cap if not set"""
    tie_embeddings: bool = False
    """share one matrix between input embedding and output head"""
    parallel_block: bool = False
    """compute attention and feed-forward from the same normalised input and add both (GPT-J)"""
    dropout: float = 0.0
    """dropout probability of the embedding and of each sublayer's output"""
    sliding_window: int | None = None
    """number of tokens, itself included, that a token attends to in windowed layers; 0 or not set: full attention"""
    window_pattern: str = "SSSL"
    """with sliding_window: windowed (S) and full (L) layers, repeated over the depth; the last layer is always full"""

    def resolved(self) -> "ResolvedConfig":
        """A copy with derived fields filled in. Raises UserError naming the setting that violates a constraint."""
        if self.vocab_size is None:
            raise UserError(
                "vocab_size is not set and no tokenizer or token file determines it; give --vocab-size"
            )
        derived: dict[str, Any] = {
            "vocab_size": self.vocab_size,
            "num_kv_heads": self.num_heads if self.num_kv_heads is None else self.num_kv_heads,
            "head_dim": self.d_model // max(1, self.num_heads) if self.head_dim is None else self.head_dim,
            "d_ff": 4 * self.d_model if self.d_ff is None else self.d_ff,
            "sliding_window": self.sliding_window or None,
            "window_pattern": self.window_pattern.upper(),
        }
        config = ResolvedConfig(**(vars(self) | derived))
        positive = [
            "vocab_size",
            "context_length",
            "d_model",
            "num_layers",
            "num_heads",
            "num_kv_heads",
            "head_dim",
            "d_ff",
            "rope_theta",
            "rope_original_context",
            "norm_eps",
        ]
        for name in positive:
            if not getattr(config, name) > 0:
                raise UserError(f"{name} is {getattr(config, name)}; it must be greater than 0")
        if self.head_dim is None and config.d_model % config.num_heads:
            raise UserError(
                f"d_model {config.d_model} is not divisible by num_heads {config.num_heads}; "
                f"use d_model {_nearest_multiple(config.d_model, config.num_heads)}, or set head_dim"
            )
        if config.head_dim % 2 and config.position == "rope":
            source = "" if self.head_dim else f" (d_model {config.d_model} / num_heads {config.num_heads})"
            raise UserError(
                f"head dimension {config.head_dim}{source} is odd; "
                "rope needs an even one: change d_model, num_heads or head_dim, or use another position"
            )
        if not 1 <= config.rope_factor < float("inf"):
            raise UserError(f"rope_factor is {config.rope_factor}; it must be at least 1")
        if not 0 < config.rope_low_freq_factor < config.rope_high_freq_factor:
            raise UserError(
                f"rope_low_freq_factor is {config.rope_low_freq_factor}; it must lie between 0 and "
                f"rope_high_freq_factor {config.rope_high_freq_factor}"
            )
        if config.num_heads % config.num_kv_heads:
            raise UserError(
                f"num_heads {config.num_heads} is not divisible by num_kv_heads {config.num_kv_heads}; "
                "use a divisor of num_heads"
            )
        if config.norm == "post" and config.parallel_block:
            raise UserError(
                "parallel_block does not work with norm post, which needs two residual sums; use norm pre or none"
            )
        if config.num_experts < 0 or config.num_experts == 1:
            raise UserError(f"num_experts is {config.num_experts}; it must be 0 (dense) or at least 2")
        if config.experts_per_token < 1:
            raise UserError(f"experts_per_token is {config.experts_per_token}; it must be at least 1")
        if config.num_experts and config.experts_per_token > config.num_experts:
            raise UserError(
                f"experts_per_token {config.experts_per_token} is greater than num_experts {config.num_experts}; use at "
                f"most {config.num_experts}"
            )
        if not 0 <= config.dropout < 1:
            raise UserError(f"dropout is {config.dropout}; it must be at least 0 and below 1")
        if config.logit_softcap is not None and not 0 < config.logit_softcap < float("inf"):
            raise UserError(f"logit_softcap is {config.logit_softcap}; it must be a number greater than 0")
        if config.sliding_window is not None and config.sliding_window < 0:
            raise UserError(
                f"sliding_window is {config.sliding_window}; give a number of tokens, or 0 for full attention"
            )
        if not config.window_pattern or set(self.window_pattern) - set("SLsl"):
            raise UserError(
                f"window_pattern is '{self.window_pattern}'; use the letters S (windowed) and L (full), such as SSSL"
            )
        return config

    def layer_window(self, layer: int) -> int | None:
        """Window size in tokens of layer `layer` (from 0); None for full attention.

        The pattern repeats over the layers and the last layer is always full, as in nanochat (Karpathy 2025).
        """
        short = self.window_pattern[layer % len(self.window_pattern)].upper() == "S"
        return self.sliding_window or None if short and layer != self.num_layers - 1 else None

    @property
    def num_windows(self) -> int:
        """Number of layers with a sliding window."""
        if not self.sliding_window:
            return 0
        pattern = self.window_pattern.upper()
        repeats, rest = divmod(self.num_layers - 1, len(pattern))
        return repeats * pattern.count("S") + pattern[:rest].count("S")

    def attention_span(self, sequence_length: float) -> float:
        """Maximum number of tokens that a token attends to in a sequence of this length, summed over the layers."""
        full = self.num_layers * sequence_length
        return full - self.num_windows * max(0, sequence_length - (self.sliding_window or 0))

    def has_value_embedding(self, layer: int) -> bool:
        """Whether layer `layer` (from 0) has value embeddings."""
        return self.value_embeddings and (self.num_layers - 1 - layer) % 2 == 0

    @property
    def num_value_embeddings(self) -> int:
        """Number of layers with value embeddings: every other layer, including the last."""
        return (self.num_layers + 1) // 2 if self.value_embeddings else 0

    @property
    def ffn_hidden(self) -> int:
        """Hidden width of the feed-forward: d_ff with a gate (3 matrices), 1.5 d_ff without (2 matrices)."""
        d_ff = 4 * self.d_model if self.d_ff is None else self.d_ff
        return d_ff if self.ffn == "swiglu" else (3 * d_ff) // 2


class ResolvedConfig(ModelConfig):
    """A ModelConfig that fulfils every constraint and has its derived fields set: what `ModelConfig.resolved()` returns."""

    vocab_size: int
    num_kv_heads: int
    head_dim: int
    d_ff: int

    @property
    def attention_width(self) -> int:
        """Width of all queries together, and of the output of attention before its projection: d_model in most models."""
        return self.num_heads * self.head_dim

    @property
    def embedding_std(self) -> float:
        """Standard deviation of the embedding at initialisation: lower if it is also the head, so that the logits start
        near unit scale."""
        return self.d_model**-0.5 if self.tie_embeddings else 1.0

    def unused_ids(self, known: Iterable[int]) -> list[int]:
        """The ids, in order, that are not among `known`, those of the tokenizer: a vocabulary may be padded beyond them."""
        return sorted(set(range(self.vocab_size)).difference(known))


def _nearest_multiple(value: int, base: int) -> int:
    return max(base, round(value / base) * base)
