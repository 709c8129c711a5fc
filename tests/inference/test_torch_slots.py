"""Sequences in the slots of torch's decoder get the ids that `generate` gives them, on a CPU and by graphs (stand-ins)."""

import threading

import numpy as np
import pytest
import torch

from lmfast.inference import torch_slots
from lmfast.inference.decode import continue_prompts
from lmfast.inference.sampling import Sampling
from lmfast.inference.torch_sampling import RowKind
from lmfast.inference.torch_slots import TorchSlots
from tests.inference.cpu.test_slots import requests
from tests.inference.test_batching import decode_all
from tests.inference.test_decode import SHAPES, build

pytestmark = pytest.mark.usefixtures("by_torch")

GREEDY = Sampling(0.0)
SAMPLED = Sampling(1.3, top_k=30, top_p=0.9, seed=5)
PROMPTS = [[1], [5, 9, 2, 7, 7, 30, 12], [3] * 20, [8, 40]]
SAMPLINGS = [GREEDY, SAMPLED, Sampling(1.5, seed=2), Sampling(2.0, top_k=9)]


@pytest.fixture(params=["operators", "graphs"])
def ways(request):
    """Both ways of a step: operator by operator, and by stand-ins of graphs with a step of lag."""
    return request.getfixturevalue("replayed") if request.param == "graphs" else None


def alone(model, prompt: list[int], new: int, sampling: Sampling = GREEDY, row: int = 0) -> list[int]:
    """The ids of row `row` of a batch of `generate`."""
    return continue_prompts(model, [prompt] * (row + 1), new, sampling)[row]


def begin(decoder: TorchSlots, slot: int, prompt: list[int], sampling: Sampling = GREEDY, row: int = 0):
    decoder.fill([(slot, prompt[:-1], 0)])
    decoder.start(slot, len(prompt) - 1, prompt[-1], sampling, row)


def take(decoder: TorchSlots, slots: list[int], count: int) -> list[list[int]]:
    """The next ids of each slot."""
    steps = [decoder.step(slots)() for _ in range(count)]
    return [list(ids) for ids in zip(*steps, strict=True)]


@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_a_batch_gets_the_ids_of_generate(changes, ways):
    """Prompts in parts, sequences that join late, share beginnings and reuse slots; every kind of sampling."""
    model = build(**({"context_length": 90} | changes))
    sequences = requests(60, count=9)
    decoder = TorchSlots(model, 4)
    assert decoder.lag == (0 if ways is None else 1)
    batch = decode_all(decoder, sequences)
    assert batch.cached_tokens > 0
    for sequence in sequences:
        want = alone(model, sequence.prompt, sequence.max_tokens, sequence.sampling, sequence.row)
        assert sequence.ids == want


def test_sequences_join_and_leave_at_any_step(ways):
    model = build(context_length=64)
    decoder = TorchSlots(model, 4)
    rows, ids = [2, 0, 5, 1], [[], [], [], []]
    live: list[int] = []
    for number in range(34):
        for slot, first in enumerate((0, 3, 4, 9)):
            if number == first:
                begin(decoder, slot, PROMPTS[slot], SAMPLINGS[slot], rows[slot])
                live = [slot, *live]  # in any order
            if number == first + 21:
                live.remove(slot)
        if live:
            for slot, token in zip(live, decoder.step(live)(), strict=True):
                ids[slot].append(token)
    for slot, prompt in enumerate(PROMPTS):
        assert ids[slot] == alone(model, prompt, 21, SAMPLINGS[slot], rows[slot])


@pytest.mark.parametrize("size", [1, 3, 7, 19])
@pytest.mark.parametrize(
    "changes",
    [{}, {"sliding_window": 5}, {"value_embeddings": True, "qk_norm": True}, {"num_experts": 4}],
    ids=str,
)
def test_prompts_in_parts_while_others_decode(changes, size, ways):
    model = build(context_length=90, **changes)
    prompt = np.random.default_rng(0).integers(0, 60, 40).tolist()
    decoder, others = (
        TorchSlots(model, 4),
        [1, 2, 3],
    )  # with three of four active, the idle one is computed, too
    for slot in others:
        begin(decoder, slot, [4, slot])
    steps = []
    for first in range(0, 39, size):
        decoder.fill([(0, prompt[first : min(39, first + size)], first)])
        steps.append(decoder.step(others)())
    decoder.start(0, 39, prompt[-1], SAMPLED, 0)
    ids = take(decoder, [0, 1, 2, 3], 20)
    assert ids[0] == alone(model, prompt, 20, SAMPLED)
    for slot in others:
        before = [step[slot - 1] for step in steps]
        assert before + ids[slot] == alone(model, [4, slot], len(before) + 20)


