import dataclasses

import pytest
import torch
import torch.nn.functional as F

from lmfast.errors import UserError
from lmfast.model.config import ModelConfig
from lmfast.model.kv_cache import KVCache
from lmfast.model.transformer import TransformerLM

TINY = ModelConfig(vocab_size=50, context_length=16, d_model=32, num_layers=2, num_heads=4, d_ff=48)
ABLATIONS = [
    {"norm": "post"},
    {"norm": "none"},
    {"position": "none"},
    {"position": "learned"},
    {"position": "sinusoidal"},
    {"ffn": "silu"},
    {"ffn": "relu2"},
    {"qk_norm": True},
    {"tie_embeddings": True},
    {"parallel_block": True},
    {"num_kv_heads": 2},
    {"rope_theta": 100.0},
    {"rope_factor": 8.0, "rope_original_context": 16},
    {"head_dim": 12},
    {"norm_eps": 0.1},
    {"value_embeddings": True},
    {"value_embeddings": True, "num_kv_heads": 2},
    {"zero_init": True},
    {"logit_softcap": 2.0},
    {"sliding_window": 5, "window_pattern": "S"},
    {"num_experts": 4},
    {"num_experts": 4, "norm": "post"},
    {"num_experts": 4, "parallel_block": True},
]


def build(**changes) -> TransformerLM:
    torch.manual_seed(0)
    return TransformerLM(dataclasses.replace(TINY, **changes)).eval()


def ids(rows=2, length=16):
    return torch.randint(0, 50, (rows, length), generator=torch.Generator().manual_seed(1))


def plain_forward(model: TransformerLM, tokens: torch.Tensor, windows: list | None = None) -> torch.Tensor:
    """The pre-norm SwiGLU model written with torch functions only; windows: one per layer."""
    c, w = model.config, dict(model.named_parameters())
    x = w["embedding.weight"][tokens]
    if c.position == "learned":
        x = x + w["position_embedding.weight"][: tokens.shape[1]]
    if c.position == "sinusoidal":
        x = x + model.sinusoids[: tokens.shape[1]]
    cos, sin = (table[: tokens.shape[1]].to(x.dtype) for table in (model.rope_cos, model.rope_sin))

    def norm(x, weight):
        return F.rms_norm(x, (c.d_model,), weight, 1e-5)

    def rotate(x):
        if c.position != "rope":
            return x
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    for i in range(c.num_layers):
        p = f"blocks.{i}."
        h = norm(x, w[p + "attention_norm.weight"])
        q, k, v = (
            (h @ w[p + "attention.qkv.weight"].T).view(*tokens.shape, 3, c.num_heads, c.head_dim).unbind(2)
        )
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        scores = rotate(q) @ rotate(k).transpose(-1, -2) / c.head_dim**0.5
        mask = torch.ones(tokens.shape[1], tokens.shape[1]).tril().bool()
        if windows is not None and windows[i] is not None:
            mask &= ~mask.tril(-windows[i])
        attended = scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v
        x = x + attended.transpose(1, 2).flatten(2) @ w[p + "attention.out.weight"].T
        h = norm(x, w[p + "ffn_norm.weight"])
        gate, up = (h @ w[p + "feed_forward.up.weight"].T).chunk(2, -1)
        x = x + (F.silu(gate) * up) @ w[p + "feed_forward.down.weight"].T
    return norm(x, w["final_norm.weight"]) @ w["head.weight"].T


POSITIONS = ["rope", "none", "learned", "sinusoidal"]


