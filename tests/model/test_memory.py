import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmfast.model.activations import final_activations
from lmfast.model.config import ModelConfig, ResolvedConfig
from lmfast.model.memory import (
    USABLE,
    activation_bytes_per_token,
    kv_cache_bytes_per_token,
    largest_batch,
    training_memory,
)

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "vocab_size": 48, "context_length": 4, "d_model": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2,
    "d_ff": 48,
}  # fmt: skip
ARRANGEMENTS = [
    {},
    {"num_kv_heads": 4},
    {"norm": "post"},
    {"norm": "none"},
    {"position": "none"},
    {"position": "learned"},
    {"position": "sinusoidal"},
    {"qk_norm": True},
    {"qk_norm": True, "position": "none"},
    {"value_embeddings": True, "position": "learned"},
    {"ffn": "silu"},
    {"ffn": "relu2"},
    {"parallel_block": True},
    {"parallel_block": True, "norm": "none"},
    {"tie_embeddings": True},
    {"head_dim": 32, "qkv_bias": True},
    {"value_embeddings": True},
    {"value_embeddings": True, "num_layers": 3, "qk_norm": True, "position": "none"},
    {"logit_softcap": 10.0},
    {"sliding_window": 2, "num_layers": 3, "window_pattern": "SL"},
    {"dropout": 0.1},
    {"num_layers": 3, "num_heads": 2, "num_kv_heads": 1, "vocab_size": 24},
    {"num_experts": 4},
    {"num_experts": 3, "experts_per_token": 1, "ffn": "relu2", "parallel_block": True},
]


# The interpreter is slow: in fp32 only cases in which the number of tensors differs.
CASES = [(changes, "bf16") for changes in ARRANGEMENTS] + [
    ({}, "fp32"),
    ({"norm": "none", "dropout": 0.1}, "fp32"),
]


@pytest.fixture(scope="module")
def counted() -> list[int]:
    """Bytes that autograd saved, for each case."""
    pytest.importorskip("triton", reason="Triton is not installed on this platform")
    environment = os.environ | {"TRITON_INTERPRET": "1", "LMFAST_KERNELS": "triton"}
    program = [sys.executable, "-W", "ignore", str(Path(__file__).parent / "saved_bytes.py")]
    cases = [[TINY | changes, dtype == "bf16"] for changes, dtype in CASES]
    done = subprocess.run(
        [*program, json.dumps(cases)], env=environment, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda i: str(CASES[i]))
def test_what_a_real_model_saves_is_counted_to_the_byte(index, counted):
    changes, dtype = CASES[index]
    config = ModelConfig(**(TINY | changes))
    memory = training_memory(config, 2, dtype)
    expected = memory.activations + memory.weight_copies + memory.head_gradient
    if config.dropout:
        # A GPU's dropout keeps one byte per element; the CPU's keeps the mask in the dtype of the activations.
        element = 2 if dtype == "bf16" else 4
        expected += (element - 1) * (2 * config.num_layers + 1) * config.d_model * 2 * config.context_length
    assert counted[index] == expected


def test_weights_gradients_and_moments_are_fp32():
    config = ModelConfig(vocab_size=50257, d_model=1600, num_layers=48, num_heads=25)
    memory = training_memory(config, 1, "bf16")
    assert (memory.weights, memory.gradients, memory.optimizer) == (
        4 * 2_127_057_600,
        4 * 2_127_057_600,
        8 * 2_127_057_600,
    )
    assert memory.weight_copies == 2 * (491_520_000 + 1_474_560_000)
    assert training_memory(config, 1, "fp32").weight_copies == 0
    assert memory.total == sum(dataclasses.asdict(memory).values())


def test_the_formula_of_the_docstring():
    # GPT-2 small as SwiGLU: 22 d_model elements per layer, the floats of norms and attention, and what is saved once.
    config = ModelConfig(vocab_size=50257)
    kept, recomputed = activation_bytes_per_token(config, "bf16")
    assert (kept, recomputed) == (12 * (2 * 22 * 768 + 4 * (2 + 12)) + 4 * 768 + 12, 0)


def test_the_logits_buffer_is_the_kernels():
    from lmfast.model import memory
    from lmfast_kernels import linear_cross_entropy  # the function, which hides its module of the same name

    module = sys.modules[linear_cross_entropy.__module__]
    assert memory.LOGITS_BYTES == module.LOGITS_BYTES
    assert memory.LARGEST_LOGITS_BYTES == module.LARGEST_LOGITS_BYTES
    config = ModelConfig(vocab_size=50304, context_length=1024, num_layers=1)
    for batch in (16, 64, 200):
        tokens = batch * 1024
        buffer = min(2 * tokens * 50304, module.logits_bytes(tokens, 2 * 50304))
        pointwise = 2 * tokens * (3 * config.resolved().ffn_hidden + 2 * config.d_model)
        assert training_memory(config, batch, "bf16").workspace == max(buffer + 2 * 50304 * 768, pointwise)