def test_parts_of_several_prompts_are_read_together(monkeypatch):
    model = build(context_length=90)
    decoder, passes = TorchSlots(model, 4), []
    prefill = decoder.model.prefill

    def counted(ids, cache, rows=None, begin=0):
        passes.append((tuple(ids.shape), begin))
        prefill(ids, cache, rows, begin)

    monkeypatch.setattr(decoder.model, "prefill", counted)
    long = np.random.default_rng(0).integers(0, 60, 71).tolist()
    prompts = [[1, 2, 3, 4], [5, 6], long, [7] * 30]
    decoder.fill([(3, prompts[3][:-1], 0), *[(i, prompts[i][:-1], 0) for i in (0, 1)], (2, long[:40], 0)])
    decoder.fill([(2, long[40:50], 40), (2, long[50:70], 50), (1, [], 1)])
    assert passes == [((3, 29), 0), ((1, 40), 0), ((1, 10), 40), ((1, 20), 50)]
    for slot, prompt in enumerate(prompts):
        decoder.start(slot, len(prompt) - 1, prompt[-1], GREEDY, 0)
    assert take(decoder, [0, 1, 2, 3], 15) == [alone(model, prompt, 15) for prompt in prompts]


def test_a_single_prompt_is_read_by_a_graph_for_its_power_of_two(replayed, monkeypatch):
    model = build(context_length=100)
    decoder = TorchSlots(model, 3)
    prompts = {32: ([5] * 2, [7] * 33), 64: ([3] * 34, [8] * 65), 100: ([9] * 66, [1] * 90)}
    for shortest, longest in prompts.values():
        for slot, prompt in enumerate((shortest, longest, shortest)):
            begin(decoder, slot, prompt)
        together = take(decoder, [0, 1, 2], 5)
        decoder.copy(1, 2, 1)  # the first of two parts
        decoder.fill([(2, longest[1:-1], 1)])
        decoder.start(2, len(longest) - 1, longest[-1], GREEDY, 0)
        together.append(take(decoder, [2], 5)[0])
        short, long = (alone(model, prompt, 5) for prompt in (shortest, longest))
        assert together == [short, long, short, long]
    assert list(decoder.prefills) == list(prompts)
    graphs = [graph for _, graph in decoder.prefills.values()]
    assert [graph.given for graph in graphs] == [None, *graphs[:1] * 2]
    monkeypatch.setattr(torch_slots, "PREFILL_TOKENS", 31)
    other = TorchSlots(model, 1)
    begin(other, 0, [5] * 2)
    assert not other.prefills  # long prompts are read operator by operator
    assert take(other, [0], 5)[0] == alone(model, [5] * 2, 5)


def test_parts_of_a_prompt_in_one_fill_are_read_in_order():
    model = build(context_length=64)
    decoder, ids = TorchSlots(model, 2), np.random.default_rng(0).integers(0, 60, 20).tolist()
    decoder.fill([(0, ids[:10], 0)])
    decoder.fill([(0, ids[10:19], 10), (1, ids[:10], 0), (1, ids[10:19], 10)])
    for tensor in decoder.cache.tensors:
        torch.testing.assert_close(tensor[1], tensor[0], atol=1e-5, rtol=1e-4)


def test_a_copied_beginning_continues_and_its_source_too(ways):
    model = build(context_length=64)
    decoder = TorchSlots(model, 3)
    prompt = PROMPTS[1]
    begin(decoder, 2, prompt)
    first = take(decoder, [2], 5)[0]
    cached = (prompt + first)[:10]
    decoder.copy(2, 0, 6)
    decoder.fill([(0, cached[6:9], 6)])
    decoder.start(0, 9, 33, SAMPLED, 1)
    both = take(decoder, [0, 2], 20)
    assert both[0] == alone(model, [*cached[:9], 33], 20, SAMPLED, 1)
    assert first + both[1] == alone(model, prompt, 25)
    decoder.copy(0, 0, 4)
    decoder.start(0, 4, 1, GREEDY, 0)
    assert take(decoder, [0], 3)[0] == alone(model, [*cached[:4], 1], 3)