@pytest.mark.parametrize("position", POSITIONS)
def test_equals_the_maths_written_out(position):
    model = build(position=position)
    torch.testing.assert_close(model(ids()), plain_forward(model, ids()), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("changes", ABLATIONS, ids=str)
def test_each_ablation_changes_the_function_and_stays_causal(changes):
    model, tokens = build(**changes), ids()
    logits = model(tokens)
    assert logits.shape == (2, 16, 50) and logits.isfinite().all()
    assert not torch.allclose(logits, build()(tokens))
    changed = tokens.clone()
    changed[:, 9] = (changed[:, 9] + 1) % 50
    after = model(changed)
    torch.testing.assert_close(after[:, :9], logits[:, :9])
    assert not torch.allclose(after[:, 9:], logits[:, 9:])


def test_a_bias_of_queries_keys_and_values_starts_at_zero_and_is_added_to_each():
    model, plain = build(qkv_bias=True), build()
    model.load_state_dict(plain.state_dict(), strict=False)  # all but the biases
    torch.testing.assert_close(model(ids()), plain(ids()))
    for part in (slice(0, 32), slice(32, 64), slice(64, 96)):
        model.blocks[0].attention.qkv.bias.data[part] = torch.linspace(-1, 1, 32)
        assert not torch.allclose(model(ids()), plain(ids()))
        model.blocks[0].attention.qkv.bias.data.zero_()


@pytest.mark.parametrize("position", POSITIONS)
def test_positions_distinguish_orders_and_position_none_does_not(position):
    tokens = ids(1, 8)
    swapped = tokens[:, [1, 0, *range(2, 8)]]
    model = build(position=position, num_layers=1)
    same = torch.allclose(model(tokens)[:, -1], model(swapped)[:, -1], atol=1e-4)
    assert same == (position == "none")


def test_learned_positions_start_at_a_tenth_of_the_scale_of_the_embedding():
    for tied, std in ((False, 1.0), (True, 256**-0.5)):
        model = build(d_model=256, context_length=200, tie_embeddings=tied, position="learned")
        assert model.embedding.weight.std().item() == pytest.approx(std, rel=0.05)
        assert model.position_embedding.weight.std().item() == pytest.approx(std / 10, rel=0.05)


def test_only_the_positions_of_a_sequence_get_a_gradient():
    model = build(position="learned")
    model(ids(length=5)).square().sum().backward()
    gradient = model.position_embedding.weight.grad
    assert gradient[:5].all() and not gradient[5:].any()


def test_sinusoids_are_a_table_without_weights():
    model, none = build(position="sinusoidal"), build(position="none")
    assert model.state_dict().keys() == none.state_dict().keys()
    assert model.sinusoids.shape == (16, 32)
    loaded = TransformerLM.uninitialised(model.config, "cpu")
    loaded.load_state_dict(model.state_dict())
    assert torch.equal(loaded(ids()), model(ids()))


def test_dropout_works_in_training_only():
    model, tokens = build(dropout=0.5), ids()
    assert torch.equal(model(tokens), model(tokens))
    model.train()
    assert not torch.equal(model(tokens), model(tokens))


def test_tied_head_is_one_matrix():
    model = build(tie_embeddings=True)
    assert model.head.weight is model.embedding.weight
    assert "head.weight" not in model.named_weights()


def test_initial_scale():
    torch.manual_seed(0)
    model = TransformerLM(dataclasses.replace(TINY, vocab_size=1000, d_model=256, num_heads=8, d_ff=512))
    q = model.blocks[0].attention.qkv.weight[:256]
    assert q.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.05)
    out = model.blocks[0].attention.out.weight
    assert out.std().item() == pytest.approx((2 / 512) ** 0.5 / 2, rel=0.05)
    assert q.abs().max() <= 3 * (2 / 512) ** 0.5 + 1e-6
    loss = F.cross_entropy(model(ids()).flatten(0, 1), ids().flatten())
    assert 6.0 < loss < 9.0


def test_zero_init_starts_every_block_as_the_identity():
    model = build(zero_init=True)
    x = model.embedding(ids())
    torch.testing.assert_close(model.hidden(ids()), model.final_norm(x))
    assert {n for n, p in model.named_parameters() if not p.any()} == {
        f"blocks.{i}.{name}.weight" for i in range(2) for name in ("attention.out", "feed_forward.down")
    }


def test_logits_stay_below_the_cap():
    model, free = build(logit_softcap=0.5), build()
    with torch.no_grad():
        for m in (model, free):
            m.head.weight.mul_(20)
    logits = model(ids())
    torch.testing.assert_close(logits, 0.5 * torch.tanh(free(ids()) / 0.5))
    assert logits.abs().max() <= 0.5 < free(ids()).abs().max()


def test_value_embeddings_are_in_every_other_layer_and_the_last():
    for layers, expected in ((1, [0]), (4, [1, 3]), (5, [0, 2, 4])):
        model = build(num_layers=layers, value_embeddings=True)
        assert [i for i, b in enumerate(model.blocks) if b.attention.value_embedding is not None] == expected
    model = build(num_layers=1, value_embeddings=True)
    before = model(ids())
    with torch.no_grad():
        model.blocks[0].attention.value_weight[2] = 0  # one head without
    assert not torch.allclose(model(ids()), before)
    with torch.no_grad():
        model.blocks[0].attention.value_weight.zero_()
    plain = build(num_layers=1)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "value_" not in k})
    torch.testing.assert_close(model(ids()), plain(ids()))


def test_windows_equal_the_dense_mask_in_float64_and_so_do_their_gradients():
    changes = {"num_layers": 5, "sliding_window": 5, "window_pattern": "SSL"}
    model, exact = build(**changes), build(**changes).double()
    logits, expected = model(ids()), plain_forward(exact, ids(), [5, 5, None, 5, None])
    torch.testing.assert_close(logits, expected.float(), atol=1e-5, rtol=1e-4)
    logits.square().mean().backward()
    expected.square().mean().backward()
    for ours, theirs in zip(model.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad.float(), atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True, "num_kv_heads": 2}], ids=str)
