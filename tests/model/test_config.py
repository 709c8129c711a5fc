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
        ({"d_model": 250}, "d_model 250 is not divisible by num_heads 12; use d_model 252"),
        ({"d_model": 36}, "head dimension 3"),
        ({"num_kv_heads": 5}, "num_heads 12 is not divisible by num_kv_heads 5"),
        ({"head_dim": 5}, "head dimension 5 is odd"),
        ({"norm_eps": 0}, "norm_eps is 0"),
        ({"rope_factor": 0.5}, "rope_factor is 0.5; it must be at least 1"),
        ({"rope_low_freq_factor": 4.0}, "rope_low_freq_factor is 4.0; it must lie between 0 and .* 4.0"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"d_ff": -1}, "d_ff is -1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"norm": "post", "parallel_block": True}, "parallel_block"),
        ({"sliding_window": -1}, "sliding_window is -1"),
        ({"sliding_window": 8, "window_pattern": "SSX"}, "window_pattern is 'SSX'"),
        ({"window_pattern": ""}, "window_pattern is ''"),
        ({"window_pattern": "ſſL"}, "window_pattern is 'ſſL'"),  # whose capital is S
    ],
)
def test_invalid_settings_are_rejected_by_name(changes, message):
    with pytest.raises(UserError, match=message):
        ModelConfig(**({"vocab_size": 100} | changes)).resolved()


def test_ungated_feed_forwards_have_as_many_parameters():
    from lmfast.model.accounting import parameters

    shape = {"vocab_size": 10, "d_model": 64, "num_heads": 4, "d_ff": 128}
    counts = {
        ffn: parameters(ModelConfig(**shape, ffn=ffn))["feed_forward"] for ffn in ("swiglu", "silu", "relu2")
    }
    assert len(set(counts.values())) == 1


def test_num_value_embeddings_equals_the_layers_that_have_one():
    for layers in (1, 2, 3, 8):
        for value_embeddings in (False, True):
            config = ModelConfig(vocab_size=8, num_layers=layers, value_embeddings=value_embeddings)
            assert config.num_value_embeddings == sum(map(config.has_value_embedding, range(layers)))


@pytest.mark.parametrize(
    ("layers", "pattern", "expected"),
    [
        (8, "SSSL", "SSSLSSSL"),
        (6, "SSSL", "SSSLSL"),  # the last layer is full whatever the pattern says
        (3, "s", "SSL"),
        (1, "S", "L"),
        (5, "L", "LLLLL"),
    ],
)
def test_the_pattern_is_repeated_and_the_last_layer_is_full(layers, pattern, expected):
    config = ModelConfig(vocab_size=8, num_layers=layers, sliding_window=6, window_pattern=pattern).resolved()
    assert "".join("L" if config.layer_window(i) is None else "S" for i in range(layers)) == expected
    assert config.num_windows == expected.count("S")
    assert config.attention_span(10) == sum(6 if kind == "S" else 10 for kind in expected)
    assert config.attention_span(4) == 4 * layers


def test_without_a_window_every_layer_is_full():
    for nothing in (None, 0):
        config = ModelConfig(vocab_size=8, num_layers=4, sliding_window=nothing).resolved()
        assert config.sliding_window is None
        assert (config.num_windows, config.attention_span(10)) == (0, 40)
