"""Barriers and pass control for a team of threads, by atomic operations, for passes of half a millisecond.

State: `sync`, SYNC_WORDS int64 words, zeroed, shared by all threads. A waiting thread spins a few thousand times, then
yields its core (barriers) or sleeps until woken (between passes). OpenMP, as used by Numba and torch, takes 3 to 10 µs per
parallel loop, 17 times in 4 layers; these barriers take 0.2 µs if the cores share a cache.
"""

import sys

from numba import types

from lmfast.inference.cpu.vectors import atomic_add, atomic_load, compiled, relax

# Offsets in `sync`, two cache lines apart: barrier arrivals, passes started, sleeping threads, whether the team has ended.
ARRIVED, PASSES, ASLEEP, ENDED = 0, 16, 32, 48
SYNC_WORDS = 64
SPINS = 2000  # spins at a barrier, about 20 µs, before yielding the core

_yield_core = types.ExternalFunction(
    "SwitchToThread" if sys.platform == "win32" else "sched_yield", types.int32()
)


@compiled
def barrier(sync, passed, threads):
    """Waits until all threads have arrived `passed + 1` times; returns that number."""
    if threads == 1:
        return passed
    arrived = sync.ctypes.data + 8 * ARRIVED
    atomic_add(arrived, 1)
    spins = 0
    while atomic_load(arrived) < (passed + 1) * threads:
        spins += 1
        if spins < SPINS:
            relax()
        elif atomic_load(sync.ctypes.data + 8 * ENDED):
            break  # thread 0 was interrupted before it arrived
        else:
            _yield_core()
    return passed + 1


@compiled
def begin_pass(sync):
    """Starts a pass; returns the number of sleeping threads, which must be woken."""
    atomic_add(sync.ctypes.data + 8 * PASSES, 1)
    return atomic_load(sync.ctypes.data + 8 * ASLEEP)


@compiled
def end_passes(sync):
    """Ends the team: its threads return."""
    atomic_add(sync.ctypes.data + 8 * ENDED, 1)
    atomic_add(sync.ctypes.data + 8 * PASSES, 1)


@compiled
def next_pass(sync, seen, spin_limit, woken):
    """Waits for the pass after the `seen`th: returns 1 when it starts, 0 after `spin_limit` spins, −1 if the team has ended.

    After 0 the thread counts as asleep: the caller must sleep until woken, and then pass `woken`."""
    passes, asleep = sync.ctypes.data + 8 * PASSES, sync.ctypes.data + 8 * ASLEEP
    if woken:
        atomic_add(asleep, -1)
    for _ in range(spin_limit):
        if atomic_load(passes) != seen:
            return -1 if atomic_load(sync.ctypes.data + 8 * ENDED) else 1
        relax()
    atomic_add(asleep, 1)
    if atomic_load(passes) == seen:
        return 0
    atomic_add(asleep, -1)  # a pass has started in the meantime
    return -1 if atomic_load(sync.ctypes.data + 8 * ENDED) else 1
