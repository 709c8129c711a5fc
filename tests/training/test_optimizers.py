from dataclasses import replace

import pytest
import torch
from torch import nn

from lmfast.errors import UserError
from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM
from lmfast.training.optimizers import block_matrices, load_state_tensors, make_optimizer, state_tensors

KINDS = ("adamw", "muon")


SHAPE = ModelConfig(
    vocab_size=20, context_length=8, d_model=16, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=24
)


def build(kind="adamw", shape=SHAPE, **options):
    torch.manual_seed(0)
    model = TransformerLM(shape)
    return model, make_optimizer(model, kind, 0.1, (0.9, 0.95), **({"weight_decay": 0.5} | options))


def step(model, optimizer, found_inf=None, scale=1.0):
    ids = torch.arange(16).view(2, 8)
    (scale * model(ids).square().sum()).backward()
    optimizer.found_inf = found_inf
    optimizer.step()
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def copies(model, optimizer):
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    return weights | {
        name: t.clone() for name, t in state_tensors(dict(model.named_parameters()), optimizer).items()
    }


def assert_same(a, b):
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_only_matrices_decay():
    model, optimizer = build(shape=replace(SHAPE, position="learned"))
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for p, old in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), old * (0.95 if p.ndim == 2 else 1.0))


@pytest.mark.parametrize("kind", KINDS)
def test_state_resumes_exactly(kind):
    model, optimizer = build(kind)
    step(model, optimizer)
    saved = {k: v.clone() for k, v in state_tensors(dict(model.named_parameters()), optimizer).items()}
    assert {name.rpartition(".")[0] for name in saved} == dict(model.named_parameters()).keys()
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    step(model, optimizer)
    step(model, optimizer)
    other, fresh = build(kind)
    other.load_state_dict(weights)
    load_state_tensors(dict(other.named_parameters()), fresh, saved)
    step(other, fresh)
    step(other, fresh)
    assert_same(copies(model, optimizer), copies(other, fresh))


def test_a_missing_parameter_is_named():
    model, optimizer = build()
    with pytest.raises(UserError, match=r"no state for blocks\.0\."):
        load_state_tensors(
            dict(model.named_parameters()), optimizer, {"embedding.weight.exp_avg": torch.zeros(20, 16)}
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("first", [True, False], ids=["first step", "later step"])
def test_a_non_finite_step_changes_neither_weights_nor_state(kind, bad, first):
    model, optimizer = build(kind)
    if not first:
        step(model, optimizer)
    before = copies(model, optimizer)
    step(model, optimizer, found_inf=torch.ones(()), scale=bad)
    after = copies(model, optimizer)
    if first:  # AdamW creates its state in its first step, which this was
        made = after.keys() - before.keys()
        assert all(after[name].abs().max() == 0 for name in made)
        after = {name: after[name] for name in before}
    assert_same(before, after)
    step(model, optimizer, found_inf=torch.zeros(()))
    clean, twin = build(kind)
    for _ in range(1 if first else 2):
        step(clean, twin)
    assert_same(copies(clean, twin), copies(model, optimizer))


@pytest.mark.parametrize("position", ["rope", "learned"])
def test_muon_updates_the_blocks_matrices_and_adamw_the_rest(position):
    model, optimizer = build("muon", replace(SHAPE, position=position))
    names = {p: name for name, p in model.named_parameters()}
    moved = set(block_matrices(model))
    assert moved == {n for n in names.values() if n.startswith("blocks") and "norm" not in n}
    step(model, optimizer)
    for p, name in names.items():
        assert ("momentum_buffer" in optimizer.state[p]) == (name in moved)
        assert ("exp_avg" in optimizer.state[p]) == (name not in moved)


def test_muon_updates_each_matrix_of_a_fused_projection_as_torch_does():
    model, optimizer = build("muon", muon_momentum=0.8)
    qkv = model.blocks[0].attention.qkv.weight
    alone = [nn.Parameter(part.clone()) for part in qkv.detach().split([16, 8, 8])]
    theirs = torch.optim.Muon(alone, lr=0.1, weight_decay=0.5, momentum=0.8, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        grad = torch.randn(32, 16)
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        qkv.grad = grad.clone()
        for part, piece in zip(alone, grad.split([16, 8, 8]), strict=True):
            part.grad = piece.clone()
        optimizer.step()
        theirs.step()
    torch.testing.assert_close(qkv.detach(), torch.cat(alone).detach(), rtol=0, atol=0)


def test_muon_lr_is_a_factor_on_the_learning_rate():
    _, optimizer = build("muon", muon_lr=0.03)
    assert [group["rate"] for group in optimizer.param_groups] == [pytest.approx(0.3), 1.0, 1.0]
    assert [group["rate"] for group in build("muon")[1].param_groups] == [1.0, 1.0, 1.0]
