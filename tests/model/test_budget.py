import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmfast.model import budget
from lmfast.model.accounting import active_parameters, num_parameters, training_flops_per_token
from lmfast.model.budget import SPENT, compute_optimal, propose_shape, training_seconds
from lmfast.model.config import ModelConfig

L4_DAY = 121e12 * 24 * 3600


def test_a_day_on_an_l4_at_a_hundred_tokens_per_parameter():
    size, tokens = compute_optimal(L4_DAY, 100)
    assert round(size / 1e6, 1) == 132.0 and tokens == 100 * size
    assert 6 * size * tokens == pytest.approx(L4_DAY)


def test_time_and_tokens_are_inverse():
    config = ModelConfig(vocab_size=50257)
    seconds = training_seconds(config, 1024, 10**9, peak_flops=989e12, mfu=0.5)
    assert seconds * 0.5 * 989e12 == pytest.approx(10**9 * training_flops_per_token(config, 1024))


@settings(deadline=None, derandomize=True, max_examples=30)
@given(
    exponent=st.floats(16.5, 22),
    ratio=st.sampled_from([1.0, 20.0, 100.0]),
    ffn=st.sampled_from(["swiglu", "relu2"]),
)
def test_a_proposed_shape_spends_the_budget_and_no_more(exponent, ratio, ffn):
    base = ModelConfig(vocab_size=4096, context_length=256, ffn=ffn)
    proposal = propose_shape(base, 10**exponent, ratio)
    config = proposal.config
    assert SPENT * 10**exponent <= proposal.flops <= 10**exponent
    assert proposal.flops == proposal.tokens * training_flops_per_token(config, 256)
    assert proposal.parameters == num_parameters(config)
    assert proposal.tokens == round(ratio * proposal.parameters)
    assert (config.vocab_size, config.context_length, config.ffn, config.head_dim) == (4096, 256, ffn, 64)
    if exponent >= 18:  # below this, few shapes fit the budget
        assert 32 <= config.d_model / config.num_layers <= 128


def test_a_vast_budget_is_not_searched_width_by_width(monkeypatch):
    """1,000 widths are below the proposed one; each takes about forty counts."""
    counts = []
    monkeypatch.setattr(
        budget, "active_parameters", lambda config: counts.append(1) or active_parameters(config)
    )
    proposal = propose_shape(ModelConfig(vocab_size=32000, value_embeddings=True), 1e30, 20)
    assert proposal.flops > 0.99e30 and proposal.config.num_heads > 1000 and len(counts) < 5000


def test_a_budget_used_up_by_the_vocabulary_has_no_shape():
    assert propose_shape(ModelConfig(vocab_size=10**6), 1e12, 20) is None
