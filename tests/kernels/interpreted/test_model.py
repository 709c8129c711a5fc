"""A complete tiny model with the Triton kernels: five steps of `train_loop` and cached decoding, compared with float64.

The oracle is implemented here in plain PyTorch without `lmfast_kernels`, so that mistakes in an operator's reference
are found too.
"""

import dataclasses
from importlib import import_module

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bench import training_step
from bench.training_step import OurSteps
from lmfast.inference import torch_decoder
from lmfast.inference.sampling import Sampling
from lmfast.inference.torch_decoder import TorchDecoder
from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM
from lmfast.training.objectives import IGNORE, NextToken

ROWS, LEARNING_RATE, CLIP = 2, 1e-2, 0.5
# The interpreter takes about 50 ms per program of a kernel, so there are few rows, heads and layers.
SMALL = ModelConfig(vocab_size=61, context_length=21, d_model=32, num_layers=2, num_heads=2, d_ff=40)
SHAPES = {
    "tied, grouped heads": dataclasses.replace(SMALL, tie_embeddings=True, num_kv_heads=1),
    "untied, all options": dataclasses.replace(SMALL, qk_norm=True, value_embeddings=True, logit_softcap=3.0),
}
TRAINING = (
    "_rms_norm_forward_kernel",
    "_rms_norm_backward_kernel",
    "_rope_kernel",
    "_attention_forward_kernel",
    "_attention_dq_kernel",
    "_attention_dkdv_kernel",
    "_swiglu_forward_kernel",
    "_swiglu_backward_kernel",
    "_loss_kernel",
)
DECODING = ("_rope_append_kernel", "_decode_split_kernel", "_decode_linear_kernel")


def norm(x, weight):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * weight


def rotate(x, theta):
    """x (batch, heads, seq, head_dim): rotates pairs (i, i + head_dim / 2) by position · theta^(−2i / head_dim)."""
    seq, dim = x.shape[-2:]
    frequencies = theta ** (-torch.arange(0, dim, 2, dtype=x.dtype) / dim)
    angles = torch.arange(seq, dtype=x.dtype)[:, None] * frequencies
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()], dim=-1)


def attend(x, ids, weights, prefix, config):
    batch, seq, _ = x.shape
    heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
    q, k, v = (x @ weights[f"{prefix}.qkv.weight"].t()).split(
        [heads * dim, kv_heads * dim, kv_heads * dim], -1
    )
    q, k, v = (
        q.view(batch, seq, heads, dim),
        k.view(batch, seq, kv_heads, dim),
        v.view(batch, seq, kv_heads, dim),
    )
    if f"{prefix}.value_weight" in weights:
        table = weights[f"{prefix}.value_embedding.weight"]
        v = v + weights[f"{prefix}.value_weight"] * table[ids].view_as(v)
    if config.qk_norm:
        q, k = norm(q, weights[f"{prefix}.q_norm.weight"]), norm(k, weights[f"{prefix}.k_norm.weight"])
    q, k = rotate(q.transpose(1, 2), config.rope_theta), rotate(k.transpose(1, 2), config.rope_theta)
    group = heads // kv_heads
    k, v = k.repeat_interleave(group, 1), v.transpose(1, 2).repeat_interleave(group, 1)
    scores = (q @ k.transpose(-1, -2) * dim**-0.5).masked_fill(
        torch.ones(seq, seq).triu(1).bool(), -torch.inf
    )
    out = scores.softmax(-1) @ v
    return out.transpose(1, 2).reshape(batch, seq, heads * dim) @ weights[f"{prefix}.out.weight"].t()


def plain_logits(weights, config, ids):
    """Logits (batch, seq, vocab_size) of a model with these named weights, in their dtype."""
    x = weights["embedding.weight"][ids]
    for layer in range(config.num_layers):
        block = f"blocks.{layer}"
        normed = norm(x, weights[f"{block}.attention_norm.weight"])
        x = x + attend(normed, ids, weights, f"{block}.attention", config)
        normed = norm(x, weights[f"{block}.ffn_norm.weight"])
        gate, up = (normed @ weights[f"{block}.feed_forward.up.weight"].t()).chunk(2, -1)
        x = x + (F.silu(gate) * up) @ weights[f"{block}.feed_forward.down.weight"].t()
    head = weights["embedding.weight" if config.tie_embeddings else "head.weight"]
    logits = norm(x, weights["final_norm.weight"]) @ head.t()
    cap = config.logit_softcap
    return logits if cap is None else cap * torch.tanh(logits / cap)


def plain_loss(weights, config, rows, z_loss):
    """Mean of −log p + z_loss · logsumexp² over the counted targets."""
    ids = torch.from_numpy(rows)
    logits, targets = plain_logits(weights, config, ids[:, :-1].clamp(min=0)), ids[:, 1:]
    lse, counted = logits.logsumexp(-1), targets != IGNORE
    chosen = logits.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return (lse - chosen + z_loss * lse**2)[counted].mean()


def in_float64(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().double().requires_grad_() for name, p in model.named_parameters()}


class Rows:
    """A few rows of random ids per step, with some targets ignored."""

    def __init__(self, config):
        self.shape, self.vocab_size = (ROWS, config.context_length + 1), config.vocab_size

    def step(self, i: int) -> np.ndarray:
        generator = np.random.default_rng(i)
        ids = generator.integers(0, self.vocab_size, self.shape)
        return np.where(generator.random(self.shape) < 0.1, IGNORE, ids)


