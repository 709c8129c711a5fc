import numpy as np
import pytest

from lmfast.inference.batching import SHARED, Batch, Sequence, TokenLogprobs, token_logprobs
from lmfast.inference.sampling import Sampling

GREEDY = Sampling(0.0)


class CountingDecoder:
    """Chooses (1 + the sum of all cached ids) % 101, which depends on every cached id; remembers what it did."""

    def __init__(self, slots: int = 4, context_length: int = 400, lag: int = 0):
        self.slots, self.context_length, self.lag = slots, context_length, lag
        self.vocab_size, self.max_rows, self.shared_rows = 101, 128, 64
        self.cache = np.full((slots, context_length), -1)
        self.lengths, self.newest = np.zeros((2, slots), int)
        self.filled: list[list[tuple[int, int]]] = []  # of each fill: (slot, number of ids)
        self.steps: list[list[int]] = []
        self.copied: list[tuple[int, int, int]] = []
        self.failing = False

    def fill(self, parts):
        assert 0 < sum(len(ids) for _, ids, _ in parts) <= self.max_rows
        self.filled.append([(slot, len(ids)) for slot, ids, _ in parts])
        for slot, ids, begin in parts:
            self.cache[slot, begin : begin + len(ids)] = ids

    def copy(self, source, target, length):
        self.copied.append((source, target, length))
        self.cache[target, :length] = self.cache[source, :length]

    def start(self, slot, length, newest, sampling, row):
        self.lengths[slot], self.newest[slot] = length, newest

    def step(self, slots, parts=()):
        if self.failing:
            raise RuntimeError("the device is lost")
        if parts:
            self.fill(parts)
        self.steps.append(list(slots))
        for slot in slots:
            self.cache[slot, self.lengths[slot]] = self.newest[slot]
            self.lengths[slot] += 1
            cached = self.cache[slot, : self.lengths[slot]]
            assert (cached >= 0).all()
            self.newest[slot] = (1 + cached.sum()) % 101
        chosen = [int(self.newest[slot]) for slot in slots]
        return lambda: chosen

    def logits(self, slot):
        return np.arange(101, dtype=np.float32)

    def close(self):
        pass


