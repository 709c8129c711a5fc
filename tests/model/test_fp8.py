"""FP8 training of a model: which layers use it, that it learns like bf16, and what it rejects."""

from importlib import import_module
from types import SimpleNamespace

import pytest
import torch

import lmfast_kernels
from lmfast.errors import UserError
from lmfast.model import fp8
from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM
from lmfast.training.objectives import NextToken

LENGTH, ROWS, VOCAB = 32, 8, 64


def make(**changes) -> TransformerLM:
    torch.manual_seed(0)
    shape = {
        "vocab_size": VOCAB, "context_length": LENGTH, "d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 64,
    }  # fmt: skip
    return TransformerLM(ModelConfig(**shape | changes)).train()


def batches(steps: int):
    """Rows of a chain in which a token determines the next one four times out of five."""
    generator = torch.Generator().manual_seed(2)
    follows = torch.randint(VOCAB, (VOCAB,), generator=generator)
    for _ in range(steps):
        ids = [torch.randint(VOCAB, (ROWS,), generator=generator)]
        for _ in range(LENGTH):
            other = torch.randint(VOCAB, (ROWS,), generator=generator)
            ids.append(torch.where(torch.rand(ROWS, generator=generator) < 0.2, other, follows[ids[-1]]))
        yield torch.stack(ids, 1)


def loss_of(model, ids) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return NextToken().loss(model, ids[:, :-1], ids[:, 1:].contiguous()) / (ROWS * LENGTH)


def losses(use: bool, steps: int) -> torch.Tensor:
    model = make()
    if use:
        assert fp8.use_fp8(model, ROWS * LENGTH) == []
    optimizer, seen = torch.optim.AdamW(model.parameters(), lr=1e-2), []
    for ids in batches(steps):
        loss = loss_of(model, ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seen.append(loss.item())
    return torch.tensor(seen)


def test_learns_as_bf16_does():
    """50 steps, from 4.4 nats to below 1.5: each loss within 0.04 of bf16's, the last ten on average within 0.01."""
    exact, got = losses(False, 50), losses(True, 50)
    assert exact[0] > 4.3 and exact[-1] < 1.5
    assert not torch.equal(exact, got)
    assert (exact - got).abs().max() < 0.04
    assert (exact - got)[-10:].mean().abs() < 0.01


@pytest.fixture
def calls(monkeypatch) -> list:
    """Calls of FP8 feed-forwards so far, by hidden width."""
    found = []
    module = import_module("lmfast_kernels.feed_forward")
    original = module.fp8_feed_forward
    monkeypatch.setattr(
        module, "fp8_feed_forward", lambda x, up, down: found.append(down.shape[1]) or original(x, up, down)
    )
    return found


def test_reaches_the_feed_forward_in_training_only(calls):
    model, (ids,) = make(), batches(1)
    loss_of(model, ids)
    assert not calls
    before = loss_of(model.eval(), ids)
    fp8.use_fp8(model, ROWS * LENGTH)
    assert torch.equal(loss_of(model, ids), before) and not calls
    training = loss_of(model.train(), ids)
    assert calls == [64, 64]
    assert not torch.equal(training, before)


def test_the_head_uses_it_in_training_only(monkeypatch):
    model, (ids,) = make(), batches(1)
    fp8.use_fp8(model, ROWS * LENGTH)
    seen, original = [], lmfast_kernels.linear_cross_entropy
    monkeypatch.setattr(
        lmfast_kernels, "linear_cross_entropy", lambda *a, **k: seen.append(k["fp8"]) or original(*a, **k)
    )
    loss_of(model, ids)
    loss_of(model.eval(), ids)
    assert seen == [True, False]


@pytest.mark.parametrize("ffn", ["swiglu", "silu", "relu2"])
def test_every_feed_forward_trains_with_it(ffn):
    model, (ids,) = make(ffn=ffn), batches(1)
    exact = loss_of(model, ids)
    fp8.use_fp8(model, ROWS * LENGTH)
    loss = loss_of(model, ids)
    loss.backward()
    assert 0 < abs(loss - exact) < 0.05
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


@pytest.mark.exhaustive  # minutes of Inductor; a device run compiles the same step
def test_one_graph_compiled():
    model, (ids,) = make(), batches(1)
    fp8.use_fp8(model, ROWS * LENGTH)
    compiled = torch.compile(NextToken().loss, fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = compiled(model, ids[:, :-1], ids[:, 1:].contiguous()) / (ROWS * LENGTH)
    loss.backward()
    assert abs(loss - loss_of(model, ids)) < 1e-2


def test_layers_that_do_not_fit_stay_in_bf16(calls):
    model, (ids,) = make(vocab_size=70), batches(1)
    assert fp8.use_fp8(model, 256) == [
        "fp8: the head stays in bf16, because 32 × 70 are not multiples of 16",
    ]
    loss_of(model, ids)
    assert calls and not model.head.fp8
    model = make(d_ff=24)
    assert fp8.use_fp8(model, 256) == [
        "fp8: the feed-forward stays in bf16, because 32 × 24 are not multiples of 16"
    ]
    assert model.head.fp8 and not model.blocks[0].feed_forward.up.fp8


def test_rejects_unsupported_shapes():
    with pytest.raises(UserError, match="the 250 tokens of a forward pass are not a multiple of 16"):
        fp8.use_fp8(make(), 250)
    with pytest.raises(UserError, match=r"neither the feed-forward \(24 × 64\) nor the head \(24 × 64\)"):
        fp8.use_fp8(make(d_model=24), 256)


def test_weights_and_checkpoints_are_the_same():
    plain, model = make(), make()
    fp8.use_fp8(model, 256)
    assert plain.state_dict().keys() == model.state_dict().keys()
    assert all(tensor.dtype == torch.float32 for tensor in model.state_dict().values())


def test_devices(monkeypatch):
    monkeypatch.delenv(fp8.EMULATE, raising=False)
    wanted = "fp8 needs a GPU of compute capability 8.9 or higher, not cpu; remove --fp8"
    assert fp8.fp8_blocker(torch.device("cpu")) == wanted
    monkeypatch.setenv(fp8.EMULATE, "1")
    assert fp8.fp8_blocker(torch.device("cpu")) is None
    gpu = SimpleNamespace(type="cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-80GB")
    for capability, fine in (
        ((8, 0), False),
        ((8, 6), False),
        ((8, 9), True),
        ((9, 0), True),
        ((12, 0), True),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert (fp8.fp8_blocker(gpu) is None) == fine
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert fp8.fp8_blocker(gpu).endswith("NVIDIA A100-SXM4-80GB has 8.0; remove --fp8")
