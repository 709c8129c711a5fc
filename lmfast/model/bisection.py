"""The largest whole number for which a condition holds: the deepest shape in a budget, the largest batch in a memory."""

from collections.abc import Callable


def largest_satisfying(true: Callable[[int], bool]) -> int:
    """The largest number from 1 on that `true` holds of, 0 for none; `true` must fail from some number on, for good.

    Doubles until it fails, then halves: for n about 2 log2(n) calls."""
    if not true(1):
        return 0
    low, high = 1, 2
    while true(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if true(middle) else (low, middle)
    return low
