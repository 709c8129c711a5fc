"""The compiled pass compared with the model's."""

import ctypes
import dataclasses
import threading

import pytest
import torch

from lmfast.inference.cpu import plan
from lmfast.inference.cpu.decoder import READ_ROWS, CpuDecoder, num_threads
from lmfast.inference.cpu.torch_weights import weights_of
from lmfast.inference.decode import generate
from lmfast.inference.sampling import Sampling
from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM
from tests.kernels.cpu_native import needs_decoder

pytestmark = needs_decoder

SHAPE = ModelConfig(vocab_size=61, context_length=90, d_model=32, num_layers=2, num_heads=4, d_ff=40)
SHAPES = [
    {},
    {"num_kv_heads": 2},
    {"num_kv_heads": 1, "qk_norm": True},
    {"num_kv_heads": 2, "head_dim": 20, "qkv_bias": True, "norm_eps": 1e-2},
    {"rope_factor": 4.0, "rope_original_context": 32},
    {"norm": "post"},
    {"norm": "none"},
    {"position": "none"},
    {"position": "learned"},
    {"position": "sinusoidal"},
    {"ffn": "silu"},
    {"ffn": "relu2"},
    {"parallel_block": True},
    {"tie_embeddings": True},
    {"value_embeddings": True, "num_kv_heads": 2, "num_layers": 3},
    {"logit_softcap": 3.0},
    {"sliding_window": 5, "num_layers": 3, "window_pattern": "SL"},
    {"sliding_window": 33, "num_kv_heads": 1},
    {"d_model": 36, "num_heads": 6, "d_ff": 27, "vocab_size": 17},  # nothing a multiple of 16
    {"d_model": 64, "num_heads": 1, "num_layers": 1},
]


def build(**changes) -> TransformerLM:
    torch.manual_seed(0)
    model = TransformerLM(dataclasses.replace(SHAPE, **changes)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1 or "value_weight" in name:  # norm weights start at 1, all equal
                weight.add_(torch.randn_like(weight) * 0.2)
    return model


def prompts(count: int, vocab_size: int = 17, longest: int = 80) -> list[list[int]]:
    generator = torch.Generator().manual_seed(count)
    lengths = torch.randint(1, longest, (count,), generator=generator).tolist()
    lengths[0] = longest
    return [torch.randint(0, vocab_size, (n,), generator=generator).tolist() for n in lengths]


@torch.inference_mode()
def logits_of(
    model, rows: list[list[int]], threads: int, steps: int = 4, quantize: str | None = None
) -> torch.Tensor:
    """Logits (steps, batch, vocab_size) of greedy steps."""
    decoder = CpuDecoder(weights_of(model), len(rows), Sampling(0.0), threads, quantize)
    try:
        decoder.read(dict(enumerate(rows)))
        found = []
        for number in range(steps):
            decoder.step(list(range(len(rows))), number)
            found.append(torch.from_numpy(decoder.logits.copy()))
        return torch.stack(found)
    finally:
        decoder.close()


@pytest.mark.parametrize("changes", SHAPES, ids=str)
@torch.inference_mode()
def test_logits_equal_the_models(changes):
    model, rows = build(**changes), prompts(5)
    found = logits_of(model, rows, threads=2)
    rows = [list(row) for row in rows]
    for logits in found:
        for row, ours in zip(rows, logits, strict=True):
            theirs = model(torch.tensor([row]))[0, -1]
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5)
            row.append(int(ours.argmax()))


@pytest.mark.parametrize("changes", SHAPES, ids=str)
@torch.inference_mode()
def test_8_bit_logits_are_close(changes):
    model, rows = build(**changes), prompts(3)
    for row, ours in zip(rows, logits_of(model, rows, threads=2, steps=1, quantize="int8")[0], strict=True):
        theirs = model(torch.tensor([row]))[0, -1]
        assert 0 < (ours - theirs).abs().max() < 0.06 * theirs.abs().max()


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_threads_and_batch_size_change_no_bit(quantize):
    model, rows = build(num_kv_heads=2), prompts(READ_ROWS + 3, longest=30)
    whole = logits_of(model, rows, threads=1, quantize=quantize)
    for threads in (2, 3, 7):
        assert torch.equal(logits_of(model, rows, threads, quantize=quantize), whole)
    for b in (0, 5, READ_ROWS + 2):
        assert torch.equal(logits_of(model, [rows[b]], 2, quantize=quantize)[:, 0], whole[:, b])