def test_a_window_of_the_whole_sequence_is_bitwise_full_attention(changes):
    full, wide = build(**changes), build(**changes, sliding_window=16, window_pattern="S")
    assert torch.equal(wide(ids()), full(ids()))
    narrow = build(**changes, sliding_window=15, window_pattern="S")
    assert not torch.equal(narrow(ids())[:, -1], full(ids())[:, -1])
    assert torch.equal(narrow(ids(length=15)), full(ids(length=15)))


def test_a_token_reaches_no_further_back_than_the_windows_of_all_layers():
    model, tokens = build(num_layers=1, sliding_window=5), ids()
    model.blocks[0].attention.window = 5  # of one layer, which is the last and full by the pattern
    changed = tokens.clone()
    changed[:, 2] = (changed[:, 2] + 1) % 50
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(after[:, 7:], before[:, 7:])
    assert not torch.allclose(after[:, 6], before[:, 6])


@pytest.mark.parametrize("position", POSITIONS)
def test_packed_documents_do_not_see_each_other(position):
    model, tokens = build(position=position), ids(1, 12)
    documents = torch.tensor([[0] * 5 + [1] * 7])
    positions = torch.tensor([[*range(5), *range(7)]])
    packed = model.hidden(tokens, positions=positions, document_ids=documents)
    alone = torch.cat([model.hidden(tokens[:, :5]), model.hidden(tokens[:, 5:])], dim=1)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-4)
    without = model.hidden(tokens, document_ids=documents)
    torch.testing.assert_close(without, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("changes", [{}, *ABLATIONS, {"qk_norm": True, "sliding_window": 3}], ids=str)
@torch.inference_mode()
def test_a_prompt_in_parts_fills_the_cache_as_a_whole_one(changes):
    """Two sequences of three, in any order, with padding of a part overwritten by the next."""
    model, rows = build(**changes), torch.tensor([2, 0])
    whole, parts = (KVCache(model.config, 3, 16, torch.device("cpu"), torch.float32) for _ in range(2))
    model.prefill(ids(), whole, rows)
    begin = 0
    for size in (5, 1, 4, 6):
        model.prefill(ids()[:, begin : begin + size], parts, rows, begin)
        begin += size
        if begin < 16:
            padding = torch.zeros(2, 2, dtype=torch.int64)
            model.prefill(padding, parts, rows, begin)
    for a, b in zip(parts.tensors, whole.tensors, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
        assert b[[0, 2]].all() and not b[1].any()


def test_a_sequence_longer_than_the_context_is_rejected():
    with pytest.raises(UserError, match="has 17 tokens, more than context_length 16"):
        build()(ids(1, 17))


def test_a_part_that_ends_beyond_the_context_is_rejected():
    model = build()
    cache = KVCache(model.config, 2, 16, torch.device("cpu"), torch.float32)
    with pytest.raises(UserError, match="has 17 tokens, more than context_length 16"):
        model.prefill(ids(length=5), cache, begin=12)


@pytest.mark.parametrize("position", POSITIONS)
def test_bf16_autocast_is_near_fp32(position):
    model = build(position=position)
    with torch.autocast("cpu", torch.bfloat16):
        low = model(ids())
    high = model(ids())
    assert low.dtype == torch.bfloat16
    assert (low.float() - high).abs().max() < 0.02 * high.abs().max()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_embeddings": True},
        {"value_embeddings": True},
        {"position": "learned"},
        {"position": "sinusoidal"},
        {"num_experts": 4},
    ],
    ids=str,
)
def test_matrices_in_another_dtype_compute_what_autocast_does(changes):
    model = build(**changes)
    low = model.with_matrix_dtype(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(low(ids()), model(ids()))
    assert low.blocks[0].attention.qkv.weight.dtype == torch.bfloat16
    assert low.final_norm.weight.data_ptr() == model.final_norm.weight.data_ptr()
    assert (low.head.weight is low.embedding.weight) == bool(changes.get("tie_embeddings"))
    assert model.head.weight.dtype == torch.float32


def test_no_random_values_are_drawn_for_a_model_without_memory(monkeypatch):
    """On the meta device they import torch._dynamo, which takes longer than decoding a prompt."""

    def drawn(*arguments, **keywords):
        raise AssertionError("random values")

    for name in ("normal_", "uniform_"):
        monkeypatch.setattr(torch.Tensor, name, drawn)
    model = TransformerLM.uninitialised(TINY, "cpu")
    assert model.embedding.weight.shape == (TINY.vocab_size, TINY.d_model)
