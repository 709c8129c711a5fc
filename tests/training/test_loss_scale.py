import pytest
import torch
from torch.nn.utils import get_total_norm

from lmfast.errors import UserError
from lmfast.training import loss_scale
from lmfast.training.loss_scale import FLOOR, INITIAL, LossScale

CPU = torch.device("cpu")
GOOD, INF, NAN = (torch.tensor(value) for value in (1.0, float("inf"), float("nan")))


def test_the_scale_follows_gradscalers_rule(monkeypatch):
    """Compared with torch's update, on a random sequence of overflows."""
    monkeypatch.setattr(loss_scale, "GROWTH_INTERVAL", 3)
    ours = LossScale(CPU)
    theirs, tracker = torch.full((1,), INITIAL), torch.zeros(1, dtype=torch.int32)
    generator = torch.Generator().manual_seed(0)
    changes = set()
    for bad in (torch.rand(200, generator=generator) < 0.15).tolist():
        before = theirs.item()
        assert ours.update(GOOD, INF if bad else GOOD).item() == bad
        torch._amp_update_scale_(theirs, tracker, torch.tensor([float(bad)]), 2.0, 0.5, 3)
        assert (ours.scale.item(), ours.good_steps.item()) == (theirs.item(), tracker.item())
        changes.add(theirs.item() / before)
    assert changes == {0.5, 1.0, 2.0}


def test_a_non_finite_loss_or_the_floor_excuses_no_step():
    scale = LossScale(CPU)
    assert not scale.update(NAN, NAN) and not scale.update(INF, GOOD)
    assert scale.scale.item() == INITIAL
    for _ in range(16):
        assert scale.update(GOOD, NAN)
    assert scale.scale.item() == FLOOR == 1.0
    assert not scale.update(GOOD, INF)
    assert scale.metrics() == {"loss_scale": 1.0, "overflows": 16}


@pytest.mark.parametrize("limit", [0.1, 1e9, float("inf")])
def test_gradients_are_unscaled_and_clipped_as_without_a_scale(limit):
    torch.manual_seed(0)
    grads = [torch.randn(3, 4), torch.randn(5)]
    plain, scaled = ([torch.nn.Parameter(torch.zeros_like(g)) for g in grads] for _ in range(2))
    for p, q, grad in zip(plain, scaled, grads, strict=True):
        p.grad, q.grad = grad.clone(), grad * INITIAL
    norm = torch.nn.utils.clip_grad_norm_(plain, limit)
    assert torch.equal(
        LossScale(CPU).unscale_and_clip(
            [*scaled, torch.nn.Parameter(torch.zeros(2))], limit, get_total_norm([p.grad for p in scaled])
        ),
        norm,
    )
    for p, q in zip(plain, scaled, strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-7, atol=0)


def test_state_is_exact_and_required():
    scale, again = LossScale(CPU), LossScale(CPU)
    for norm in (INF, INF, GOOD, GOOD, GOOD):
        scale.update(GOOD, norm)
    state = {name: tensor.clone() for name, tensor in scale.state_tensors().items()}
    again.load(state)
    assert again.metrics() == scale.metrics() == {"loss_scale": 2.0**14, "overflows": 2}
    assert again.good_steps.item() == 3
    del state["loss_scale.scale"]
    with pytest.raises(UserError, match=r"contains no loss_scale\.scale; was the run trained with --fp16"):
        again.load(state)
