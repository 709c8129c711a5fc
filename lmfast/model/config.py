"""The shape of a transformer, and nothing else: no torch here, so that `--help` answers at once.

Every field is a setting of the same name in YAML and on the command line (`d_model`, `--d-model`).
Fields left at None are derived from the others by `resolved()`, which gives a ResolvedConfig: what a model is built
from, what is saved and what is counted.
"""

from dataclasses import dataclass
from typing import Any, Literal

from lmfast.errors import UserError


@dataclass(frozen=True)
class ModelConfig:
    """A pre-norm decoder-only transformer (Llama-like: RMSNorm, RoPE, SwiGLU), with its ablations."""

    vocab_size: int | None = None
    """number of token ids; taken from the tokenizer or the token file when not set"""
    context_length: int = 1024
    """longest sequence in tokens, in training and in generation"""
    d_model: int = 768
    """width of the residual stream"""
    num_layers: int = 12
    """transformer blocks"""
    num_heads: int = 12
    """query heads; d_model / num_heads is the head dimension and must be even"""
    num_kv_heads: int | None = None
    """key and value heads (grouped-query attention); num_heads when not set"""
    d_ff: int | None = None
    """feed-forward width of SwiGLU; 4 * d_model when not set. silu and relu2 get 1.5 times it: equal parameters"""
    rope_theta: float = 10000.0
    """base of the rotary frequencies"""
    norm: Literal["pre", "post", "none"] = "pre"
    """RMSNorm before each sublayer, after each residual sum, or nowhere"""
    position: Literal["rope", "none"] = "rope"
    """rotary position embedding, or none (NoPE)"""
    ffn: Literal["swiglu", "silu", "relu2"] = "swiglu"
    """feed-forward: gated SiLU, plain SiLU, or squared ReLU, all with the same number of parameters"""
    qk_norm: bool = False
    """RMSNorm on each query and key head before the rotation"""
    value_embeddings: bool = False
    """every other layer, the last among them, adds a learned vector of the token itself to its values"""
    zero_init: bool = False
    """the projections that write to the residual stream start at zero: each block starts as the identity"""
    logit_softcap: float | None = None
    """logits become softcap * tanh(logits / softcap); no cap when not set"""
    tie_embeddings: bool = False
    """one matrix for the input embedding and the output head"""
    parallel_block: bool = False
    """attention and feed-forward read the same normalised input and are summed (GPT-J)"""
    dropout: float = 0.0
    """probability of dropping an element of the embedding and of each sublayer's output, in training only"""
    sliding_window: int | None = None
    """tokens that a token attends to in layers with a window, itself included; every layer is full when not set or 0"""
    window_pattern: str = "SSSL"
    """with sliding_window: which layers have a window (S) and which are full (L), repeated; the last is always full"""

    @property
    def head_dim(self) -> int:
        return self.d_model // self.num_heads

    def resolved(self) -> "ResolvedConfig":
        """Derived fields filled in and every constraint checked. Raises UserError naming the setting."""
        if self.vocab_size is None:
            raise UserError(
                "vocab_size is not set, and no tokenizer or token file says it; give --vocab-size"
            )
        derived: dict[str, Any] = {
            "vocab_size": self.vocab_size,
            "num_kv_heads": self.num_heads if self.num_kv_heads is None else self.num_kv_heads,
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
            "d_ff",
            "rope_theta",
        ]
        for name in positive:
            if not getattr(config, name) > 0:
                raise UserError(f"{name} is {getattr(config, name)}; it must be greater than 0")
        if config.d_model % config.num_heads:
            raise UserError(
                f"d_model {config.d_model} is not divisible by num_heads {config.num_heads}; "
                f"d_model {_nearest_multiple(config.d_model, config.num_heads)} would be"
            )
        if config.head_dim % 2 and config.position == "rope":
            raise UserError(
                f"head dimension {config.head_dim} (d_model {config.d_model} / num_heads {config.num_heads}) is odd; "
                "rope rotates pairs: choose an even one, or position none"
            )
        if config.num_heads % config.num_kv_heads:
            raise UserError(
                f"num_heads {config.num_heads} is not divisible by num_kv_heads {config.num_kv_heads}; "
                "each key/value head serves the same number of query heads"
            )
        if config.norm == "post" and config.parallel_block:
            raise UserError(
                "parallel_block with norm post has no meaning: there is one residual sum, not two"
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
                f"window_pattern is '{self.window_pattern}'; spell it with S (a window) and L (full), such as SSSL"
            )
        return config

    def layer_window(self, layer: int) -> int | None:
        """How many tokens a token attends to in layer `layer`, counted from 0; None: all before it.

        The pattern is nanochat's (Karpathy 2025): repeated over the layers, and the last layer is full.
        """
        short = self.window_pattern[layer % len(self.window_pattern)].upper() == "S"
        return self.sliding_window or None if short and layer != self.num_layers - 1 else None

    @property
    def num_windows(self) -> int:
        """How many layers have a sliding window."""
        if not self.sliding_window:
            return 0
        pattern = self.window_pattern.upper()
        repeats, rest = divmod(self.num_layers - 1, len(pattern))
        return repeats * pattern.count("S") + pattern[:rest].count("S")

    def attention_span(self, sequence_length: float) -> float:
        """Most tokens that a token of a sequence of this length attends to, summed over the layers."""
        full = self.num_layers * sequence_length
        return full - self.num_windows * max(0, sequence_length - (self.sliding_window or 0))

    def has_value_embedding(self, layer: int) -> bool:
        """Whether layer `layer`, counted from 0, has a table of value embeddings."""
        return self.value_embeddings and (self.num_layers - 1 - layer) % 2 == 0

    @property
    def num_value_embeddings(self) -> int:
        """How many layers have a table of value embeddings: every second one, the last among them."""
        return (self.num_layers + 1) // 2 if self.value_embeddings else 0

    @property
    def ffn_hidden(self) -> int:
        """Width of the feed-forward's hidden layer: d_ff with a gate (3 matrices), 1.5 d_ff without (2 matrices)."""
        d_ff = 4 * self.d_model if self.d_ff is None else self.d_ff
        return d_ff if self.ffn == "swiglu" else (3 * d_ff) // 2


class ResolvedConfig(ModelConfig):
    """A ModelConfig that fulfils every constraint and has its derived fields set: what `ModelConfig.resolved()` returns."""

    vocab_size: int
    num_kv_heads: int
    d_ff: int


def _nearest_multiple(value: int, base: int) -> int:
    return max(base, round(value / base) * base)
