import pytest

from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM
from lmfast.model.weight_shapes import weight_shapes


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm": "post", "ffn": "relu2"},
        {"position": "learned", "context_length": 16},
        {"position": "sinusoidal"},
        {"norm": "none", "ffn": "silu", "parallel_block": True},
        {"parallel_block": True, "tie_embeddings": True},
        {"num_experts": 3},
        {"num_experts": 4, "experts_per_token": 1, "ffn": "silu"},
        {"qk_norm": True, "qkv_bias": True, "value_embeddings": True, "num_kv_heads": 2, "head_dim": 10},
    ],
    ids=str,
)
def test_names_shapes_and_order_are_those_of_the_model(changes):
    config = ModelConfig(vocab_size=50, d_model=32, num_layers=3, num_heads=4, **changes).resolved()
    weights = TransformerLM.without_memory(config).named_weights()
    assert list(weight_shapes(config).items()) == [(name, tuple(w.shape)) for name, w in weights.items()]
