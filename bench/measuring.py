"""One benchmark of the suite: our function timed by pytest-benchmark, its peers in the same rounds, saved as a Row.

In: a function without arguments, what it does in one call (`Work`), peers that do the same, a budget of seconds. Out: a
Row with every time. `data["fraction"]`, {of, value}, is the part of a ceiling measured in this session (`Work.ceiling`
names it); of a matrix rate it is MFU.

A peer runs right before us in each round, so that a busy moment of the machine affects both. One that takes longer than
its share of the budget is timed in fewer rounds, and only once if a call takes longer than all of it (or, with
--quick, than its share). The caller checks that results agree.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from bench.results import Row
from bench.table import amount, duration
from bench.timing import seconds

BUDGET = {"quick": 0.7, "default": 3.0, "full": 20.0}  # seconds per benchmark, without warm-up
FEWEST, MOST = 3, 200  # rounds
PEER_FEWEST = {
    "quick": 1,
    "default": 3,
    "full": 3,
}  # of a peer whose one call fits a benchmark's whole budget


@dataclass(frozen=True)
class Work:
    """What one call does. Each file states what its tokens and bytes are: bytes of a text or of a token file, of an
    operator's tensors, of the weights that a step must read. `ceiling` is a key of the measured ceilings, which `flops`
    (matmul …) or `bytes` (read, copy) is compared with."""

    tokens: int
    bytes: int
    flops: float | None = None
    ceiling: str | None = None


def rounds_for(taken: float, budget: float, fewest: int = FEWEST, most: int = MOST) -> int:
    """How many calls of `taken` seconds a budget allows."""
    return max(fewest, min(most, int(budget / max(taken, 1e-9))))


def timed_row(
    key: tuple[str, str], work: Work, times: dict[str, list[float]], ceilings: Mapping[str, float]
) -> Row:
    """The row (group, name) of what was timed."""
    median = statistics.median(times["ours"])
    done = {name: number for name, number in asdict(work).items() if number is not None and name != "ceiling"}
    row = Row(key[1], median, at_most=True, group=key[0], times=times, work=done)
    parts = [duration(median), f"{amount(work.tokens / median)} tokens/s"]
    if work.ceiling in ceilings:
        number = work.flops if work.ceiling.startswith("matmul") else work.bytes
        value = number / median / ceilings[work.ceiling]
        row.data["fraction"] = {"of": work.ceiling, "value": value}
        parts.append(f"{100 * value:.0f} % of {work.ceiling}")
    else:
        parts.append(amount(work.bytes / median, "B/s"))
    row.shown = ", ".join(parts)
    return row


class Measure:
    """The `measure` fixture: measure(function, Work(...), peers={name: function}) -> Row, which is kept in `rows`."""

    def __init__(self, benchmark, key: tuple[str, str], mode: str, ceilings: Mapping[str, float], rows: list[Row],
                 synchronize: Callable[[], None] | None = None):  # fmt: skip
        self.benchmark, self.key, self.mode, self.ceilings = benchmark, key, mode, ceilings
        self.rows, self.synchronize = rows, synchronize

    def __call__(
        self,
        function: Callable[[], object],
        work: Work,
        peers: Mapping[str, Callable[[], object]] | None = None,
        before: Callable[[], object] | None = None,
    ) -> Row | None:
        """`before` is called before each of our rounds and not timed: it restores the initial state. None with
        --benchmark-disable, which calls the function once."""
        peers = peers or {}
        if self.benchmark.disabled:
            function()
            return None
        # The first calls compile and fill caches; the second says how long one takes.
        budget = BUDGET[self.mode] / (1 + len(peers))
        function()
        rounds = rounds_for(seconds(function, self.synchronize), budget)
        allowed: dict[str, int] = {}
        taken: dict[str, list[float]] = {name: [] for name in peers}
        for name, peer in peers.items():
            once = seconds(peer, self.synchronize)
            least = PEER_FEWEST[self.mode] if once <= BUDGET[self.mode] else 1
            allowed[name] = min(rounds, rounds_for(once, budget, least))
            if allowed[name] == 1:
                taken[name].append(once)  # too slow to be warmed up

        def before_each() -> None:
            for name, peer in peers.items():
                if len(taken[name]) < allowed[name]:
                    taken[name].append(seconds(peer, self.synchronize))
            if before is not None:
                before()
            if self.synchronize is not None:
                self.synchronize()

        def timed() -> None:
            function()
            if self.synchronize is not None:
                self.synchronize()

        self.benchmark.pedantic(timed, setup=before_each, rounds=rounds)
        times = {"ours": list(self.benchmark.stats.stats.data), **taken}
        self.rows.append(timed_row(self.key, work, times, self.ceilings))
        return self.rows[-1]
