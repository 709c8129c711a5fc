"""Threads that add to one element, compete for it, and read what another thread has published."""

import threading

import numpy as np
import pytest
from numba import njit

from lmfast.tokenizer.compiled import atomics
from lmfast.tokenizer.compiled.atomics import (
    compare_swap,
    fetch_add,
    load_acquire,
    pair_comparison,
    store_release,
)
from lmfast.tokenizer.compiled.intrinsics import aligned_words


@njit(nogil=True)
def _add(numbers, times):
    for _ in range(times):
        fetch_add(numbers, 1, 2)


@njit(nogil=True)
def _take(slots, name):
    """Takes every free slot; returns their number."""
    taken = 0
    for i in range(slots.shape[0]):
        if compare_swap(slots, i, np.uint64(0), name):
            taken += 1
    return taken


@njit(nogil=True)
def _publish(words, rounds):
    for i in range(1, rounds + 1):
        words[1] = i
        store_release(words, 0, np.uint64(i))


@njit(nogil=True)
def _watch(words, rounds):
    """The number of times the payload was older than its mark."""
    stale = 0
    seen = np.uint64(0)
    while seen < rounds:
        seen = load_acquire(words, 0)
        stale += words[1] < seen
    return stale


def comparison(compare):
    """(compiled comparison, compiled count of how often it finds the pair in a row before and while that is written)"""
    same_pair = pair_comparison(compare)

    @njit
    def same(array, i, wanted, k):
        return same_pair(array, i, wanted, k)

    @njit(nogil=True)
    def found(rows, wanted):
        times = 0
        for i in range(0, rows.shape[0], 2):
            while load_acquire(rows, i + 1) == np.uint64(0):
                times += same_pair(rows, i, wanted, 0)
            times += same_pair(rows, i, wanted, 0)
        return times

    return same, found


COMPARISONS = [atomics._same_at_once, atomics._same_in_order]


@njit(nogil=True)
def _fill(rows, low, high):
    for i in range(0, rows.shape[0], 2):
        rows[i] = low
        store_release(rows, i + 1, high)


@pytest.mark.parametrize("compare", COMPARISONS)
def test_pairs_are_equal_if_both_words_are(compare):
    same, _ = comparison(compare)
    words, wanted = aligned_words(4), aligned_words(2)
    words[:] = (1, 2, 3, 2**64 - 1)
    for pair, found in (
        ((3, 2**64 - 1), True),
        ((3, 2**63 - 1), False),
        ((2, 2**64 - 1), False),
        ((1, 2), False),
    ):
        wanted[:] = pair
        assert same(words, 2, wanted, 0) == found


def _together(*calls):
    results = [None] * len(calls)

    def run(i, call):
        results[i] = call()

    threads = [threading.Thread(target=run, args=item) for item in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_no_addition_is_lost():
    numbers = np.zeros(3, np.int64)
    _together(*[lambda: _add(numbers, 300_000)] * 3)
    assert numbers.tolist() == [0, 3 * 2 * 300_000, 0]


def test_a_slot_is_taken_once():
    slots = np.zeros(200_000, np.uint64)
    taken = _together(lambda: _take(slots, np.uint64(1)), lambda: _take(slots, np.uint64(2)))
    assert sum(taken) == len(slots)
    assert [(slots == name).sum() for name in (1, 2)] == taken


def test_published_data_is_complete():
    words = np.zeros(2, np.uint64)
    _watch(words, 0)
    _publish(words.copy(), 1)
    assert _together(lambda: _publish(words, 500_000), lambda: _watch(words, 500_000))[1] == 0


@pytest.mark.parametrize("compare", COMPARISONS)
def test_a_partly_written_pair_equals_no_other_pair(compare):
    """The zero of an empty row and the second word being written could match a key that begins with eight NULs."""
    _, found = comparison(compare)
    rows, wanted = aligned_words(2 << 17), aligned_words(2)
    wanted[:] = (0, 7)
    _fill(rows[:2], np.uint64(1), np.uint64(7))
    found(rows[:2], wanted)
    rows[:2] = 0
    times = _together(lambda: found(rows, wanted), lambda: _fill(rows, np.uint64(1), np.uint64(7)))[0]
    assert times == 0
    wanted[0] = 1
    assert found(rows, wanted) == len(rows) // 2
