"""Continuous batching: sequences join and leave a running batch between steps. Not thread-safe; no clock, no I/O.

In: Sequences, each a prompt and how to continue it. Out: their ids, the same alone and in company.

`Batch.advance` reads part of the prompts and decodes one id of every sequence whose prompt has been read. While others
decode, at most `shared_rows` prompt tokens are read per step, so that a long prompt delays them little; prompts share
these rows. Cached ids are kept after a sequence ends, until its slot is used again. A prompt that begins like a cached
sequence copies those positions instead of computing them, and if another sequence is reading the same beginning, waits.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from lmfast.inference.sampling import Sampling
from lmfast.inference.slots import Part, SlotDecoder, leading_equal

SHARED = 16  # the fewest equal ids that are worth waiting for, and the fewest rows of a prompt per pass

Finish = Literal["stop", "length", "cancelled"]


class TokenLogprobs(NamedTuple):
    """Natural logarithms of probabilities, those of softmax(logits) before temperature."""

    logprob: float
    """of the chosen id"""
    top: list[tuple[int, float]]
    """the most likely ids with theirs, most likely first"""


@dataclass(eq=False)
class Sequence:
    """One answer: a prompt, how to continue it, and the ids so far."""

    prompt: list[int]
    max_tokens: int
    sampling: Sampling
    row: int = 0
    """number of the answer in its request, for its random numbers, as the row of a batch in `generate`"""
    stop_ids: Collection[int] = ()
    stops: Callable[[int], bool] | None = None
    """called with each new id; True ends the sequence after it"""
    top_logprobs: int | None = None
    """None: no logprobs; k: of the chosen id and of the k most likely"""
    ids: list[int] = field(default_factory=list)
    """new ids so far, without a stop id"""
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    """of `ids`, if wanted"""
    cached: int = 0
    """prompt ids that were copied from another sequence"""
    finish: Finish | None = None
    """set last, when the sequence has ended"""

    def take(self, token: int, logits: np.ndarray | None) -> None:
        """Appends a new id, or ends the sequence."""
        if token in self.stop_ids:
            self.finish = "stop"
            return
        if logits is not None and self.top_logprobs is not None:
            self.logprobs.append(token_logprobs(logits, token, self.top_logprobs))
        self.ids.append(token)
        if self.stops is not None and self.stops(token):
            self.finish = "stop"
        elif len(self.ids) == self.max_tokens:
            self.finish = "length"


def token_logprobs(logits: np.ndarray, token: int, count: int) -> TokenLogprobs:
    """Of logits (vocab_size,); count: of `top`. Equally likely ids are in ascending order."""
    count = min(count, len(logits))
    logprobs = logits.astype(np.float64) - logits.max()
    logprobs -= np.log(np.exp(logprobs).sum())
    top = np.argpartition(-logprobs, count - 1)[:count] if count else np.zeros(0, np.int64)
    ranked = sorted((-float(logprobs[i]), int(i)) for i in top)
    return TokenLogprobs(float(logprobs[token]), [(i, -negated) for negated, i in ranked])


class StopFinder:
    """Called with each new id: whether the bytes so far contain a stop string. Takes less than a microsecond."""

    def __init__(self, vocab: Mapping[int, bytes], stop: Iterable[str]):
        self._vocab = vocab
        self._stop = [text.encode() for text in stop if text]
        self._kept = max(map(len, self._stop), default=1) - 1  # bytes that may begin a stop string
        self._tail = b""

    def __call__(self, token: int) -> bool:
        window = self._tail + self._vocab[token]
        for text in self._stop:
            if text in window:
                return True
        self._tail = window[max(0, len(window) - self._kept) :]
        return False


class _Slot:
    """A slot of the cache, and the sequence in it. ids[:cached]: those that the cache holds."""

    def __init__(self, number: int, context_length: int):
        self.number = number
        self.ids = np.zeros(context_length, np.int64)
        self.cached = self.launched = self.last_use = 0  # launched: steps of this sequence
        self.sequence: Sequence | None = None

    @property
    def remaining(self) -> int:
        """Prompt ids that are not cached yet; the last one is the first step's."""
        return 0 if self.sequence is None else len(self.sequence.prompt) - 1 - self.cached


class _Step(NamedTuple):
    slots: list[_Slot]
    sequences: list[Sequence]
    wait: Callable[[], list[int]]


