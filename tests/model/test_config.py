import pytest

from lmfast.errors import UserError
from lmfast.model.config import ModelConfig


def test_derived_fields():
    config = ModelConfig(vocab_size=100, d_model=64, num_heads=4).resolved()
    assert (config.num_kv_heads, config.d_ff, config.head_dim) == (4, 256, 16)
    assert config.resolved() == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": None}, "vocab_size is not set"),
        ({"d_model": 250}, "d_model 250 is not divisible by num_heads 12; d_model 252 would be"),
        ({"d_model": 36}, "head dimension 3"),
        ({"num_kv_heads": 5}, "num_heads 12 is not divisible by num_kv_heads 5"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"d_ff": -1}, "d_ff is -1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"norm": "post", "parallel_block": True}, "parallel_block"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes, message):
    with pytest.raises(UserError, match=message):
        ModelConfig(**({"vocab_size": 100} | changes)).resolved()


def test_ungated_feed_forwards_have_as_many_parameters():
    from lmfast.model.accounting import parameters

    shape = {"vocab_size": 10, "d_model": 64, "num_heads": 4, "d_ff": 128}
    counts = {
        ffn: parameters(ModelConfig(**shape, ffn=ffn))["feed_forward"] for ffn in ("swiglu", "silu", "relu2")
    }
    assert len(set(counts.values())) == 1


def test_value_embeddings_are_counted_as_the_layers_have_them():
    for layers in (1, 2, 3, 8):
        for value_embeddings in (False, True):
            config = ModelConfig(vocab_size=8, num_layers=layers, value_embeddings=value_embeddings)
            assert config.num_value_embeddings == sum(map(config.has_value_embedding, range(layers)))
