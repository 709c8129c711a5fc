import pytest
import torch

from lmfast.errors import UserError
from lmfast.inference.decode import generate, stream, window_start
from lmfast.model.config import ModelConfig
from lmfast.model.kv_cache import KVCache
from lmfast.model.transformer import TransformerLM

GREEDY = {"temperature": 0.0}


def build(**changes) -> TransformerLM:
    torch.manual_seed(0)
    shape = {
        "vocab_size": 60,
        "context_length": 24,
        "d_model": 32,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
    }
    model = TransformerLM(ModelConfig(**(shape | changes))).eval()
    with torch.no_grad():
        # Sharper logits: a random model's top two would otherwise lie within rounding of each other.
        model.head.weight.mul_(20)
    return model


PROMPTS = [[1], [5, 9, 2, 7, 7, 30, 12], [3] * 20, [8, 40]]


SHAPES = [
    {},
    {"position": "none"},
    {"qk_norm": True},
    {"norm": "post"},
    {"parallel_block": True},
    {"value_embeddings": True},
    {"logit_softcap": 5.0},
    {"zero_init": True},
]


@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_cache_changes_nothing(changes):
    """Through several cuts of the window: 60 tokens on a context of 24."""
    model = build(**changes)
    with_cache, without = (generate(model, PROMPTS, 60, kv_cache=mode, **GREEDY) for mode in (True, False))
    assert with_cache == without
    assert all(len(row) == 60 for row in with_cache)


def test_a_batch_gives_what_its_prompts_give_alone():
    model = build()
    together = generate(model, PROMPTS, 30, **GREEDY)
    assert together == [generate(model, [prompt], 30, **GREEDY)[0] for prompt in PROMPTS]


def test_logits_with_and_without_cache_in_bf16_agree():
    """Within 2 % of the largest logit, at every step; in fp32 within rounding."""
    for bf16, tolerance in ((True, 0.02), (False, 1e-5)):
        model = build()
        ids = torch.tensor([PROMPTS[1]])
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            dtype = torch.bfloat16 if bf16 else torch.float32
            cache = KVCache(model.config, 1, 24, torch.device("cpu"), dtype)
            cached = model.prefill(ids, torch.tensor([ids.shape[1]]), cache)
            for _ in range(10):
                plain = model(ids)[:, -1]
                assert (cached - plain).abs().max() <= tolerance * plain.abs().max()
                token = plain.argmax(-1)
                ids = torch.cat([ids, token[:, None]], dim=1)
                cached = model.decode(token, cache, 24)


def test_stop_ends_a_sequence_and_not_its_neighbours():
    model = build()
    free = generate(model, PROMPTS, 30, **GREEDY)
    stop = free[0][10]
    stopped = generate(model, PROMPTS, 30, stop_id=stop, **GREEDY)
    assert stopped[0] == free[0][: free[0].index(stop)]
    for row, full in zip(stopped, free, strict=True):
        assert row == (full[: full.index(stop)] if stop in full else full)


def test_a_seed_decides():
    model = build()
    one, two, other = (generate(model, [[1]], 30, temperature=3.0, seed=s) for s in (7, 7, 8))
    assert one == two != other


def test_tokens_stream_as_they_are_made():
    model = build()
    options = {"temperature": 0.0, "top_k": None, "top_p": None, "seed": 0, "stop_id": None, "kv_cache": True}
    steps = stream(model, [[1], [2]], 5, **options)
    first = next(steps)
    assert len(first) == 2
    heard = []
    rows = generate(model, [[1], [2]], 5, on_tokens=heard.append, **GREEDY)
    assert [list(row) for row in zip(*heard, strict=True)] == rows
    assert heard[0] == first


def test_generate_on_the_model():
    model = build()
    assert model.generate([1, 2], max_tokens=4, temperature=0.0) == generate(model, [[1, 2]], 4, **GREEDY)[0]


@pytest.mark.parametrize(
    ("prompt", "message"), [([], "prompt 0 is empty"), ([60], "id 60 is outside"), ([-1], "id -1")]
)
def test_bad_prompts_are_refused(prompt, message):
    with pytest.raises(UserError, match=message):
        generate(build(), [prompt], 3)


def test_windows_move_by_half_a_context():
    starts = [window_start(n, 8) for n in range(30)]
    assert all(n - s <= 8 for n, s in enumerate(starts))
    assert set(starts) == {0, 4, 8, 12, 16, 20, 24} - {s for s in (24,) if s not in starts}
    assert window_start(2, 1) == 1
