import pytest
import torch

import lmfast
from lmfast.errors import UserError
from lmfast.inference.decode import generate, stream, window_start
from lmfast.inference.model_decoder import PlainDecoder, make_decoder
from lmfast.inference.sampling import Sampling
from lmfast.inference.torch_decoder import TorchDecoder
from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM
from tests.kernels.cpu_native import needs_decoder

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
        # Sharper logits: a random model's top two would otherwise differ by less than rounding.
        model.head.weight.mul_(20)
    return model


PROMPTS = [[1], [5, 9, 2, 7, 7, 30, 12], [3] * 20, [8, 40]]


SHAPES = [
    {},
    {"position": "none"},
    {"position": "learned"},
    {"position": "sinusoidal"},
    {"head_dim": 10, "qkv_bias": True},
    {"qk_norm": True},
    {"norm": "post"},
    {"parallel_block": True},
    {"value_embeddings": True},
    {"logit_softcap": 30.0},  # logits reach 40: with a lower cap, rounding would decide their order
    {"zero_init": True},
    {"sliding_window": 7, "num_layers": 3, "window_pattern": "SL"},
    {"sliding_window": 1, "qk_norm": True, "value_embeddings": True},
    {"num_experts": 4},
    {"num_experts": 4, "experts_per_token": 1, "norm": "post"},
]


@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_cache_changes_nothing(changes):
    """Across several moves of the window: 60 tokens with a context of 24."""
    model = build(**changes)
    with_cache, without = (generate(model, PROMPTS, 60, kv_cache=mode, **GREEDY) for mode in (True, False))
    assert with_cache == without
    assert all(len(row) == 60 for row in with_cache)


def test_a_batch_equals_its_prompts_one_by_one():
    model = build()
    together = generate(model, PROMPTS, 30, **GREEDY)
    assert together == [generate(model, [prompt], 30, **GREEDY)[0] for prompt in PROMPTS]


def test_each_model_gets_a_decoder_that_supports_it():
    def kind(model, **options) -> str:
        decoder = make_decoder(model, 1, Sampling(0.0), **({"kv_cache": True, "compile": False} | options))
        decoder.close()
        return type(decoder).__name__

    model = build()
    assert kind(model) == "CpuDecoder"
    assert kind(model, compile=True) == "TorchDecoder"
    assert kind(model, kv_cache=False) == "PlainDecoder"
    assert kind(build().double()) == "TorchDecoder"
    assert kind(build(num_experts=4)) == "TorchDecoder"
    with torch.autocast("cpu", torch.bfloat16):
        assert kind(model) == "TorchDecoder"


@needs_decoder
def test_8_bit_weights_need_the_decoder_for_cpus(monkeypatch):
    model = build()
    assert len(model.generate([1, 2], 5, quantize="int8")) == 5
    for quantize in ("int8", None):
        decoder = make_decoder(model, 1, Sampling(0.0), quantize=quantize)
        decoder.close()
        assert decoder.plan.int8 == (quantize is not None)
    for options, reason in (
        ({"kv_cache": False}, "cannot be used: kv_cache is off"),
        ({"compile": True}, "cannot be used: compile is on"),
        ({"quantize": "int4"}, "quantize is 'int4'; the only choice is 'int8'"),
    ):
        with pytest.raises(UserError, match=reason):
            model.generate([1, 2], **({"quantize": "int8"} | options))
    monkeypatch.setattr("lmfast.inference.model_decoder.unsupported_reason", lambda model: "no compiler")
    with pytest.raises(UserError, match="cannot be used: no compiler"):
        model.generate([1, 2], quantize="int8")


