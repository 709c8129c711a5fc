import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lmfast.model.accounting import (
    forward_flops,
    num_parameters,
    parameters,
    training_flops_per_token,
)
from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM
from lmfast_kernels import backend

GPT2 = {"small": (768, 12, 12), "medium": (1024, 24, 16), "large": (1280, 36, 20), "xl": (1600, 48, 25)}


def gpt2(size: str) -> ModelConfig:
    d_model, layers, heads = GPT2[size]
    return ModelConfig(50257, 1024, d_model, layers, heads, d_ff=4 * d_model)


@pytest.mark.parametrize(
    ("size", "count", "flops"),
    [
        ("small", 190_460_160, 349_630_365_696),
        ("medium", 505_629_696, 1_033_109_504_000),
        ("large", 1_072_469_760, 2_257_754_521_600),
        ("xl", 2_127_057_600, 4_513_336_524_800),
    ],
)
def test_known_shapes(size, count, flops):
    assert num_parameters(gpt2(size)) == count
    assert sum(forward_flops(gpt2(size), 1024).values()) == flops


def test_shares_of_gpt2_xl():
    flops = forward_flops(gpt2("xl"), 1024)
    assert round(100 * flops["feed_forward"] / sum(flops.values()), 2) == 66.91
    assert sum(forward_flops(gpt2("xl"), 16384).values()) == 149_522_795_724_800


def test_owt_124m():
    config = ModelConfig(32000, 1024, 768, 12, 12, d_ff=2560, tie_embeddings=True)
    assert num_parameters(config) == 123_685_632


TINY = ModelConfig(vocab_size=50, context_length=16, d_model=32, num_layers=2, num_heads=4, d_ff=48)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_kv_heads": 2},
        {"head_dim": 12, "num_kv_heads": 2, "qkv_bias": True},
        {"norm": "post"},
        {"norm": "none"},
        {"ffn": "silu"},
        {"ffn": "relu2"},
        {"qk_norm": True},
        {"tie_embeddings": True},
        {"position": "learned"},
        {"position": "sinusoidal"},
        {"parallel_block": True},
        {"value_embeddings": True},
        {"value_embeddings": True, "num_kv_heads": 2, "num_layers": 3},
        {"zero_init": True},
        {"logit_softcap": 15.0},
    ],
    ids=str,
)
def test_counts_agree_with_the_real_model(changes, monkeypatch):
    config = dataclasses.replace(TINY, **changes)
    model = TransformerLM(config)
    assert num_parameters(config) == sum(p.numel() for p in model.parameters())
    assert min(parameters(config).values()) >= 0
    # torch counts neither our operators nor its fused CPU attention; the plain one computes the whole square,
    # as we count it.
    monkeypatch.setattr(backend, "MODE", "torch")
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(3, 16, dtype=torch.int64))
    assert counter.get_total_flops() == sum(forward_flops(config, 16, batch=3).values())


def test_a_layer_with_a_window_counts_what_a_token_attends_to_at_most():
    windowed = dataclasses.replace(TINY, num_layers=5, sliding_window=6, window_pattern="SSL")
    full = dataclasses.replace(TINY, num_layers=5)
    for length, keys in ((16, 6 + 6 + 16 + 6 + 16), (6, 5 * 6), (4, 5 * 4)):
        found, plain = forward_flops(windowed, length), forward_flops(full, length)
        assert found["attention_scores"] == 4 * TINY.d_model * keys * length
        assert found | {"attention_scores": 0} == plain | {"attention_scores": 0}


def test_training_is_three_forwards_per_token():
    assert training_flops_per_token(TINY, 16) == 3 * sum(forward_flops(TINY, 16).values()) / 16


def test_training_and_benchmarks_use_the_same_rates():
    # Training logs and benchmarks take the parts of MFU from one module.
    from lmfast.model import accounting, peaks

    assert accounting.device_peak is peaks.device_peak
    assert accounting.measured_matmul_flops is peaks.measured_matmul_flops
