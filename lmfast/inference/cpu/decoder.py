"""Decodes on a CPU in C++ (lmfast_kernels/cpp/decoder.cpp), on a team of threads: reads prompts into a KV cache and
generates from it. Does not import torch.

In: the weights of a model in fp32. Out: ids. With quantize="int8", the matrices are stored in 8 bits, in blocks of 32
inputs with a scale each, and so are the rows that they are multiplied with (panels_int8.h).
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from ctypes import POINTER, byref, c_void_p, cast
from typing import Literal

import numpy as np

from lmfast.hardware import num_cores
from lmfast.inference.cpu import plan as plans
from lmfast.inference.cpu import team
from lmfast.inference.cpu.attendance import Attendance, ways_of
from lmfast.inference.cpu.plan import Kept, SamplingNumbers
from lmfast.inference.cpu.weights import DecoderWeights
from lmfast.inference.sampling import Sampling

READ_ROWS = 128  # prompt tokens per pass: their activations fit a core's L2 cache
SPIN_LIMIT = 20_000  # polls for the next pass, about 0.3 ms, before a thread sleeps


Part = tuple[int, list[int], int]
"""(sequence, ids, position of the first)"""


def num_threads() -> int:
    """The number of threads that torch uses by default: OMP_NUM_THREADS, or one for each core of this process. At most
    one for each of its processors, because threads wait for each other at every barrier."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if given.isascii() and given.isdecimal() and int(given):
        return min(int(given), len(os.sched_getaffinity(0)))
    return num_cores()