@pytest.mark.parametrize("length", [9, 62, 63, 64])
def test_what_an_idle_slot_has_cached_survives_the_steps_of_others(length, ways):
    """Also when its cache is full, or has one position left."""
    model = build(context_length=64)
    ids = np.random.default_rng(0).integers(0, 60, 64).tolist()
    decoder = TorchSlots(model, 4)
    decoder.fill([(0, ids[:length], 0)])
    for slot in (1, 2, 3):
        begin(decoder, slot, [7, 8])
    take(decoder, [1, 2, 3], 20)
    shared = min(length, 63)
    decoder.start(0, shared, 5, GREEDY, 0)
    (first,) = decoder.step([0])()
    assert first == alone(model, [*ids[:shared], 5], 1)[0]


def test_a_slot_is_reused(ways):
    model = build(context_length=64)
    decoder = TorchSlots(model, 2)
    for prompt, sampling in ((PROMPTS[2], GREEDY), (PROMPTS[3], SAMPLED), (PROMPTS[0], GREEDY)):
        begin(decoder, 1, prompt, sampling)
        assert take(decoder, [1], 30)[0] == alone(model, prompt, 30, sampling)


def test_graphs_are_as_small_as_the_number_of_sequences(replayed):
    model = build(context_length=64)
    decoder = TorchSlots(model, 12)
    want = [alone(model, [3, slot], 30) for slot in range(12)]
    before = replayed.captured

    def check(slots: list[int], count: int) -> None:
        for row, slot in zip(take(decoder, slots, count), slots, strict=True):
            ids[slot] += row

    ids: list[list[int]] = [[] for _ in range(12)]
    for slot in range(12):
        begin(decoder, slot, [3, slot])
    check([11, 2], 3)
    assert {size for size, _ in decoder.graphs} == {2}
    check([0, 5, 7], 4)
    assert {size for size, _ in decoder.graphs} == {2, 4}
    check([9, 8, 7, 6, 5, 4, 3, 2, 1], 5)
    assert {size for size, _ in decoder.graphs} == {2, 4, 12}
    check([10], 6)
    check([4], 2)
    assert {size for size, _ in decoder.graphs} == {1, 2, 4, 12}
    check(list(range(12)), 10)
    assert ids == [row[: len(row_ids)] for row, row_ids in zip(want, ids, strict=True)]
    assert sorted(decoder.places) == list(range(12))
    assert replayed.captured - before == len(decoder.graphs) == 4


def test_kinds_of_sampling_have_their_graphs(replayed):
    decoder = TorchSlots(build(), 3)
    for slot, sampling in enumerate((GREEDY, Sampling(1.0), Sampling(1.0, top_p=0.5))):
        begin(decoder, slot, [3, 4], sampling)
        decoder.step(list(range(slot + 1)))()
    assert set(decoder.graphs) == {(1, RowKind.GREEDY), (2, RowKind.FREE), (3, RowKind.FILTERED)}


def test_a_step_is_launched_before_the_ids_of_the_last_are_read(replayed):
    """The first sequence's end is noticed a step late, and another one is in its slot by then."""
    model = build(context_length=64)
    decoder = TorchSlots(model, 2)
    begin(decoder, 0, [4])
    begin(decoder, 1, [5, 6])
    slots = [0, 1]
    waits = [decoder.step(slots) for _ in range(2)]
    slots.clear()  # the caller's list
    begin(decoder, 0, [9, 9], SAMPLED)
    waits.append(decoder.step([1, 0]))
    first, second, third = (wait() for wait in waits)
    assert [first[0], second[0]] == alone(model, [4], 2)
    assert [first[1], second[1], third[0]] == alone(model, [5, 6], 3)
    assert third[1] == alone(model, [9, 9], 1, SAMPLED)[0]


def test_steady_steps_copy_nothing_to_the_device(replayed, monkeypatch):
    decoder, made = TorchSlots(build(), 4), []
    pinned = torch_slots.pinned_zeros
    begin(decoder, 1, [4])
    begin(decoder, 3, [4])
    decoder.step([1, 3])()
    monkeypatch.setattr(torch_slots, "pinned_zeros", lambda *given: (made.append(given), pinned(*given))[1])
    for _ in range(5):
        decoder.step([1, 3])()
    assert not made
    decoder.step([1])()  # changes places, so that the graph for one is enough, and what is active
    assert len(made) == 2


