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


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_no_thread_passes_a_barrier_early(threads):
    sync, cells, results = np.zeros(cpu_team.SYNC_WORDS, np.int64), np.zeros(threads, np.int64), {}

    def run(t):
        results[t] = add_up(sync, t, threads, 200, cells)

    team = [threading.Thread(target=run, args=(t,)) for t in range(threads)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    passed = 400 if threads > 1 else 0  # a single thread has nothing to wait for
    assert results == dict.fromkeys(range(threads), (0, passed))


def test_passes_are_seen_and_sleepers_counted():
    sync = np.zeros(cpu_team.SYNC_WORDS, np.int64)
    assert cpu_team.next_pass(sync, 0, 10, False) == 0  # nothing came: asleep
    assert cpu_team.begin_pass(sync) == 1
    assert cpu_team.next_pass(sync, 0, 10, True) == 1  # woken, and there it is
    assert cpu_team.begin_pass(sync) == 0
    assert cpu_team.next_pass(sync, 1, 10, False) == 1
    cpu_team.end_passes(sync)
    assert cpu_team.next_pass(sync, 2, 10, False) == -1


def test_ending_releases_threads_at_a_barrier():
    sync, left = np.zeros(cpu_team.SYNC_WORDS, np.int64), []
    thread = threading.Thread(target=lambda: left.append(cpu_team.barrier(sync, 0, 2)))
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    cpu_team.end_passes(sync)
    thread.join(10)
    assert left == [1]
