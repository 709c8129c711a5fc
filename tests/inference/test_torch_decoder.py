import pytest
import torch

from lmfast.inference.decode import generate
from lmfast.inference.sampling import Sampling
from lmfast.inference.torch_decoder import TorchDecoder
from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM
from tests.inference.test_decode import PROMPTS, SHAPES, build

GREEDY = {"temperature": 0.0}


def graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_cache_changes_nothing(changes, by_torch):
    model = build(**changes)
    with_cache, without = (generate(model, PROMPTS, 60, kv_cache=mode, **GREEDY) for mode in (True, False))
    assert with_cache == without


def test_both_decoders_choose_the_same(monkeypatch):
    model = build()
    options = {"temperature": 1.3, "top_k": 30, "top_p": 0.9, "seed": 5}
    ours = generate(model, PROMPTS, 60, **options)
    monkeypatch.setattr(
        "lmfast.inference.model_decoder.unsupported_reason", lambda model: "the test wants torch"
    )
    assert generate(model, PROMPTS, 60, **options) == ours


def test_one_graph_serves_all_prompts_and_lengths(compiled_quickly):
    """Lengths, prompts, seeds, settings, another model of the same shape: nothing recompiles the step."""
    before = graphs()
    model, other = build(), build()
    plain = generate(model, [[5, 9, 2]], 30, kv_cache=False, **GREEDY)
    assert generate(model, [[5, 9, 2]], 30, compile=True, **GREEDY) == plain
    assert graphs() == before + 1
    for prompt in ([1], [3] * 20, [8, 40], [4] * 50):
        for options in (GREEDY, {"temperature": 0.9, "top_k": 7, "seed": 3}):
            generate(model, [prompt], 40, compile=True, **options)
    generate(other, [[2, 3]], 5, compile=True, **GREEDY)
    assert graphs() == before + 1
    generate(model, [[1], [2, 3]], 5, compile=True, **GREEDY)
    assert graphs() == before + 2  # another batch size is another graph


def test_more_batch_sizes_than_dynamo_compiles_by_default(compiled_quickly):
    model, before = build(num_layers=1), graphs()
    with torch._dynamo.config.patch(recompile_limit=2):  # the default is 8, and a graph takes a second
        for batch in range(1, 5):
            generate(model, [[1, 2]] * batch, 2, compile=True, **GREEDY)
    assert graphs() == before + 4


def test_a_batch_of_prompts_decodes_compiled(compiled_quickly):
    model = build()
    expected = generate(model, PROMPTS, 60, kv_cache=False, **GREEDY)
    assert generate(model, PROMPTS, 60, compile=True, **GREEDY) == expected


@pytest.mark.exhaustive
def test_inductor_compiles_the_step():
    torch._dynamo.reset()
    model = build()
    expected = generate(model, PROMPTS, 30, kv_cache=False, **GREEDY)
    assert generate(model, PROMPTS, 30, compile=True, **GREEDY) == expected


@torch.inference_mode()
def test_logits_with_and_without_cache_in_bf16_agree():
    """Within 2 % of the largest logit, at every step."""
    model = build()
    with torch.autocast("cpu", torch.bfloat16):
        decoder = TorchDecoder(model, 1, Sampling(0.0))
        assert decoder.cache.layers[0].k.dtype == torch.bfloat16
        ids = list(PROMPTS[1])
        decoder.read({0: ids})
        for number in range(10):
            cached = decoder.model.decode(decoder.ids, decoder.cache, 24)  # the step itself, for its logits
            decoder.cache.lengths -= 1
            plain = model(torch.tensor([ids]))[:, -1]
            assert (cached - plain).abs().max() <= 0.02 * plain.abs().max()
            ids += decoder.step([0], number)()


@torch.inference_mode()
def test_rows_that_have_ended_stay_inside_the_cache():
    model = build()
    decoder = TorchDecoder(model, 2, Sampling(0.0))
    decoder.read({0: [1] * 24, 1: [2]})
    for number in range(30):
        if number % 12 == 1:
            decoder.read({1: [2, number]})
        decoder.step([1], number)()
    assert decoder.cache.lengths.max() < decoder.cache.max_length


@pytest.mark.parametrize("changes", SHAPES[:3], ids=str)
def test_steps_by_graph_change_nothing(changes, by_torch, replayed):
    """The device's code path, with lag, ring buffer and replays, where a graph is the step itself."""
    model = build(**changes)
    for options in (GREEDY, {"temperature": 1.3, "top_k": 30, "top_p": 0.9, "seed": 5}):
        plain = generate(model, PROMPTS, 60, kv_cache=False, **options)
        assert generate(model, PROMPTS, 60, **options) == plain
        stop = plain[0][20]
        stopped = [row[: row.index(stop)] if stop in row else row for row in plain]
        assert generate(model, PROMPTS, 60, stop_ids={stop}, **options) == stopped
    assert replayed.captured == 2  # greedy, and sampling


def test_prompts_are_read_by_a_graph_for_each_power_of_two(by_torch, replayed, monkeypatch):
    model = build(context_length=100)
    prompts = {32: ([5] * 2, [7] * 33), 64: ([3] * 34, [8] * 65), 100: ([9] * 66, [1] * 90)}
    for _ in range(2):
        for shortest, longest in prompts.values():
            for prompt in (shortest, longest):
                plain = generate(model, [prompt, prompt[:2]], 5, kv_cache=False, **GREEDY)
                assert generate(model, [prompt, prompt[:2]], 5, **GREEDY) == plain
    assert len(replayed.prefills) == len(prompts)
    assert [graph.given for graph in replayed.prefills] == [None, *[replayed.prefills[0]] * 2]
    monkeypatch.setattr("lmfast.inference.torch_decoder.PREFILL_TOKENS", 2 * 32 - 1)
    generate(build(context_length=100), [[5] * 2, [7]], 5, **GREEDY)
    assert len(replayed.prefills) == len(prompts)  # long passes run operator by operator


def test_the_cpu_pass_needs_no_autocast_of_weights(by_torch):
    """Each matrix is cast once per decoder, never in a step."""
    model = build()
    with torch.autocast("cpu", torch.bfloat16):
        decoder = TorchDecoder(model, 1, Sampling(0.0))
    matrices = [p for p in decoder.model.parameters() if p.dim() > 1]
    assert {p.dtype for p in matrices} == {torch.bfloat16}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compile", [False, True])
def test_graphs_on_cuda_change_nothing(compile):
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=200, context_length=48, d_model=64, num_layers=2, num_heads=4, num_kv_heads=2
    )
    model = TransformerLM(config).cuda().eval()
    with torch.no_grad():
        model.head.weight.mul_(20)
    rows = [[1], [5, 9, 2, 7], [3] * 30]
    for options in (GREEDY, {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "seed": 2}):
        expected = generate(model, rows, 100, kv_cache=False, **options)
        stop = expected[0][40]
        assert generate(model, rows, 100, compile=compile, **options) == expected
        stopped = [row[: row.index(stop)] if stop in row else row for row in expected]
        assert generate(model, rows, 100, compile=compile, stop_ids={stop}, **options) == stopped
