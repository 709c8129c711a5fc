"""Which threads take part in a pass, so that none waits long for a thread whose core another process has.

Between barriers every thread of a pass has its part, and a pass takes a fraction of a millisecond. A core shared with a
busy process is away for whole time slices of several milliseconds, in the middle of a pass unless something is done
about it: two threads next to one busy process then decode at a third of their speed.

So members can also attend in turns: one is invited for STAY seconds at most, before the scheduler is likely to take its
core, and then naps, which gives the core away between two passes; while it is away or waits for the core, thread 0 works
alone. Which of the two is faster is measured, for each kind of pass: after a window in which threads waited long, the
next window is tried the other way, and the faster way is kept, the longer the more often it won. A machine without such
waits never tries. Results do not depend on the number of threads (kernels.py).
"""

import functools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from lmfast.inference.cpu import team

STAY = 1e-3  # seconds; schedulers' slices are 1 to 3 ms
STALL = 0.3  # share of a window that threads waited beyond spinning
WINDOW = 0.02  # seconds in passes
SHORT_HOLD, LONG_HOLD = 0.04, 1.28  # seconds until the other way is tried again


class Way:
    """How members attend passes of one kind, and the window of such passes that is being measured."""

    def __init__(self) -> None:
        self.in_turns = self.trying = False
        self.cost = 0.0  # seconds per pass in the last complete window
        self.hold, self.next_try = SHORT_HOLD, 0.0
        self._open()

    def _open(self) -> None:
        self.seconds, self.waited, self.passes = 0.0, 0.0, 0

    def add(self, now: float, seconds: float, waited: float) -> None:
        """Adds a pass to the window. A full window decides how the next one attends."""
        self.seconds += seconds
        self.waited += waited
        self.passes += 1
        if self.seconds < WINDOW:
            return
        before, self.cost = self.cost, self.seconds / self.passes
        if self.trying:
            self.trying = False
            if self.cost < before:
                self.hold = SHORT_HOLD
            else:
                self.in_turns = not self.in_turns
                self.hold = min(LONG_HOLD, 2 * self.hold)
            self.next_try = now + self.hold
        elif now >= self.next_try and (self.in_turns or self.waited > STALL * self.seconds):
            self.trying = True
            self.in_turns = not self.in_turns
        self._open()


Ways = dict[Hashable, Way]  # by kind of pass


@functools.cache
def ways_of(model: Hashable, threads: int) -> Ways:
    """What is known of passes of models of this shape; a decoder is often made for one call."""
    return defaultdict(Way)


class Attendance:
    """ranks[t]: the rank of thread t in the next pass, −1 if it is not invited. Thread 0 has rank 0."""

    def __init__(
        self,
        sync: np.ndarray,
        wakers: Sequence[threading.Event],
        ways: Ways,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.wakers, self.ways, self.clock = wakers, ways, clock
        self.threads = len(wakers) + 1
        self.everyone = self.ranks = np.arange(self.threads)
        self.joined = [0.0] * self.threads  # when a member came; 0: it is away
        self.words = memoryview(sync)  # ten times as fast to read one word
        self.measuring, self.waited, self.last_wait = False, 0, 0.0

    def begin(self, kind: Hashable) -> int:
        """Sets `ranks` for a pass of this kind; returns the number of its threads."""
        if self.measuring:
            self.way, self.began = self.ways[kind], self.clock()
            if self.way.in_turns:
                return self._take_turns(self.began)
        self.ranks = self.everyone
        return self.threads

    def end(self) -> None:
        """Notes what the pass took, if threads have waited lately."""
        waited = self.words[team.WAITED]
        if self.measuring:
            now = self.clock()
            self.way.add(now, now - self.began, 1e-9 * (waited - self.waited))
            if waited > self.waited:
                self.last_wait = now
            self.measuring = now - self.last_wait < 2 * LONG_HOLD
        elif waited > self.waited:
            self.measuring, self.last_wait = True, self.clock()
        self.waited = waited

    def _take_turns(self, now: float) -> int:
        self.ranks, count = np.full(self.threads, -1), 1
        self.ranks[0] = 0
        for t in range(1, self.threads):
            member = team.MEMBERS + team.MEMBER_WORDS * (t - 1)
            state = self.words[member + team.STATE]
            if state != team.PRESENT or self.words[member + team.NAP]:
                self.joined[t] = 0.0
                if state == team.ASLEEP:
                    self.wakers[t - 1].set()
            elif not self.joined[t] or now - self.joined[t] < STAY:
                self.joined[t] = self.joined[t] or now
                self.ranks[t] = count
                count += 1
            else:
                self.words[member + team.NAP] = 1
                self.joined[t] = 0.0
        return count