def test_without_num_kv_heads_every_head_has_its_own_keys():
    assert kv_cache_bytes_per_token(ModelConfig(vocab_size=50257)) == 2 * 12 * 768 * 2


@settings(deadline=None, derandomize=True, max_examples=50)
@given(gigabytes=st.floats(0.001, 200), dtype=st.sampled_from(["bf16", "fp16", "fp32", "fp8"]))
def test_the_largest_batch_fits_and_the_next_does_not(gigabytes, dtype):
    config = ModelConfig(
        vocab_size=10000, context_length=256, d_model=512, num_layers=4, num_heads=16, d_ff=1344
    )
    batch = largest_batch(config, gigabytes * 1e9, dtype)
    capacity = USABLE * gigabytes * 1e9
    assert batch == 0 or training_memory(config, batch, dtype).total <= capacity
    assert training_memory(config, batch + 1, dtype).total > capacity


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_layers": 3},
        {"num_kv_heads": 1},
        {"vocab_size": 96, "d_ff": 160},
        {"num_experts": 6, "experts_per_token": 3},
        {"num_experts": 4, "experts_per_token": 1},
    ],
    ids=str,
)
def test_what_pytorchs_operators_save_on_a_cpu(changes, monkeypatch):
    from tests.model.saved_bytes import saved_bytes

    monkeypatch.setattr("lmfast_kernels.cpu_library.available", lambda: False)
    config = ModelConfig(**(TINY | {"context_length": 64} | changes)).resolved()
    batch, tables = 8, 4 * config.num_layers * config.context_length * config.head_dim
    memory = training_memory(config, batch, "fp32", plain=True)
    assert saved_bytes(config, batch, False) == memory.activations + memory.head_gradient + tables


@pytest.mark.parametrize("checkpointing", ["none", "block", "selective"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"num_layers": 3}, {"num_kv_heads": 1}, {"vocab_size": 96, "d_ff": 160}, {"d_ff": 64}],
    ids=str,
)
def test_what_exists_in_the_backward_on_a_cpu(changes, checkpointing, monkeypatch):
    """With the peak of one layer's recomputation, when what the loss and the last norm had saved is gone."""
    from tests.model.saved_bytes import kept_bytes

    monkeypatch.setattr("lmfast_kernels.cpu_library.available", lambda: False)
    config = ModelConfig(**(TINY | {"context_length": 64} | changes)).resolved()
    batch, tokens = 8, 8 * config.context_length
    memory = training_memory(config, batch, "fp32", plain=True, checkpointing=checkpointing)
    tables = 4 * config.num_layers * config.context_length * config.head_dim if checkpointing == "none" else 0
    ids = 8 * tokens  # the caller's
    kept = memory.activations + memory.head_gradient + tables - ids
    scalars = 8  # the loss and its gradient
    layers = memory.activations - tokens * final_activations(config, "fp32", plain=True)
    assert (memory.recomputed > 0) == (checkpointing != "none")
    peak = max(kept, layers + memory.recomputed + (0 if checkpointing == "none" else tables_of_one(config)))
    found, highest = kept_bytes(config, batch, checkpointing)
    assert found == kept
    # A product that is kept without being read exists beside what is recomputed (docs/memory.md).
    unread = checkpointing == "selective" and config.d_ff == config.attention_width
    assert highest == peak + scalars + unread * 4 * config.d_model * tokens


def tables_of_one(config: ResolvedConfig) -> int:
    return 4 * config.context_length * config.head_dim


def test_recomputation_takes_less_memory_and_allows_larger_batches():
    config = ModelConfig(vocab_size=50257, num_layers=24, d_model=1024, num_heads=16)
    found = {
        kind: training_memory(config, 8, "bf16", checkpointing=kind)
        for kind in ("none", "selective", "block")
    }
    assert found["none"].total > found["selective"].total > found["block"].total
    batches = [largest_batch(config, 40e9, "bf16", kind) for kind in found]
    assert 0 < batches[0] < batches[1] < batches[2]
    # block: one residual stream of 16 bits per layer, and what is saved once; d_ff is 4 · 1024
    assert found["block"].activations == 8 * 1024 * (24 * 2 * 1024 + 2 * 2 * 1024 + 4 + 8)
    assert found["block"].recomputed == 8 * 1024 * (2 * 21 * 1024 + 4 * (2 + 16))
    # selective: and qkv (3), attention (1), its projection (1), gate and up (8), 16 logsumexps
    assert found["selective"].activations == found["block"].activations + 8 * 1024 * 24 * (
        2 * 13 * 1024 + 4 * 16
    )