class Batch:
    """The sequences in the slots of a decoder."""

    def __init__(self, decoder: SlotDecoder):
        self.decoder = decoder
        self.slots = [_Slot(number, decoder.context_length) for number in range(decoder.slots)]
        self.waiting: deque[Sequence] = deque()  # admitted, without a slot yet
        self.reading: list[_Slot] = []  # prompts being read, oldest first
        self.decoding: list[_Slot] = []
        self.in_flight: deque[_Step] = deque()
        self.uses = 0
        self.prompt_tokens = self.cached_tokens = self.new_tokens = 0
        """of all sequences so far: prompt tokens, how many of them were copied, generated tokens"""

    @property
    def free(self) -> int:
        """How many more sequences can be added."""
        return len(self.slots) - len(self.waiting) - len(self.reading) - len(self.decoding)

    @property
    def sequences(self) -> list[Sequence]:
        """Those that have not ended."""
        return [*self.waiting, *(s.sequence for s in self.reading + self.decoding if s.sequence)]

    @property
    def idle(self) -> bool:
        return self.free == len(self.slots) and not self.in_flight

    def add(self, sequence: Sequence) -> None:
        """Raises ValueError if there is no free slot or the sequence does not fit the context."""
        if not self.free:
            raise ValueError("all slots are taken")
        length = len(sequence.prompt) + sequence.max_tokens
        if not sequence.prompt or sequence.max_tokens < 1 or length > self.decoder.context_length:
            raise ValueError(f"{length} ids do not fit a context of {self.decoder.context_length}")
        self.waiting.append(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """Ends a sequence, whose slot is free at once. Does nothing if it has ended."""
        if sequence.finish is not None:
            return
        sequence.finish = "cancelled"
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        for slot in (*self.reading, *self.decoding):
            if slot.sequence is sequence:
                self._release(slot)

    def clear(self) -> None:
        """Cancels all sequences and forgets what is cached, after a decoder failed."""
        for sequence in self.sequences:
            self.cancel(sequence)
        self.in_flight.clear()
        for slot in self.slots:
            slot.cached = 0

    def advance(self) -> list[Sequence]:
        """Reads prompts and takes one step; returns the sequences that got an id or ended."""
        self._assign_slots()
        launched = self._launch(self._take_parts())
        changed: list[Sequence] = []
        logprobs = any(s.sequence and s.sequence.top_logprobs is not None for s in self.decoding)
        allowed = self.decoder.lag if launched and not logprobs else 0
        while len(self.in_flight) > allowed:
            changed += self._collect()
        return changed

    def _assign_slots(self) -> None:
        for sequence in list(self.waiting):
            prompt = np.array(sequence.prompt[:-1], np.int64)
            source = max(self.slots, key=lambda slot: (self._shared(slot, prompt), slot.sequence is None))
            shared = self._shared(source, prompt)
            if any(_common(slot, prompt) >= shared + SHARED for slot in self.reading):
                continue
            self.waiting.remove(sequence)
            # In place, unless that would discard most of a long history for a few ids.
            in_place = source.sequence is None and 2 * shared >= source.cached > 0
            target = source if in_place else self._oldest_free()
            if target is not source and shared:
                self.decoder.copy(source.number, target.number, shared)
            target.sequence, target.cached, target.launched = sequence, shared, 0
            target.ids[: len(sequence.prompt)] = sequence.prompt
            sequence.cached = shared
            self.prompt_tokens += len(sequence.prompt)
            self.cached_tokens += shared
            self.reading.append(target)

    def _shared(self, slot: _Slot, prompt: np.ndarray) -> int:
        """How many ids of the beginning of a prompt a slot has cached."""
        return leading_equal(slot.ids[: slot.cached], prompt)

    def _oldest_free(self) -> _Slot:
        return min((slot for slot in self.slots if slot.sequence is None), key=lambda slot: slot.last_use)

    def _take_parts(self) -> list[Part]:
        """Parts of the prompts for this step, and starts the sequences whose prompts they complete.

        The oldest first, then the shortest, each at least its share of the rows."""
        space = self.decoder.shared_rows if self.decoding else self.decoder.max_rows
        parts: list[Part] = []
        order = self.reading[:1] + sorted(self.reading[1:], key=lambda slot: slot.remaining)
        for place, slot in enumerate(order):
            share = max(SHARED, space // (len(order) - place))
            count = min(slot.remaining, share, space)
            if count > 0:
                parts.append((slot.number, slot.ids[slot.cached : slot.cached + count].tolist(), slot.cached))
                slot.cached += count
                space -= count
        for slot in order:
            if slot.remaining == 0 and slot.sequence is not None:
                sequence = slot.sequence
                self.decoder.start(
                    slot.number, slot.cached, sequence.prompt[-1], sequence.sampling, sequence.row
                )
                self.reading.remove(slot)
                self.decoding.append(slot)
        return parts

    def _launch(self, parts: list[Part]) -> bool:
        """Reads the parts, and launches a step of the sequences that may need one; False if there are none."""
        slots = [s for s in self.decoding if s.sequence and s.launched < s.sequence.max_tokens]
        if not slots:
            if parts:
                self.decoder.fill(parts)
            return False
        slots.sort(key=lambda slot: slot.number)
        sequences = [slot.sequence for slot in slots if slot.sequence]
        self.in_flight.append(
            _Step(slots, sequences, self.decoder.step([slot.number for slot in slots], parts))
        )
        for slot in slots:
            slot.launched += 1
        return True

    def _collect(self) -> list[Sequence]:
        """Takes the ids of the oldest step in flight; returns the sequences that it changed."""
        step, changed = self.in_flight.popleft(), []
        for slot, sequence, token in zip(step.slots, step.sequences, step.wait(), strict=True):
            if slot.sequence is not sequence:  # it ended after this step was launched
                continue
            logits = self.decoder.logits(slot.number) if sequence.top_logprobs is not None else None
            slot.cached += 1
            if slot.cached < len(slot.ids):
                slot.ids[slot.cached] = token
            before = len(sequence.ids)
            sequence.take(token, logits)
            self.new_tokens += len(sequence.ids) - before
            if sequence.finish is not None:
                self._release(slot)
            changed.append(sequence)
        return changed

    def _release(self, slot: _Slot) -> None:
        slot.sequence = None
        self.uses += 1
        slot.last_use = self.uses
        for group in (self.reading, self.decoding):
            if slot in group:
                group.remove(slot)


def _common(slot: _Slot, prompt: np.ndarray) -> int:
    """How many leading ids a prompt shares with the one that a slot is reading."""
    return 0 if slot.sequence is None else leading_equal(slot.ids[: len(slot.sequence.prompt) - 1], prompt)