def expected(prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append((1 + sum(ids)) % 101)
    return ids[len(prompt) :]


def finish(batch: Batch, most: int = 1000) -> None:
    for _ in range(most):
        if batch.idle:
            return
        batch.advance()
    raise AssertionError("the batch does not end")


def decode_all(decoder, sequences) -> Batch:
    """Decodes the sequences, which join one per step while slots are free; closes the decoder."""
    batch, queue = Batch(decoder), list(sequences)
    while queue or not batch.idle:
        if queue and batch.free:
            batch.add(queue.pop(0))
        batch.advance()
    decoder.close()
    return batch


def sequence(prompt, max_tokens=5, **options) -> Sequence:
    return Sequence(list(prompt), max_tokens, GREEDY, **options)


@pytest.mark.parametrize("lag", [0, 1])
def test_sequences_join_and_leave(lag):
    batch = Batch(CountingDecoder(lag=lag))
    first, second, third = sequence([5, 6, 7], 9), sequence([1], 3), sequence(range(50), 4)
    batch.add(first)
    for _ in range(3):
        batch.advance()
    batch.add(second)
    batch.advance()
    batch.add(third)
    finish(batch)
    for s in (first, second, third):
        assert s.ids == expected(s.prompt, s.max_tokens) and s.finish == "length"
    assert batch.free == 4 and batch.new_tokens == 16 and batch.prompt_tokens == 54


@pytest.mark.parametrize("lag", [0, 1])
def test_a_sequence_ends_at_a_stop_id_or_when_told(lag):
    ids = expected([3, 4], 10)
    batch = Batch(CountingDecoder(lag=lag))
    at_id, told = sequence([3, 4], 10, stop_ids={ids[4]}), sequence([3, 4], 10, stops=lambda t: t == ids[2])
    batch.add(at_id)
    batch.add(told)
    finish(batch)
    assert (at_id.ids, at_id.finish) == (ids[: ids.index(ids[4])], "stop")
    assert (told.ids, told.finish) == (ids[:3], "stop")


@pytest.mark.parametrize("lag", [0, 1])
def test_a_cancelled_sequence_frees_its_slot_at_once(lag):
    batch = Batch(CountingDecoder(slots=1, lag=lag))
    gone, reading, next_one = sequence([1, 2], 50), sequence(range(300), 5), sequence([9, 8], 6)
    batch.add(gone)
    for _ in range(4):
        batch.advance()
    assert batch.free == 0
    batch.cancel(gone)
    assert gone.finish == "cancelled" and batch.free == 1
    batch.add(reading)
    batch.advance()
    batch.cancel(reading)
    batch.add(next_one)
    known = len(gone.ids)
    finish(batch)
    assert next_one.ids == expected([9, 8], 6) and len(gone.ids) == known and reading.ids == []
    batch.cancel(next_one)
    assert next_one.finish == "length"


def test_what_does_not_fit_is_rejected():
    batch = Batch(CountingDecoder(slots=1, context_length=10))
    for bad in (sequence([], 1), sequence([1], 0), sequence(range(8), 3)):
        with pytest.raises(ValueError, match="do not fit"):
            batch.add(bad)
    whole = sequence(range(8), 2)
    batch.add(whole)
    with pytest.raises(ValueError, match="slots"):
        batch.add(sequence([1]))
    finish(batch)
    assert whole.ids == expected(range(8), 2)


def test_a_long_prompt_is_read_between_the_steps_of_others():
    decoder = CountingDecoder(context_length=2000)
    batch = Batch(decoder)
    short, long = sequence([1, 2], 40), sequence(range(1000), 3)
    batch.add(short)
    batch.advance()
    batch.add(long)
    steps = 0
    while not long.ids:
        before = len(short.ids)
        batch.advance()
        steps += 1
        assert len(short.ids) == before + 1
    assert steps == -(-999 // decoder.shared_rows)
    assert all(sum(count for _, count in fill) <= decoder.shared_rows for fill in decoder.filled[1:])
    finish(batch)
    assert long.ids == expected(range(1000), 3)


def test_a_short_prompt_does_not_wait_for_a_long_one():
    batch = Batch(CountingDecoder(context_length=2000))
    long, short = sequence(range(1500), 2), sequence([7] * 20, 2)
    batch.add(long)
    batch.add(short)
    batch.advance()
    assert short.ids and not long.ids
    finish(batch)
    assert long.ids == expected(range(1500), 2)


def test_prompts_are_read_together():
    decoder = CountingDecoder(slots=8)
    batch = Batch(decoder)
    for i in range(8):
        batch.add(sequence([i] * 17))
    batch.advance()
    assert decoder.filled == [[(i, 16) for i in range(8)]]
    assert decoder.steps == [list(range(8))]


def test_an_equal_beginning_is_read_once():
    decoder = CountingDecoder()
    batch = Batch(decoder)
    system = list(range(100, 200))
    answers = [sequence([*(i % 101 for i in system), tail], 6) for tail in (1, 2, 3)]
    for answer in answers:
        batch.add(answer)
    finish(batch)
    assert sum(count for fill in decoder.filled for _, count in fill) == len(system)
    assert [a.cached for a in answers] == [0, 100, 100] and batch.cached_tokens == 200
    assert [a.ids for a in answers] == [expected(a.prompt, 6) for a in answers]


def test_the_next_turn_of_a_conversation_continues_in_its_slot():
    decoder = CountingDecoder()
    batch = Batch(decoder)
    first = sequence([4] * 30, 8)
    batch.add(first)
    finish(batch)
    second = sequence([*first.prompt, *first.ids, 50, 51], 8)
    batch.add(second)
    finish(batch)
    # The last id of the first turn was never in the cache, and the last of the prompt is the first step's.
    assert second.cached == 30 + 8 - 1 and not decoder.copied
    assert second.ids == expected(second.prompt, 8)


def test_a_long_history_is_not_discarded_for_a_few_equal_ids():
    decoder = CountingDecoder()
    batch = Batch(decoder)
    history = sequence([4] * 90, 2)
    batch.add(history)
    finish(batch)
    batch.add(sequence([4, 4, 9, 9], 2))
    finish(batch)
    again = sequence([*history.prompt, 5], 2)
    batch.add(again)
    finish(batch)
    assert again.cached == 90 and decoder.copied == [(0, 1, 2)]


def test_a_beginning_shorter_than_worth_waiting_for_is_read_again():
    decoder = CountingDecoder()
    batch = Batch(decoder)
    for tail in (1, 2):
        batch.add(sequence([*[7] * (SHARED - 1), *[tail] * 5]))
    batch.advance()
    assert len(decoder.steps[0]) == 2


def test_random_company_does_not_change_ids():
    generator = np.random.default_rng(0)
    for lag in (0, 1):
        batch = Batch(CountingDecoder(slots=3, lag=lag))
        queue, taken = [], []
        for _ in range(60):
            head = [1] * int(generator.integers(0, 40))
            prompt = [*head, *generator.integers(0, 101, generator.integers(1, 60)).tolist()]
            queue.append(sequence(prompt, int(generator.integers(1, 30))))
        cancelled = set()
        while queue or not batch.idle:
            while queue and batch.free:
                taken.append(queue.pop())
                batch.add(taken[-1])
            batch.advance()
            if generator.random() < 0.1 and batch.sequences:
                cancelled.add(batch.sequences[-1])
                batch.cancel(batch.sequences[-1])
        assert len(taken) == 60 and batch.free == 3
        for s in taken:
            if s in cancelled:
                assert s.finish == "cancelled" and s.ids == expected(s.prompt, len(s.ids))
            else:
                assert s.finish == "length" and s.ids == expected(s.prompt, s.max_tokens)


@pytest.mark.parametrize("lag", [0, 1])
def test_logprobs_are_those_of_the_step(lag):
    batch = Batch(CountingDecoder(lag=lag))
    with_them, without = sequence([2, 3], 4, top_logprobs=2), sequence([2, 3], 4)
    batch.add(with_them)
    batch.add(without)
    finish(batch)
    assert with_them.ids == without.ids and without.logprobs == []
    exact = np.arange(101.0) - np.log(np.exp(np.arange(101.0) - 100).sum()) - 100
    for token, found in zip(with_them.ids, with_them.logprobs, strict=True):
        assert found.logprob == pytest.approx(exact[token], abs=1e-9)
        assert [i for i, _ in found.top] == [100, 99]


class LikelyDecoder(CountingDecoder):
    """The id that the last step chose is the most likely one."""

    def logits(self, slot):
        found = super().logits(slot)
        found[self.newest[slot]] = 200
        return found


@pytest.mark.parametrize("lag", [0, 1])
def test_logprobs_are_not_those_of_a_later_step(lag):
    batch = Batch(LikelyDecoder(lag=lag))
    wanted, company = sequence([3, 4], 6, top_logprobs=1), sequence([5], 20)
    batch.add(company)
    for _ in range(3):
        batch.advance()
    batch.add(wanted)
    finish(batch)
    assert [found.top[0][0] for found in wanted.logprobs] == wanted.ids == expected([3, 4], 6)


def test_logprobs_of_excluded_and_equal_ids():
    logits = np.array([1.0, -np.inf, 1.0, 0.0], np.float32)
    found = token_logprobs(logits, 1, 3)
    assert found.logprob == -np.inf and [i for i, _ in found.top] == [0, 2, 3]
    assert token_logprobs(logits, 0, 0) == TokenLogprobs(found.top[0][1], [])
    assert len(token_logprobs(logits, 0, 20).top) == 4


def test_after_a_failure_the_batch_is_empty_and_works():
    decoder = CountingDecoder()
    batch = Batch(decoder)
    lost = sequence([1, 2, 3])
    batch.add(lost)
    decoder.failing = True
    with pytest.raises(RuntimeError):
        batch.advance()
    batch.clear()
    decoder.failing = False
    assert batch.idle and lost.finish == "cancelled"
    good = sequence([1, 2, 3])
    batch.add(good)
    finish(batch)
    assert good.ids == expected([1, 2, 3], 5) and good.cached == 0
