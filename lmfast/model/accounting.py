"""Parameters and FLOPs of a model, computed from its ModelConfig. Memory is in memory.py, peak rates in peaks.py.

Convention, stated wherever a number is printed: forward = 2 × matmul parameters × tokens + 4 × num_layers × d_model × T per
token for attention (full, not halved for causality); training = 3 × forward (PaLM, Chowdhery et al. 2022, appendix B). A
layer with a sliding window counts min(T, window) instead of T, so that skipped work does not raise MFU. With head_dim set,
num_heads × head_dim takes the place of d_model. With experts, matmul parameters are those of the router and of the
experts_per_token experts that a token passes through. Norms, biases, rotations and embedding lookups do not count.
"""

from lmfast.model.config import ModelConfig
from lmfast.model.peaks import device_peak, measured_matmul_flops

# Training imports everything it needs for MFU from here.
__all__ = [
    "CONVENTION",
    "active_parameters",
    "device_peak",
    "forward_flops",
    "measured_matmul_flops",
    "num_parameters",
    "parameters",
    "training_flops_per_token",
]

CONVENTION = (
    "FLOPs: forward = 2 × matmul parameters × tokens + 4 × num_layers × d_model × T per token for attention "
    "(full, not halved for causality; min(T, window) in layers with a sliding window); training = 3 × forward"
)
EXPERTS_CONVENTION = (
    "With experts: active parameters and FLOPs are those of the router and of the experts_per_token experts that a token "
    "passes through"
)


def parameters(config: ModelConfig) -> dict[str, int]:
    """Parameter count by component; a tied head counts as 0."""
    config = config.resolved()
    d, layers, queries = config.d_model, config.num_layers, config.attention_width
    kv = config.num_kv_heads * config.head_dim
    norms_a_block = 0 if config.norm == "none" else (1 if config.parallel_block else 2)
    norms = d * (layers * norms_a_block + (config.norm == "pre"))
    if config.qk_norm:
        norms += 2 * config.head_dim * layers
    matrices = 3 if config.ffn == "swiglu" else 2
    tables = config.num_value_embeddings
    return {
        "embedding": config.vocab_size * d,
        "position_embedding": config.context_length * d if config.position == "learned" else 0,
        "attention": layers * 2 * d * (queries + kv),
        "feed_forward": layers * matrices * d * config.ffn_hidden * (config.num_experts or 1),
        "router": layers * config.num_experts * d,
        "norms": norms,
        "biases": layers * (queries + 2 * kv) if config.qkv_bias else 0,
        "value_embeddings": tables * (config.vocab_size * kv + config.num_kv_heads),
        "head": 0 if config.tie_embeddings else config.vocab_size * d,
    }


def num_parameters(config: ModelConfig) -> int:
    return sum(parameters(config).values())


def active_parameters(config: ModelConfig) -> int:
    """Parameters that a token uses: without the experts that it does not pass through."""
    config, count = config.resolved(), parameters(config)
    return sum(count.values()) - count["feed_forward"] + _active_feed_forward(config, count["feed_forward"])


def _active_feed_forward(config: ModelConfig, count: int) -> int:
    """The part of the `count` parameters of all experts that a token uses."""
    return count // config.num_experts * config.experts_per_token if config.num_experts else count


def forward_flops(config: ModelConfig, sequence_length: float, batch: int = 1) -> dict[str, float]:
    """FLOPs of one forward pass over `batch` sequences, by component."""
    config = config.resolved()
    count, tokens = parameters(config), batch * sequence_length
    return {
        "attention_projections": 2 * count["attention"] * tokens,
        "attention_scores": 4 * config.attention_width * config.attention_span(sequence_length) * tokens,
        "feed_forward": 2 * _active_feed_forward(config, count["feed_forward"]) * tokens,
        "router": 2 * count["router"] * tokens,
        "head": 2 * config.vocab_size * config.d_model * tokens,
    }


def training_flops_per_token(config: ModelConfig, sequence_length: float) -> float:
    """3 × forward per token. sequence_length: T, or its mean if attention is restricted to documents."""
    return 3 * sum(forward_flops(config, sequence_length).values()) / sequence_length