@pytest.mark.parametrize("kv_cache", [True, False])
def test_steps_in_flight_change_nothing(monkeypatch, kv_cache):
    """A decoder ahead of what the host has read, as on CUDA: the same ids, including stops and windows."""
    model = build()
    monkeypatch.setattr(
        "lmfast.inference.model_decoder.unsupported_reason", lambda model: "this is about the other"
    )
    free = generate(model, PROMPTS, 60, kv_cache=kv_cache, **GREEDY)
    options = GREEDY | {"kv_cache": kv_cache, "stop_ids": {free[1][9]}}
    expected, heard = generate(model, PROMPTS, 60, **options), []
    for lag in (1, 5, 100):
        monkeypatch.setattr(PlainDecoder, "lag", lag)
        monkeypatch.setattr(
            TorchDecoder, "lag", property(lambda self, lag=lag: lag, lambda self, value: None), False
        )
        assert generate(model, PROMPTS, 60, on_tokens=heard.append, **options) == expected
        assert generate(model, PROMPTS, 7, **GREEDY) == [row[:7] for row in free]
    assert all(any(token is not None for token in ids) for ids in heard)


def test_stop_ends_a_sequence_and_not_its_neighbours():
    model = build()
    free = generate(model, PROMPTS, 30, **GREEDY)
    stop = free[0][10]
    stopped = generate(model, PROMPTS, 30, stop_ids={stop}, **GREEDY)
    assert stopped[0] == free[0][: free[0].index(stop)]
    for row, full in zip(stopped, free, strict=True):
        assert row == (full[: full.index(stop)] if stop in full else full)


def test_the_seed_determines_the_text():
    model = build()
    one, two, other = (generate(model, [[1]], 30, temperature=3.0, seed=s) for s in (7, 7, 8))
    assert one == two != other


def test_tokens_stream_as_they_are_generated():
    model = build()
    steps = stream(model, [[1], [2]], 5, Sampling(**GREEDY))
    first = next(steps)
    assert len(first) == 2
    heard = []
    rows = generate(model, [[1], [2]], 5, on_tokens=heard.append, **GREEDY)
    assert [list(row) for row in zip(*heard, strict=True)] == rows
    assert heard[0] == first


def test_generate_on_the_model(monkeypatch):
    model = build()
    assert lmfast.TransformerLM is type(model)
    assert model.generate([1, 2], max_tokens=4, temperature=0.0) == generate(model, [[1, 2]], 4, **GREEDY)[0]
    monkeypatch.setattr("lmfast.model.generation._load", None)
    with pytest.raises(UserError, match="import TransformerLM or load_run from lmfast"):
        model.generate([1, 2])


@pytest.mark.parametrize(
    ("prompt", "message"), [([], "prompt 0 is empty"), ([60], "id 60 is outside"), ([-1], "id -1")]
)
def test_bad_prompts_are_rejected(prompt, message):
    with pytest.raises(UserError, match=message):
        generate(build(), [prompt], 3)


def test_windows_move_by_half_a_context():
    starts = [window_start(n, 8) for n in range(30)]
    assert all(n - s <= 8 for n, s in enumerate(starts))
    assert set(starts) == {0, 4, 8, 12, 16, 20, 24} - {s for s in (24,) if s not in starts}
    assert window_start(2, 1) == 1


@pytest.mark.parametrize(
    "options", [GREEDY, {"temperature": 5.0, "seed": 3}, {"temperature": 3.0, "top_k": 50}]
)
def test_only_ids_of_the_tokenizer_are_generated(options):
    """A vocabulary padded from 40 ids to 60, with a gap at 7; all decoders."""
    model = build()
    kinds = [{}, {"kv_cache": False}, {"why": "TorchDecoder"}]
    free = generate(model, PROMPTS, 30, **options)
    assert any(i >= 40 for row in free for i in row)
    known = [i for i in range(40) if i != 7]
    model.restrict_to(known)
    generated = []
    for kind in kinds:
        with pytest.MonkeyPatch.context() as patch:
            if kind.get("why"):
                patch.setattr(
                    "lmfast.inference.model_decoder.unsupported_reason",
                    lambda model: "this is about the other",
                )
            generated.append(generate(model, PROMPTS, 30, kv_cache=kind.get("kv_cache", True), **options))
    assert {i for row in generated[0] for i in row} <= set(known)
    assert generated[0] == generated[1] == generated[2]
    model.restrict_to(range(100))
    assert generate(model, PROMPTS, 30, **options) == free