def train_both(config, z_loss, steps, monkeypatch):
    """(losses and weights with the kernels, the same with float64) after `steps` optimizer steps with clipping."""
    monkeypatch.setattr(training_step, "LEARNING_RATE", LEARNING_RATE)
    monkeypatch.setattr(training_step, "CLIP", CLIP)
    config = config.resolved()
    model = TransformerLM(config)
    weights, rows = in_float64(model), Rows(config)
    ours = OurSteps(model, rows, torch.device("cpu"), ROWS, compiled=False)
    ours.objective = NextToken(z_loss)
    ours.loss_fn = ours.objective.loss
    decayed, others = [[p for p in weights.values() if (p.ndim > 1) is matrix] for matrix in (True, False)]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": training_step.DECAY}, {"params": others, "weight_decay": 0.0}],
        lr=LEARNING_RATE, betas=training_step.BETAS, foreach=False,
    )  # fmt: skip
    losses, exact = [], []
    for step in range(steps):
        ours(1)
        losses.append(ours.last["train_loss"])
        loss = plain_loss(weights, config, rows.step(step), z_loss)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(weights.values(), CLIP)
        assert ours.last["grad_norm"] == pytest.approx(norm.item(), rel=1e-4) and norm > CLIP
        optimizer.step()
        exact.append(loss.item())
    return (losses, in_float64(model)), (exact, weights)


def assert_equal(ours, exact):
    torch.testing.assert_close(ours[0], exact[0], rtol=2e-6, atol=0)
    for name, weight in exact[1].items():
        error = (ours[1][name] - weight).abs()
        # Adam divides by the gradient's magnitude: if that is near zero, its rounding matters
        assert error.max() < 0.1 * LEARNING_RATE and error.mean() < 1e-3 * LEARNING_RATE, (
            f"{name}: {error.max()}"
        )


@pytest.mark.parametrize("name", SHAPES)
def test_training(name, monkeypatch, launched):
    z_loss = 1e-2 if SHAPES[name].logit_softcap else 0.0
    assert_equal(*train_both(SHAPES[name], z_loss, 5, monkeypatch))
    launched(*TRAINING)


@pytest.mark.parametrize(
    "module, kernel, old, new",
    [
        ("rms_norm", "_rms_norm_backward_kernel", "dx = (dy - normed *", "dx = (dy - 0.9 * normed *"),
        ("attention_backward", "_attention_dq_kernel", "dq * SCALE", "dq * (SCALE * 1.05)"),
    ],
)
def test_a_broken_kernel_fails(module, kernel, old, new, mutate, monkeypatch):
    mutate(import_module(f"lmfast_kernels.{module}"), kernel, old, new)
    with pytest.raises(AssertionError):
        assert_equal(*train_both(SHAPES["tied, grouped heads"], 0.0, 1, monkeypatch))


def decode_both(config, monkeypatch):
    """(ids and logits of cached steps with the kernels, the same with float64 and no cache) for two prompts."""
    config = config.resolved()
    model, found = TransformerLM(config).eval(), []
    weights = in_float64(model)
    original = torch_decoder._decode
    monkeypatch.setattr(torch_decoder, "_decode", lambda *a: found.append(original(*a)) or found[-1].clone())
    decoder = TorchDecoder(model, 2, Sampling(0.0))
    sequences = [[5, 9, 2, 60, 7, 0, 33], [11]]
    ids, exact, logits = [], [], []
    with torch.no_grad():
        decoder.read(dict(enumerate(sequences)))
        for number in range(8):
            whole = [plain_logits(weights, config, torch.tensor([row]))[0, -1] for row in sequences]
            logits.append(torch.stack(whole))
            exact.append(logits[-1].argmax(-1).tolist())
            ids.append(decoder.step([0, 1], number)())
            for row, token in zip(sequences, ids[-1]):
                row.append(token)
    decoder.close()
    return (ids, torch.stack(found)), (exact, torch.stack(logits))


def assert_decoded(ours, exact):
    torch.testing.assert_close(ours[1].double(), exact[1], rtol=0, atol=2e-5)
    assert ours[0] == exact[0]


@pytest.mark.parametrize("name", SHAPES)
def test_decoding(name, monkeypatch, launched):
    assert_decoded(*decode_both(SHAPES[name], monkeypatch))
    launched(*DECODING)


def test_a_broken_cache_fails(mutate, monkeypatch):
    mutate(
        import_module("lmfast_kernels.decode_attention"),
        "_decode_split_kernel",
        "max_len)\n",
        "max_len) - 1\n",
    )
    with pytest.raises(AssertionError):
        assert_decoded(*decode_both(SHAPES["tied, grouped heads"], monkeypatch))


@pytest.mark.parametrize(
    "changes",
    [
        {"norm": "post"},
        {"norm": "none", "tie_embeddings": True},
        {"parallel_block": True},
        {"ffn": "relu2", "logit_softcap": 3.0},
    ],
)
def test_decoding_equals_a_full_forward(changes, monkeypatch):
    """Settings that the oracle does not support: a step's logits compared with those of the whole window."""
    config = dataclasses.replace(SMALL, num_layers=1, **changes)
    model, found = TransformerLM(config).eval(), []
    original = torch_decoder._decode
    monkeypatch.setattr(torch_decoder, "_decode", lambda *a: found.append(original(*a)) or found[-1].clone())
    with torch.no_grad():
        decoder = TorchDecoder(model, 1, Sampling(0.0))
        decoder.read({0: [5, 9, 2]})
        decoder.step([0], 0)
        torch.testing.assert_close(found[0], model(torch.tensor([[5, 9, 2]]))[:, -1], rtol=0, atol=2e-5)
    decoder.close()
