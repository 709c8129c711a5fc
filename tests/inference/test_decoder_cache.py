"""Decoders across calls: none is created twice or shared, and a used one gives the same result as a new one."""

import copy
import gc
import itertools
import weakref

import pytest
import torch

from lmfast.inference import decoder_cache, torch_decoder
from lmfast.inference.decode import generate, stream
from lmfast.inference.decoder_cache import MAX_IDLE, borrow, decoder_cache_for
from lmfast.inference.sampling import Sampling
from lmfast.model.transformer import TransformerLM
from lmfast.training.optimizers import make_optimizer
from tests.inference.test_decode import PROMPTS, build

pytestmark = pytest.mark.usefixtures("by_torch")
GREEDY = {"temperature": 0.0}
BF16 = ("cpu", torch.bfloat16)


@pytest.fixture
def made(monkeypatch):
    """What was created since: "decoder", "cast", "refresh"."""
    done = []

    class Counted(torch_decoder.TorchDecoder):
        def __init__(self, *arguments):
            done.append("decoder")
            super().__init__(*arguments)

    cast = TransformerLM.with_matrix_dtype
    refresh = torch_decoder.refresh
    monkeypatch.setattr(decoder_cache, "TorchDecoder", Counted)
    monkeypatch.setattr(
        TransformerLM, "with_matrix_dtype", lambda *arguments: (done.append("cast"), cast(*arguments))[1]
    )
    monkeypatch.setattr(
        torch_decoder, "refresh", lambda *arguments: (done.append("refresh"), refresh(*arguments))
    )
    return done


def plain(model, prompts=PROMPTS, new=30, **options):
    return generate(model, prompts, new, kv_cache=False, **options)


def test_a_second_call_creates_nothing(made, replayed):
    model = build()
    with torch.autocast(*BF16):
        first = generate(model, PROMPTS, 30, **GREEDY)
        assert made == ["decoder", "cast"] and replayed.captured == 1
        assert generate(model, PROMPTS, 30, **GREEDY) == first
        other = [[7, 7], [3], [2, 9, 9], [1] * 24]
        generate(model, other, 50, stop_ids={5}, **GREEDY)
        assert generate(model, PROMPTS, 30, **GREEDY) == first
    assert made == ["decoder", "cast", *["refresh"] * 3] and replayed.captured == 1
    assert replayed.waited == 3  # for steps that the previous call may have left in flight


def test_sampling_parameters_need_no_new_graph(made, replayed):
    model = build()
    kinds = [
        [{"temperature": t, "seed": s} for t, s in ((10.0, 0), (20.0, 0), (20.0, 1))],
        [{"temperature": 20.0, "top_k": k, "seed": 3} for k in (5, 8, 6)],
        [{"temperature": 20.0, "top_p": p} for p in (0.5, 0.9)],
        [{"temperature": 20.0, "top_p": 0.9, "top_k": k} for k in (33, 45)],
    ]
    for number, kind in enumerate(kinds, 1):
        results = []
        for options in kind:
            results.append(generate(model, PROMPTS, 30, **options))
            assert results[-1] == plain(model, **options)
        assert replayed.captured == number and made == ["decoder"] * number
        assert all(a != b for a, b in itertools.pairwise(results))
    generate(model, PROMPTS, 30, temperature=20.0, top_k=9)
    assert replayed.captured == len(kinds) + 1  # a larger buffer for the k largest


def test_training_between_calls_refreshes_the_copies_in_place(made, replayed):
    model, other = build(), build()
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.05 * torch.randn_like(p))
    for context, expected in (
        (torch.autocast(*BF16), ["refresh"]),
        (torch.autocast("cpu", enabled=False), []),
    ):
        with context:
            model.load_state_dict(build().state_dict())
            before = generate(model, PROMPTS, 30, **GREEDY)
            made.clear()
            captured = replayed.captured
            model.load_state_dict(other.state_dict())
            after = generate(model, PROMPTS, 30, **GREEDY)
            assert after == generate(other, PROMPTS, 30, **GREEDY) != before
        assert [what for what in made if what == "refresh"] == expected
        assert replayed.captured == captured + 1  # that of `other`


def fused_step(model):
    """A large step of the optimizer that training uses; it does not change the weights' versions."""
    optimizer = make_optimizer(model, "adamw", 0.5, (0.9, 0.95), 0.0)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()


def through_data(model):
    for p in model.parameters():
        p.data.add_(torch.randn_like(p))