class CpuDecoder:
    """Decodes a batch of sequences, each up to the model's context length.

    The constructor starts the threads, which `close` ends, and packs the matrices: 15 to 25 ms for 70 MB, and a second
    copy in memory. Embeddings are read from the model's own memory, so it must not be moved until `close`."""

    lag = 0

    def __init__(
        self,
        weights: DecoderWeights,
        batch: int,
        sampling: Sampling,
        threads: int | None = None,
        quantize: Literal["int8"] | None = None,
    ):
        self.library = plans.library()
        self.threads = threads = threads or num_threads()
        self.batch, self.capacity = batch, READ_ROWS + batch
        self.max_length = weights.config.context_length
        self.kept = Kept()
        self.plan = plans.make_plan(weights, batch, self.capacity, threads, quantize, self.kept)
        self.samplings = (SamplingNumbers * batch)(
            *(SamplingNumbers.of(sampling, row) for row in range(batch))
        )
        self.plan.samplings = cast(self.samplings, POINTER(SamplingNumbers))
        rows = np.zeros((len(plans.ROWS), self.capacity + 1), np.int64)
        self.ids, self.positions, self.owners, self.begins, self.steps, self.targets, self.chosen = rows
        self.logprobs = np.zeros(self.capacity)
        for name in (*plans.ROWS, "logprobs"):
            setattr(self.plan, name, getattr(self, name).ctypes.data)
        self.sync = np.zeros(team.sync_words(threads), np.int64)
        self.plan.sync = self.sync.ctypes.data
        width = self.library.padded_width(weights.config.vocab_size)
        logits = np.ctypeslib.as_array(
            cast(c_void_p(self.plan.logits), POINTER(plans.c_float)), (batch, width)
        )
        self.logits = logits[:, : weights.config.vocab_size]  # one row per row of a step
        self.lengths, self.newest = np.zeros((2, batch), np.int64)  # newest: last ids, not cached yet
        self.unread: list[Part] = []  # ends of prompts, which the next step reads
        self.passes = 0
        self.wakers = [threading.Event() for _ in range(threads - 1)]
        self.attendance = Attendance(self.sync, self.wakers, ways_of(weights.config, threads))
        self.team = [threading.Thread(target=self._serve, args=(t,), daemon=True) for t in range(1, threads)]
        try:
            for thread in self.team:
                thread.start()
            self._run(plans.PACK)
        except BaseException:  # no thread is left, or Ctrl-C
            self.close()
            raise

    def read(self, windows: dict[int, list[int]]) -> None:
        """Starts sequences over: {sequence: ids}. Caches all ids but the last, the last READ_ROWS of them in the next step:
        for a short prompt, reading the weights takes longer than computing."""
        self.unread = [part for part in self.unread if part[0] not in windows]
        pending: list[Part] = []
        for b, ids in windows.items():
            self._check_length(b, len(ids))
            self.lengths[b], self.newest[b] = len(ids) - 1, ids[-1]
            if len(ids) > 1:
                pending.append((b, ids[:-1], 0))
        while pending:
            if self.unread:
                self.fill(self.unread)
            self.unread, space = [], READ_ROWS
            while pending and space:
                b, ids, begin = pending.pop()
                part = ids[begin : begin + space]
                self.unread.append((b, part, begin))
                space -= len(part)
                if begin + len(part) < len(ids):
                    pending.append((b, ids, begin + len(part)))

    def fill(self, parts: Sequence[Part]) -> None:
        """Caches ids: (sequence, ids, position of the first), at most READ_ROWS in all."""
        self._fill_rows(parts)
        self._run(plans.READ)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` cached positions of a sequence to another."""
        if not 0 <= length <= self.max_length:
            raise ValueError(f"{length} ids exceed the cache of {self.max_length}")
        self.library.copy_cache(byref(self.plan), source, target, length)

    def score(self, parts: Sequence[Part], targets: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Caches ids as `fill`. targets: for each of them the id that follows it, or -1.

        Returns the natural logarithm of each target's probability, float64, and the most likely id, the lowest on ties,
        among all ids of the vocabulary. Both are undefined where there is no target."""
        self._fill_rows(parts)
        count = self.plan.num_rows
        self.targets[:count] = targets
        self._run(plans.SCORE)
        return self.logprobs[:count].copy(), self.chosen[:count].copy()

    def step(
        self, rows: list[int], number: int | np.ndarray, parts: Sequence[Part] = ()
    ) -> Callable[[], list[int]]:
        """Appends the newest id of each sequence in `rows` and chooses the next; the function returned returns those.

        number: of the step, for all rows or for each. parts: cached in the same pass, as by `fill`; those of a sequence in
        `rows` precede its newest id."""
        count, sequences = len(rows), np.array(rows)
        parts, self.unread = [*self.unread, *parts], []
        if parts:
            self._fill_rows([*self._completed(rows, parts), *(part for part in parts if part[0] not in rows)])
            self.steps[: self.plan.num_sequences] = -1
        else:
            self.ids[:count] = self.newest[sequences]
            self.positions[:count] = self.lengths[sequences]
            self.owners[:count] = sequences
            self.begins[: count + 1] = np.arange(count + 1)
            longest = int(sequences[self.lengths[sequences].argmax()])
            self._check_length(longest, int(self.lengths[longest]) + 1)
            self.plan.num_rows = self.plan.num_sequences = count
        self.steps[:count] = number
        self._run(plans.PREDICT)
        chosen = self.chosen[:count]
        self.lengths[sequences] += 1
        self.newest[sequences] = chosen
        ids = chosen.tolist()
        return lambda: ids

    def close(self) -> None:
        self.library.end_passes(self.plan.sync, self.passes + 1, self.threads)
        for waker in self.wakers:
            waker.set()
        for thread in self.team:
            if thread.ident is not None:
                thread.join()

    def _completed(self, rows: list[int], parts: Sequence[Part]) -> Iterator[Part]:
        """The part of each sequence in `rows`, which may be empty, and its newest id."""
        given = {b: (ids, begin) for b, ids, begin in parts}
        for b in rows:
            ids, begin = given.get(b, ((), int(self.lengths[b])))
            yield b, [*ids, int(self.newest[b])], begin

    def _fill_rows(self, parts: Sequence[Part]) -> None:
        """Sets the rows of a pass that reads prompts, from (sequence, ids, position of the first id)."""
        count = 0
        for s, (b, ids, begin) in enumerate(parts):
            self._check_length(b, begin + len(ids))
            self.owners[s], self.begins[s] = b, count
            end = count + len(ids)
            self.ids[count:end] = ids
            self.positions[count:end] = np.arange(begin, begin + len(ids))
            count = end
        self.begins[len(parts)] = count
        self.plan.num_rows, self.plan.num_sequences = count, len(parts)

    def _check_length(self, b: int, length: int) -> None:
        """Raises ValueError for a sequence longer than its cache; C++ does not check bounds."""
        if length > self.max_length:
            raise ValueError(f"sequence {b}: {length} ids exceed its cache of {self.max_length}")

    def _run(self, purpose: int) -> None:
        self.passes += 1
        self.plan.purpose = purpose
        self.plan.team = self.attendance.begin((purpose, self.plan.num_rows))
        ranks = self.attendance.ranks.ctypes.data
        if self.team and self.library.begin_pass(self.plan.sync, self.passes, ranks, self.threads):
            for waker in self.wakers:
                waker.set()
        self.library.work(byref(self.plan), 0, 0, SPIN_LIMIT)
        self.attendance.end()

    def _serve(self, t: int) -> None:
        done, waker = 0, self.wakers[t - 1]
        while (done := self.library.work(byref(self.plan), t, done, SPIN_LIMIT)) >= 0:
            waker.wait()
            waker.clear()
