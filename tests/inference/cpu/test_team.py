import threading

import numpy as np
import pytest
from numba import njit

from lmfast.inference.cpu import team as cpu_team


@njit(nogil=True)
def add_up(sync, t, threads, rounds, cells):
    """Each round every thread writes its cell, then reads all: the sums are wrong if a barrier lets one through early."""
    passed, wrong = 0, 0
    for i in range(rounds):
        cells[t] = i
        passed = cpu_team.barrier(sync, passed, threads)
        total = 0
        for k in range(threads):
            total += cells[k]
        wrong += total != i * threads
        passed = cpu_team.barrier(sync, passed, threads)
    return wrong, passed


def new_sync(threads: int) -> np.ndarray:
    return np.zeros(cpu_team.sync_words(threads), np.int64)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_no_thread_passes_a_barrier_early(threads):
    sync, cells, results = new_sync(threads), np.zeros(threads, np.int64), {}

    def run(t):
        results[t] = add_up(sync, t, threads, 200, cells)

    team = [threading.Thread(target=run, args=(t,)) for t in range(threads)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    passed = 400 * threads if threads > 1 else 0  # a single thread has nothing to wait for
    assert results == dict.fromkeys(range(threads), (0, passed))


def test_invitations_are_seen_and_sleepers_counted():
    sync, everyone = new_sync(3), np.arange(3)
    assert cpu_team.next_pass(sync, 1, 0, 10) == 0  # no invitation: asleep
    assert cpu_team.begin_pass(sync, 1, everyone) == 1  # member 2 has never slept
    assert cpu_team.next_pass(sync, 1, 0, 10) == cpu_team.next_pass(sync, 2, 0, 10) == 1
    assert cpu_team.begin_pass(sync, 2, np.array([0, -1, 1])) == 0  # member 1 is present, and not invited
    assert cpu_team.next_pass(sync, 1, 1, 10) == 0
    assert cpu_team.next_pass(sync, 2, 1, 10) == 2
    assert sync[cpu_team.MEMBERS + cpu_team.MEMBER_WORDS + cpu_team.RANK] == 1
    assert cpu_team.begin_pass(sync, 3, everyone) == 1
    assert cpu_team.next_pass(sync, 1, 1, 10) == 3  # the pass without it does not count
    cpu_team.end_passes(sync, 4, everyone)
    assert cpu_team.next_pass(sync, 1, 3, 10) == cpu_team.next_pass(sync, 2, 2, 10) == -1


def test_a_member_naps_once_when_told_to():
    sync, nap = new_sync(2), cpu_team.MEMBERS + cpu_team.NAP
    sync[nap] = 1
    assert cpu_team.next_pass(sync, 1, 0, 10) == 0
    assert sync[nap] == 0 and sync[cpu_team.MEMBERS + cpu_team.STATE] == cpu_team.ASLEEP


def test_ending_releases_threads_at_a_barrier():
    sync, left = new_sync(2), []
    thread = threading.Thread(target=lambda: left.append(cpu_team.barrier(sync, 0, 2)))
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    cpu_team.end_passes(sync, 1, np.arange(2))
    thread.join(10)
    assert left == [2] and sync[cpu_team.WAITED] > 0
