"""Times functions in turns, so that a busy moment of the machine affects all of them alike.

In: functions that do the same work. Out: seconds of each, round by round, and ratios of pairs that were timed one
after the other. A ratio is the median over the rounds with the quartiles as its spread; it says
"times as fast as". A single round has no spread: low = high.
"""

import contextlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Ratio:
    """How many times as fast: the median of pair ratios, their quartiles, how many pairs."""

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> Ratio:
    """theirs / ours of each round: 2.0 says that we take half the time. Work of different size is divided out before."""
    pairs = [a / b for a, b in zip(theirs, ours)]
    if len(pairs) == 1:
        return Ratio(pairs[0], pairs[0], pairs[0], 1)
    low, _, high = statistics.quantiles(pairs, n=4, method="inclusive")
    return Ratio(statistics.median(pairs), low, high, len(pairs))


def per_second(times: Sequence[float], amount: float, unit: str = "tok") -> str:
    """The rate of calls that did `amount` each, as text: its median and quartiles."""
    rates = [amount / taken for taken in times]
    middle = statistics.median(rates)
    low, _, high = statistics.quantiles(rates, n=4, method="inclusive") if len(rates) > 1 else [middle] * 3
    return f"{middle:,.0f} ({low:,.0f}-{high:,.0f}) {unit}/s"


def seconds(function: Callable[[], object], synchronize: Callable[[], None] | None = None) -> float:
    """Wall-clock seconds of one call; `synchronize` waits for a device before and after."""
    if synchronize is not None:
        synchronize()
    began = time.perf_counter()
    function()
    if synchronize is not None:
        synchronize()
    return time.perf_counter() - began


def in_turns(
    functions: Mapping[str, Callable[[], object]],
    rounds: int,
    synchronize: Callable[[], None] | None = None,
    before: Callable[[], None] | None = None,
) -> dict[str, list[float]]:
    """Seconds of each function: each is called once a round, every other round in reverse order. Warm up before.

    `before` is called before each of them and not timed: it restores the initial state."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds):
        names = list(functions) if number % 2 == 0 else list(functions)[::-1]
        for name in names:
            if before is not None:
                before()
            taken[name].append(seconds(functions[name], synchronize))
    return taken


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Discards what native code prints: gigatoken's trainer and rustbpe's write to stdout and stderr."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)
        yield
    finally:
        for descriptor, copy in zip((1, 2), kept):
            os.dup2(copy, descriptor)
        for descriptor in (nowhere, *kept):
            os.close(descriptor)
