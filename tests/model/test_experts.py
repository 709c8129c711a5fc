"""The sparse feed-forward compared with a plain loop over tokens and experts."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from lmfast.errors import UserError
from lmfast.model.accounting import active_parameters, forward_flops, num_parameters, parameters
from lmfast.model.config import ModelConfig
from lmfast.model.experts import SparseFeedForward, load_balance_loss, route
from lmfast.model.transformer import TransformerLM

SHAPE = ModelConfig(
    vocab_size=50, context_length=16, d_model=24, num_layers=2, num_heads=2, d_ff=20, num_experts=5
)


def build(**changes) -> SparseFeedForward:
    torch.manual_seed(0)
    layer = SparseFeedForward(dataclasses.replace(SHAPE, **changes).resolved())
    for weight in layer.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return layer


def plain(layer: SparseFeedForward, x: torch.Tensor, kind: str, k: int) -> torch.Tensor:
    """Token by token, expert by expert."""
    ups = layer.up.weight.chunk(layer.num_experts)
    downs = layer.down.weight.chunk(layer.num_experts)
    rows = []
    for token in x.flatten(0, -2):
        probabilities = F.softmax(layer.router.weight @ token, dim=0)
        chosen = sorted(range(layer.num_experts), key=lambda e: (-probabilities[e].item(), e))[:k]
        total = sum(probabilities[e] for e in chosen) if k > 1 else 1.0
        y = torch.zeros_like(token)
        for e in chosen:
            up = ups[e] @ token
            if kind == "swiglu":
                gate, value = up.chunk(2)
                hidden = F.silu(gate) * value
            else:
                hidden = F.silu(up) if kind == "silu" else F.relu(up) ** 2
            y = y + probabilities[e] / total * (downs[e] @ hidden)
        rows.append(y)
    return torch.stack(rows).view_as(x)


@pytest.mark.parametrize(
    ("kind", "k", "dtype"),
    [
        ("swiglu", 2, torch.float64),
        ("swiglu", 1, torch.float64),
        ("swiglu", 5, torch.float64),
        ("silu", 2, torch.float64),
        ("relu2", 3, torch.float64),
        ("swiglu", 2, torch.float32),
    ],
)
def test_values_and_gradients_equal_a_plain_loop(kind, k, dtype):
    layer = build(ffn=kind, experts_per_token=k).to(dtype)
    x = torch.randn(3, 7, 24, dtype=dtype, requires_grad=True)
    inputs = [x, *layer.parameters()]
    ours, load = layer(x)
    theirs = plain(layer, x, kind, k)
    tolerance = {} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(ours, theirs, **tolerance)
    upstream = torch.randn_like(ours)
    for a, b in zip(
        *(torch.autograd.grad(y, inputs, upstream, retain_graph=True) for y in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(a, b, **tolerance)
    assert load.shape == (2, 5) and load[0].sum().item() == pytest.approx(k)
    assert layer.eval()(x)[1] is None


def test_an_expert_without_tokens_has_no_gradient_and_changes_nothing():
    layer = build()
    with torch.no_grad():
        layer.router.weight[2:] = 0
        layer.router.weight[:2, 0], layer.router.weight[3] = 9.0, layer.router.weight[0]
        layer.router.weight[3, 0] = -9.0  # of positive inputs
    x = torch.rand(2, 6, 24) + torch.eye(24)[0] * 5
    y, load = layer(x)
    assert load[0].tolist()[:2] == [1.0, 1.0] and not load[0, 2:].any()
    y.square().sum().backward()
    up, down = (w.grad.view(5, -1) for w in (layer.up.weight, layer.down.weight))
    assert up[:2].any() and down[:2].any() and not up[2:].any() and not down[2:].any()


def test_of_equal_probabilities_the_lowest_expert_comes_first():
    logits = torch.tensor([[0.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0], [0.0, 0.0, 5.0, 0.0]])
    routes = route(logits, 2)
    token, slot = routes.order // 2, torch.arange(6)
    expert = (slot[:, None] >= routes.ends).sum(1)
    pairs = sorted(zip(token.tolist(), expert.tolist(), strict=True))
    assert pairs == [(0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 2)]
    torch.testing.assert_close(routes.load[0], torch.tensor([2.0, 2.0, 2.0, 0.0]) / 3)
    assert torch.equal(routes.order[routes.place], slot)
    torch.testing.assert_close(routes.weights.sum(1), torch.ones(3))


def test_the_load_balance_loss_is_1_if_even_and_largest_if_all_choose_the_same():
    even = torch.stack([torch.full((8,), 2 / 8), torch.full((8,), 1 / 8)])
    one = torch.tensor([1.0, 1.0] + [0.0] * 6)
    torch.testing.assert_close(load_balance_loss(even, 2), torch.tensor(1.0))
    torch.testing.assert_close(load_balance_loss(torch.stack([one, one / 2]), 2), torch.tensor(4.0))


def test_its_gradient_moves_tokens_to_experts_with_few():
    torch.manual_seed(0)
    logits = (torch.randn(400, 6) + torch.tensor([3.0, 0, 0, 0, 0, 0])).requires_grad_()
    bias = torch.zeros(6, requires_grad=True)
    before = load_balance_loss(route(logits, 2).load, 2).item()
    for _ in range(200):
        loss = load_balance_loss(route(logits.detach() + bias, 2).load, 2)
        (gradient,) = torch.autograd.grad(loss, bias)
        with torch.no_grad():
            bias -= 2 * gradient
    assert before > 1.2 and loss.item() < 1.05


def test_under_autocast_the_router_computes_in_fp32():
    layer = build()
    x = torch.randn(4, 8, 24).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y, load = layer(x)
    assert y.dtype == torch.bfloat16 and load.dtype == torch.float32
    expected = F.softmax(x.float().flatten(0, 1) @ layer.router.weight.T, -1).mean(0)
    torch.testing.assert_close(load[1], expected)


def test_prefill_then_decode_equal_one_forward_pass():
    torch.manual_seed(0)
    model = TransformerLM(SHAPE).eval()
    ids = torch.randint(0, 50, (3, 16))
    from lmfast.model.kv_cache import KVCache

    cache = KVCache(model.config, 3, 16, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        model.prefill(ids[:, :9], cache)
        cache.lengths.fill_(9)
        logits = torch.stack([model.decode(ids[:, t], cache, 16) for t in range(9, 16)], 1)
        torch.testing.assert_close(logits, model(ids)[:, 9:], rtol=1e-4, atol=1e-4)


def test_the_load_of_every_layer_can_be_taken_once_and_only_in_training():
    model, ids = TransformerLM(SHAPE), torch.randint(0, 50, (2, 16))
    model(ids)
    assert model.take_expert_load().shape == (2, 2, 5) and model.take_expert_load() is None
    model.eval()(ids)
    assert model.take_expert_load() is None


def test_parameters_and_flops_count_what_a_token_uses():
    config = dataclasses.replace(SHAPE, experts_per_token=3)
    dense = dataclasses.replace(config, num_experts=0)
    assert num_parameters(config) == sum(p.numel() for p in TransformerLM(config).parameters())
    router, each = 2 * 5 * 24, 2 * 3 * 24 * 20
    assert parameters(config)["feed_forward"] == 5 * each and parameters(config)["router"] == router
    assert active_parameters(config) == num_parameters(dense) + 2 * each + router
    assert active_parameters(dense) == num_parameters(dense)
    flops, plain_flops = forward_flops(config, 16), forward_flops(dense, 16)
    assert sum(flops.values()) - sum(plain_flops.values()) == 2 * 16 * (2 * each + router)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts": 1}, r"num_experts is 1; it must be 0 \(dense\) or at least 2"),
        ({"num_experts": -2}, "num_experts is -2; it must be"),
        ({"experts_per_token": 0}, "experts_per_token is 0; it must be at least 1"),
        ({"experts_per_token": 6}, "experts_per_token 6 is greater than num_experts 5; use at most 5"),
    ],
)
def test_impossible_numbers_are_rejected(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(SHAPE, **changes).resolved()