def test_warm_up_captures_all_graphs_and_leaves_no_trace(replayed):
    model = build(context_length=40)
    decoder = TorchSlots(model, 6)
    decoder.warm_up()
    sizes = {size for size, _ in decoder.graphs}
    assert set(decoder.prefills) == {32, 40}
    assert sizes == {1, 2, 4, 6} and replayed.captured == len(sizes) * len(RowKind)
    assert all(
        graph.given is next(iter(decoder.graphs.values())) for graph in list(decoder.graphs.values())[1:]
    )
    begin(decoder, 0, [4])
    ids = take(decoder, [0], 10)[0]
    assert replayed.captured == len(sizes) * len(RowKind)
    assert ids == alone(model, [4], 10)
    last = decoder.last
    decoder.close()
    assert not decoder.graphs and not decoder.prefills and not decoder.results and last.synchronized


def test_warm_up_without_graphs_does_nothing():
    decoder = TorchSlots(build(), 2)
    decoder.warm_up()
    assert not decoder.lengths[0] and not any(tensor.any() for tensor in decoder.cache.tensors)


def test_logits_are_those_of_the_last_step_with_unused_ids_excluded(ways):
    model = build(context_length=64)
    model.restrict_to(range(50))
    decoder = TorchSlots(model, 3)
    with pytest.raises(ValueError, match="before the first step"):
        decoder.logits(0)
    begin(decoder, 2, [5, 6, 7])
    begin(decoder, 0, [1, 2], SAMPLED)
    chosen = decoder.step([0, 2])()
    with torch.inference_mode():
        want = [model.mask_unused(model(torch.tensor([ids])))[0, -1] for ids in ([1, 2], [5, 6, 7])]
    for slot, row in zip((0, 2), want, strict=True):
        logits = decoder.logits(slot)
        assert logits.dtype == np.float32 and logits.shape == (60,)
        np.testing.assert_allclose(logits, row.numpy(), atol=1e-3)
        assert (logits[50:] == -np.inf).all()
    assert chosen[1] == want[1].argmax()
    decoder.step([2])()  # at another place, perhaps
    np.testing.assert_allclose(
        decoder.logits(2),
        model.mask_unused(model(torch.tensor([[5, 6, 7, chosen[1]]])))[0, -1].detach(),
        atol=1e-3,
    )


def test_autocast_is_that_of_the_constructor_in_all_threads(ways, monkeypatch):
    model = build(context_length=64)
    with torch.autocast("cpu", torch.bfloat16):
        decoder = TorchSlots(model, 2)
        with torch.inference_mode():
            want = model(torch.tensor([[5, 9, 2]]))[0, -1].float()
    assert {p.dtype for p in decoder.model.parameters() if p.dim() > 1} == {torch.bfloat16}
    assert decoder.cache.layers[0].k.dtype == torch.bfloat16

    seen = []
    for name in ("prefill", "decode"):
        run = getattr(decoder.model, name)

        def watched(*given, run=run):
            seen.append(torch.is_autocast_enabled("cpu"))
            return run(*given)

        monkeypatch.setattr(decoder.model, name, watched)

    def work() -> None:
        decoder.fill([(1, [5], 0)])
        decoder.fill([(1, [9], 1)])
        decoder.start(1, 2, 2, GREEDY, 0)
        decoder.step([1])()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True] * 3
    assert np.abs(decoder.logits(1) - want.numpy()).max() <= 0.02 * want.abs().max()


def test_sequences_longer_than_the_context_are_rejected():
    decoder = TorchSlots(build(), 2)
    with pytest.raises(ValueError, match="slot 1: 25 ids exceed its cache of 24"):
        decoder.fill([(1, [1] * 5, 20)])
    with pytest.raises(ValueError, match="exceed"):
        decoder.copy(0, 1, 25)
    with pytest.raises(ValueError, match="exceed"):
        decoder.start(1, 24, 3, GREEDY, 0)
    decoder.fill([(1, [1] * 23, 0)])
    decoder.start(1, 23, 3, GREEDY, 0)
    decoder.step([1])()
    with pytest.raises(ValueError, match="exceed"):
        decoder.step([1])


def test_steps_read_no_more_of_the_cache_than_needed(monkeypatch):
    model, bounds = build(context_length=400), []
    decoder = TorchSlots(model, 4)
    decode = decoder.model.decode
    monkeypatch.setattr(decoder.model, "decode", lambda *given: (bounds.append(given[2]), decode(*given))[1])
    begin(decoder, 1, [3] * 128)
    decoder.step([1])()
    decoder.step([1])()
    decoder.fill([(2, [3] * 300, 0)])
    decoder.step([1])()  # at place 0
    for slot in (0, 3):
        decoder.start(slot, 0, 3, GREEDY, 0)
    decoder.step([0, 1, 3])()  # around an idle slot of 300 positions
    assert bounds == [128, 256, 256, 384]
