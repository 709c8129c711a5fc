import pytest
import torch
from torch import nn

from lmfast.errors import UserError
from lmfast.training.optimizers import load_state_tensors, make_adamw, state_tensors


def build():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
    return model, make_adamw(model, 0.1, (0.9, 0.95), 0.5)


def step(model, optimizer):
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_only_matrices_decay():
    model, optimizer = build()
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for p, old in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), old * (0.95 if p.ndim == 2 else 1.0))


def test_state_goes_on_exactly():
    model, optimizer = build()
    step(model, optimizer)
    saved = {k: v.clone() for k, v in state_tensors(model, optimizer).items()}
    assert "0.weight.exp_avg" in saved and "1.bias.step" in saved
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    step(model, optimizer)
    other, fresh = build()
    other.load_state_dict(weights)
    load_state_tensors(other, fresh, saved)
    step(other, fresh)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_missing_parameter_is_named():
    model, optimizer = build()
    with pytest.raises(UserError, match=r"no state for 0\.bias"):
        load_state_tensors(model, optimizer, {"0.weight.exp_avg": torch.zeros(3, 4)})


def test_found_inf_skips_the_step():
    model, optimizer = build()
    step(model, optimizer)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.found_inf = torch.ones(())
    step(model, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
