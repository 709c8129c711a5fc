"""Barriers and pass control for a team of threads, by atomic operations, for passes of half a millisecond.

State: `sync`, sync_words(threads) int64 words, zeroed, shared by all threads. Thread 0 leads: it invites members to a pass
(attendance.py says which) and works with them until the last barrier; the others need not have noticed. A waiting
thread spins a few thousand times, then yields its core (barriers) or sleeps until woken (between passes). OpenMP, as
used by Numba and torch, takes 3 to 10 µs per parallel loop, 17 times in 4 layers; these barriers take 0.2 µs if the
cores share a cache.
"""

import sys

from numba import types

from lmfast.inference.cpu.vectors import atomic_add, atomic_load, atomic_store, compiled, nanoseconds, relax

# Offsets in `sync`, two cache lines apart: barrier arrivals, whether the team has ended, nanoseconds that threads waited at
# barriers beyond SPINS.
ARRIVED, ENDED, WAITED = 0, 16, 32
# Of member t, from MEMBERS + MEMBER_WORDS · (t − 1): the newest pass it is invited to, its rank there, whether it shall nap
# (all written by thread 0); its state, on another pair of lines.
MEMBERS, MEMBER_WORDS = 48, 32
INVITED, RANK, NAP, STATE = 0, 1, 2, 16
PRESENT, NAPPING, ASLEEP = range(3)
SPINS = 2000  # spins at a barrier, about 20 µs, before yielding the core
NAP_MICROSECONDS = 300

_WINDOWS = sys.platform == "win32"
_yield_core = types.ExternalFunction("SwitchToThread" if _WINDOWS else "sched_yield", types.int32())
_sleep = types.ExternalFunction("Sleep" if _WINDOWS else "usleep", types.int32(types.uint32))
_NAP = 1 if _WINDOWS else NAP_MICROSECONDS  # in the system's unit


def sync_words(threads: int) -> int:
    return MEMBERS + MEMBER_WORDS * max(0, threads - 1)


@compiled
def barrier(sync, passed, threads):
    """Waits until all threads of the pass have arrived; passed: arrivals at earlier barriers. Returns it for the next."""
    if threads == 1:
        return passed
    arrived = sync.ctypes.data + 8 * ARRIVED
    passed += threads
    atomic_add(arrived, 1)
    for _ in range(SPINS):
        if atomic_load(arrived) >= passed:
            return passed
        relax()
    began = nanoseconds()
    while atomic_load(arrived) < passed:
        if atomic_load(sync.ctypes.data + 8 * ENDED):
            break  # thread 0 was interrupted before it arrived
        _yield_core()
    atomic_add(sync.ctypes.data + 8 * WAITED, nanoseconds() - began)
    return passed


@compiled
def begin_pass(sync, number, ranks):
    """Invites every member t with ranks[t] > 0 to pass `number`; returns how many of them sleep and must be woken."""
    asleep = 0
    for t in range(1, ranks.shape[0]):
        if ranks[t] > 0:
            member = sync.ctypes.data + 8 * (MEMBERS + MEMBER_WORDS * (t - 1))
            atomic_store(member + 8 * RANK, ranks[t])
            atomic_store(member + 8 * INVITED, number)
            asleep += atomic_load(member + 8 * STATE) == ASLEEP
    return asleep


@compiled
def end_passes(sync, number, ranks):
    """Ends the team: its members return. number: larger than that of any pass."""
    atomic_add(sync.ctypes.data + 8 * ENDED, 1)
    begin_pass(sync, number, ranks)


@compiled
def next_pass(sync, t, done, spin_limit):
    """Waits until member t is invited to a pass after number `done`; returns its number, −1 if the team has ended.

    Returns 0 if no invitation comes within `spin_limit` spins. The member then counts as asleep: the caller must sleep
    until woken."""
    member = sync.ctypes.data + 8 * (MEMBERS + MEMBER_WORDS * (t - 1))
    atomic_store(member + 8 * STATE, PRESENT)
    spins = 0
    while atomic_load(member + 8 * INVITED) <= done:
        spins += 1
        if spins > spin_limit:
            atomic_store(member + 8 * STATE, ASLEEP)
            if atomic_load(member + 8 * INVITED) <= done:
                return 0
            atomic_store(member + 8 * STATE, PRESENT)  # invited in the meantime
            break
        if atomic_load(member + 8 * NAP):
            atomic_store(member + 8 * STATE, NAPPING)
            _sleep(_NAP)
            atomic_store(member + 8 * NAP, 0)
            atomic_store(member + 8 * STATE, PRESENT)
            spins = -4 * spin_limit  # until thread 0 ends its pass alone
        relax()
    return -1 if atomic_load(sync.ctypes.data + 8 * ENDED) else atomic_load(member + 8 * INVITED)
