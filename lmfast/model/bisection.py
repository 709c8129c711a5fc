"""The largest whole number for which a condition holds, such as the largest batch that fits into memory."""

from collections.abc import Callable


def largest_satisfying(true: Callable[[int], bool]) -> int:
    """The largest n ≥ 1 for which `true(n)` holds, or 0. `true` must hold up to some number and for none above.

    Doubles until it fails, then bisects: about 2 log2(n) calls."""
    if not true(1):
        return 0
    low, high = 1, 2
    while true(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if true(middle) else (low, middle)
    return low