@pytest.mark.parametrize("change", [fused_step, through_data])
def test_changes_without_a_new_version(change, made):
    model = build()
    with torch.autocast(*BF16):
        before = generate(model, PROMPTS, 30, **GREEDY)
        versions = [p._version for p in model.parameters()]
        change(model)
        assert versions == [p._version for p in model.parameters()]
        after = generate(model, PROMPTS, 30, **GREEDY)
        assert made == ["decoder", "cast", "refresh"]
        assert after == generate(copy.deepcopy(model), PROMPTS, 30, **GREEDY) != before


def test_replaced_weights_need_another_decoder(made):
    model, other = build(), build(num_kv_heads=2)
    with torch.no_grad():
        other.embedding.weight.add_(torch.randn_like(other.embedding.weight))
    before = generate(model, PROMPTS, 30, **GREEDY)
    model.load_state_dict(other.state_dict(), assign=True)
    assert generate(model, PROMPTS, 30, **GREEDY) == plain(model, **GREEDY) != before
    assert made == ["decoder"] * 2


def test_suppressed_ids_follow_the_model(made):
    model = build()
    free = generate(model, PROMPTS, 30, **GREEDY)
    for known, count in ((range(40), 2), (range(5, 45), 2), (range(30), 3), (range(60), 4)):
        model.restrict_to(known)
        assert generate(model, PROMPTS, 30, **GREEDY) == plain(model, **GREEDY)
        assert len(made) == count
    assert generate(model, PROMPTS, 30, **GREEDY) == free


def test_simultaneous_streams_do_not_share_a_decoder(made):
    model = build()
    expected = [plain(model, [prompt], 20, **GREEDY)[0] for prompt in PROMPTS]
    streams = [stream(model, [prompt], 20, Sampling(**GREEDY)) for prompt in PROMPTS]
    rows = [[ids[0] for ids in step] for step in zip(*streams, strict=True)]
    assert [list(row) for row in zip(*rows, strict=True)] == expected
    assert len(made) == len(PROMPTS) and len(decoder_cache_for(model).idle) == MAX_IDLE


def test_an_abandoned_stream_returns_its_decoder(made, replayed):
    model = build()
    steps = stream(model, PROMPTS, 30, Sampling(**GREEDY))
    next(steps)
    steps.close()
    assert len(decoder_cache_for(model).idle) == 1
    assert generate(model, PROMPTS, 30, **GREEDY) == plain(model, **GREEDY)
    assert made == ["decoder"]


def test_a_decoder_that_failed_is_not_reused(made, monkeypatch):
    model = build()

    def fail(self):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="out of memory"):
        patch.setattr(torch_decoder.TorchDecoder, "_advance", fail)
        generate(model, PROMPTS, 30, **GREEDY)
    assert not decoder_cache_for(model).idle
    assert generate(model, PROMPTS, 30, **GREEDY) == plain(model, **GREEDY)


def test_recently_used_decoders_are_kept_and_freed_with_the_model(replayed):
    model = build()
    for batch in (1, 2, 3, 2, 4):
        generate(model, PROMPTS[:batch], 5, **GREEDY)
    idle = decoder_cache_for(model).idle
    assert [decoder.key.batch for decoder in idle] == [2, 4]
    kept, alive = [weakref.ref(decoder) for decoder in idle], weakref.ref(model)
    events = [decoder.last for decoder in idle]
    replayed.prefills.clear()
    del model, idle
    gc.collect()
    assert alive() is None and not any(ref() for ref in kept)
    assert all(event.synchronized for event in events)  # before the graph was dropped


def test_old_content_of_a_cache_has_no_effect():
    model = build()
    decoder = borrow(model, 1, Sampling(0.0))
    for tensor in decoder.cache.tensors:
        tensor.fill_(float("nan"))
    decoder.close()
    assert generate(model, PROMPTS[:1], 30, **GREEDY) == plain(model, PROMPTS[:1], **GREEDY)


def test_other_settings_need_another_decoder(made):
    model = build()
    generate(model, PROMPTS, 5, **GREEDY)
    generate(model, PROMPTS[:2], 5, **GREEDY)
    with torch.autocast(*BF16):
        generate(model, PROMPTS, 5, **GREEDY)
    model.train()
    generate(model, PROMPTS, 5, **GREEDY)
    assert made.count("decoder") == 4


def test_compiled_once_for_all_calls(compiled_quickly, made):
    model = build()
    counters = torch._dynamo.utils.counters["stats"]
    before = counters["unique_graphs"]
    with torch.autocast(*BF16):
        for _ in range(3):
            generate(model, PROMPTS, 8, compile=True, **GREEDY)
            with torch.no_grad():
                model.head.weight.mul_(0.9)
    assert counters["unique_graphs"] == before + 1
    assert made == ["decoder", "cast", "refresh", "refresh"]
