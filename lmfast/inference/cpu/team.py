"""Threads that work on one thing in step: barriers and calls by atomic words, as a pass of half a millisecond needs.

In: `sync`, SYNC_WORDS of int64, zeroed, shared by all. A thread that finds nothing to do looks again some thousand
times, then offers its core (barriers) or sleeps until woken (between passes). OpenMP, which Numba and torch have, costs
3 to 10 µs a parallel loop and would be asked 17 times in 4 layers; these barriers take 0.2 µs where cores share a cache.
"""

import sys

from numba import types

from lmfast.inference.cpu.vectors import atomic_add, atomic_load, compiled, relax

# Places in `sync`, two cache lines apart: barrier arrivals, passes begun, sleepers, whether all has ended.
ARRIVED, PASSES, ASLEEP, ENDED = 0, 16, 32, 48
SYNC_WORDS = 64
SPINS = 2000  # looks at a barrier, some 20 µs, before the core is offered to someone else

_yield_core = types.ExternalFunction(
    "SwitchToThread" if sys.platform == "win32" else "sched_yield", types.int32()
)


@compiled
def barrier(sync, passed, threads):
    """Waits until all threads have come here `passed + 1` times; returns that number."""
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
            break  # thread 0 was interrupted on its way here
        else:
            _yield_core()
    return passed + 1


@compiled
def begin_pass(sync):
    """Calls the team; returns how many of it sleep and must be woken."""
    atomic_add(sync.ctypes.data + 8 * PASSES, 1)
    return atomic_load(sync.ctypes.data + 8 * ASLEEP)


@compiled
def end_passes(sync):
    """The next pass is none: the team goes home."""
    atomic_add(sync.ctypes.data + 8 * ENDED, 1)
    atomic_add(sync.ctypes.data + 8 * PASSES, 1)


@compiled
def next_pass(sync, seen, spin_limit, woken):
    """Waits for a pass after the `seen`th: 1 when it is called, 0 after `spin_limit` looks, −1 when all has ended.

    With 0 the thread counts as asleep: its caller must sleep until woken, and say so at the next call."""
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
    atomic_add(asleep, -1)  # a pass was called meanwhile
    return -1 if atomic_load(sync.ctypes.data + 8 * ENDED) else 1