@torch.inference_mode()
def test_large_scores_do_not_overflow():
    model, rows = build(), prompts(2)
    with torch.no_grad():
        for block in model.blocks:
            block.attention.qkv.weight[:64].mul_(100)  # queries and keys
    for row, ours in zip(rows, logits_of(model, rows, threads=1, steps=1)[0], strict=True):
        torch.testing.assert_close(ours, model(torch.tensor([row]))[0, -1], rtol=1e-3, atol=1e-3)


def test_structures_are_the_libraries():
    """C++ and ctypes declare them independently."""
    assert ctypes.sizeof(plan.Plan) == plan.library().plan_bytes()
    assert ctypes.sizeof(plan.Layer) == plan.library().layer_bytes()


@torch.inference_mode()
def test_some_sequences_continue_while_others_restart():
    model, rows = build(), prompts(4)
    decoder = CpuDecoder(weights_of(model), 4, Sampling(0.0), 2)
    decoder.read(dict(enumerate(rows)))
    first = decoder.step([0, 1, 2, 3], 0)()
    decoder.read({2: [7, 8, 9]})
    second = decoder.step([1, 2], 1)()
    logits = torch.from_numpy(decoder.logits.copy())
    decoder.close()
    for ours, ids in zip(logits, ([*rows[1], first[1]], [7, 8, 9]), strict=False):
        torch.testing.assert_close(ours, model(torch.tensor([ids]))[0, -1], rtol=1e-5, atol=2e-5)
    assert second == logits[:2].argmax(-1).tolist()


def test_a_team_sleeps_wakes_and_ends(monkeypatch):
    monkeypatch.setattr("lmfast.inference.cpu.decoder.SPIN_LIMIT", 1)  # asleep after each pass
    before = threading.active_count()
    model = build()
    rows = prompts(2, longest=40)
    expected = logits_of(model, rows, threads=1, steps=30)
    assert torch.equal(logits_of(model, rows, threads=3, steps=30), expected)
    assert threading.active_count() == before


def test_a_sequence_longer_than_its_cache_is_rejected():
    decoder = CpuDecoder(weights_of(build()), 1, Sampling(0.0), 1)
    decoder.read({0: [1] * 90})
    decoder.step([0], 0)
    with pytest.raises(ValueError, match="sequence 0: 91 ids"):
        decoder.step([0], 1)
    with pytest.raises(ValueError, match="sequence 0: 91 ids"):
        decoder.read({0: [1] * 91})


def test_a_sequence_that_starts_over_forgets_what_no_step_has_read():
    model = build()
    expected = generate(model, [[5], [7, 8, 9]], 3, temperature=0.0)
    decoder = CpuDecoder(weights_of(model), 2, Sampling(0.0), 2)
    decoder.read({0: [1, 2, 3], 1: [4] * 50})
    decoder.read({1: [7, 8, 9]})
    decoder.read({0: [5]})
    steps = [decoder.step([0, 1], number)() for number in range(3)]
    assert [list(ids) for ids in zip(*steps, strict=True)] == expected
    decoder.close()


def test_an_abandoned_stream_ends_its_team():
    from lmfast.inference.decode import stream

    torch.set_num_threads(2)
    try:
        before = threading.active_count()
        steps = stream(build(), [[1, 2]], 50, Sampling(temperature=0.0))
        next(steps)
        assert threading.active_count() == before + 1
        steps.close()
        assert threading.active_count() == before
    finally:
        torch.set_num_threads(1)


def test_weights_trained_further_are_read_in_place():
    """No copy is kept between runs: generation sees weights changed by training."""
    model = build()
    before = generate(model, [[1, 2, 3]], 20, temperature=0.0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(-0.5)
    after = generate(model, [[1, 2, 3]], 20, temperature=0.0)
    assert after == generate(model, [[1, 2, 3]], 20, temperature=0.0, kv_cache=False) != before


def test_a_team_that_cannot_start_ends(monkeypatch):
    before, model = threading.active_count(), build()
    start = threading.Thread.start

    def fail(thread):
        if threading.active_count() > before + 1:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(RuntimeError):
        CpuDecoder(weights_of(model), 1, Sampling(0.0), 4)
    assert threading.active_count() == before


def test_threads_by_the_environment(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(6)), raising=False)
    monkeypatch.setattr("lmfast.inference.cpu.decoder.num_cores", lambda: 3)
    wanted = {"2": 2, "99999": 6, "4,1": 4, "0": 3, "abc": 3, "²": 3, "": 3}
    for given, threads in wanted.items():
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert num_threads() == threads
