"""Which threads are invited, with a clock and waits made here."""

import threading
from collections import defaultdict

import numpy as np

from lmfast.inference.cpu import team
from lmfast.inference.cpu.attendance import LONG_HOLD, STAY, Attendance, Way


class Machine:
    """Passes of 1 ms with the whole team, of `alone` seconds without members; with waits, together each takes 5 ms."""

    def __init__(self, threads: int = 2, alone: float = 2e-3):
        self.now, self.alone, self.busy = 100.0, alone, False
        self.sync = np.zeros(team.sync_words(threads), np.int64)
        self.wakers = [threading.Event() for _ in range(threads - 1)]
        self.attendance = Attendance(self.sync, self.wakers, defaultdict(Way), lambda: self.now)
        self.sizes: list[int] = []

    def member(self, t: int, word: int) -> int:
        return team.MEMBERS + team.MEMBER_WORDS * (t - 1) + word

    def run(self, seconds: float, kind: str = "step") -> float:
        """Passes for so long, with half a millisecond between two; returns passes per second of their own time."""
        end, passes, taken = self.now + seconds, 0, 0.0
        while self.now < end:
            size, began = self.attendance.begin(kind), self.now
            self.sizes.append(size)
            if size == 1:
                self.now += self.alone
            elif self.busy and not self.attendance.ways[kind].in_turns:
                self.now += 5e-3
                self.sync[team.WAITED] += 4_000_000
            else:
                self.now += 1e-3
            taken += self.now - began
            self.attendance.end()
            for t in range(1, len(self.wakers) + 1):  # naps end within a pass
                self.sync[self.member(t, team.NAP)] = 0
            self.now += 5e-4
            passes += 1
        return passes / taken


def test_a_quiet_machine_never_tries_turns():
    machine = Machine()
    machine.run(10)
    assert set(machine.sizes) == {2}


def test_next_to_a_busy_process_members_attend_in_turns():
    machine = Machine()
    machine.busy = True
    machine.run(2)
    machine.sizes.clear()
    assert machine.run(10) > 0.9 * 1000 * 2 / 3  # a pass with the member, one without: 2 in 3 ms
    assert {1, 2} == set(machine.sizes)


def test_the_team_comes_back_when_the_machine_is_quiet_again():
    machine = Machine()
    machine.busy = True
    machine.run(3)
    machine.busy = False
    machine.run(2 * LONG_HOLD)
    machine.sizes.clear()
    machine.run(5)
    assert set(machine.sizes) == {2}


def test_turns_that_are_slower_are_tried_seldom():
    machine = Machine(alone=50e-3)
    machine.busy = True
    machine.run(5)
    machine.sizes.clear()
    machine.run(20 * LONG_HOLD)
    assert 0 < machine.sizes.count(1) <= 2 * 21  # a window is one such pass


def test_kinds_of_passes_are_measured_apart():
    """Reading a prompt between steps does not disturb their comparison."""
    machine = Machine()
    machine.busy = True
    for _ in range(200):
        machine.run(20e-3)
        machine.busy = False
        machine.run(1e-3, "read")
        machine.busy = True
    machine.sizes.clear()
    machine.run(2)
    assert machine.sizes.count(1) > 400
    assert not machine.attendance.ways["read"].in_turns


def test_turns_of_several_members():
    machine = Machine(threads=4)
    here = machine.attendance
    here.ways["step"].in_turns = here.measuring = True
    machine.sync[machine.member(2, team.STATE)] = team.ASLEEP
    machine.sync[machine.member(3, team.NAP)] = 1
    assert here.begin("step") == 2
    assert here.ranks.tolist() == [0, 1, -1, -1]
    assert [waker.is_set() for waker in machine.wakers] == [False, True, False]
    machine.sync[machine.member(2, team.STATE)] = team.PRESENT
    machine.sync[machine.member(3, team.NAP)] = 0
    machine.now += STAY / 2
    assert here.begin("step") == 4 and here.ranks.tolist() == [0, 1, 2, 3]
    machine.now += STAY * 0.6  # the first has stayed long enough
    assert here.begin("step") == 3 and here.ranks.tolist() == [0, -1, 1, 2]
    assert machine.sync[machine.member(1, team.NAP)] == 1


def test_everyone_is_invited_once_nobody_has_waited_for_long():
    """The number of threads and the invitations must agree: a pass would wait for ever for a member not invited."""
    machine = Machine()
    machine.busy = True
    while machine.attendance.begin("step") == 2:
        machine.attendance.end()
        machine.run(1e-2)
    assert machine.attendance.ranks.tolist() == [0, 1] or machine.attendance.way.in_turns
    machine.now += 3 * LONG_HOLD
    machine.attendance.end()
    assert not machine.attendance.measuring
    assert machine.attendance.begin("step") == 2 and machine.attendance.ranks.tolist() == [0, 1]
