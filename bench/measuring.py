"""One benchmark: our function timed by pytest-benchmark, its peers in the same rounds, rates and ratios worked out.

In: a function without arguments, what it does in one call (`Work`), peers that do the same, a budget of seconds.
Out: pytest-benchmark's statistics, and in `extra_info` what `figures` makes of them:

    work      tokens, bytes, and FLOPs where they are counted: of one call
    rates     tokens_per_second, bytes_per_second, flops_per_second: from the median
    fraction  {of, value}: of a ceiling measured in this session (`Work.ceiling` names it); of a matrix rate it is MFU
    peers     {name: {median, ratio: {median, low, high, rounds}}}: how many times as fast we are, pair by pair

A peer runs right before us in each round, so that a busy moment of the machine meets both. One that takes longer than
its share of the budget is timed in fewer rounds, and once only where a call takes longer than the whole of it (or, with
--quick, than its share). Refused: nothing; whether results agree is asserted by the caller.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from bench.timing import ratio, seconds

BUDGET = {"quick": 0.7, "default": 3.0, "full": 20.0}  # seconds a benchmark, warm-up aside
FEWEST, MOST = 3, 200  # rounds
PEER_FEWEST = {
    "quick": 1,
    "default": 3,
    "full": 3,
}  # of a peer whose one call fits a benchmark's whole budget


@dataclass(frozen=True)
class Work:
    """What one call does. Every benchmark says how many tokens and bytes; what they are, its file says: bytes of a text
    or of a token file, of an operator's tensors, of the weights that a step must read. `ceiling` is a key of the
    measured ceilings, which `flops` (matmul …) or `bytes` (read, copy) is compared with."""

    tokens: int
    bytes: int
    flops: float | None = None
    ceiling: str | None = None


def rounds_for(taken: float, budget: float, fewest: int = FEWEST, most: int = MOST) -> int:
    """How many calls of `taken` seconds a budget allows."""
    return max(fewest, min(most, int(budget / max(taken, 1e-9))))


def figures(
    work: Work,
    ours: list[float],
    median: float,
    peers: Mapping[str, list[float]],
    ceilings: Mapping[str, float],
) -> dict:
    """`extra_info` as the head of this file has it."""
    done = {name: amount for name, amount in asdict(work).items() if amount is not None and name != "ceiling"}
    info: dict = {
        "work": done,
        "rates": {f"{name}_per_second": amount / median for name, amount in done.items()},
    }
    if work.ceiling in ceilings:
        amount = work.flops if work.ceiling.startswith("matmul") else work.bytes
        info["fraction"] = {"of": work.ceiling, "value": amount / median / ceilings[work.ceiling]}
    if peers:
        info["peers"] = {
            name: {"median": sorted(times)[len(times) // 2], "ratio": ratio(times, ours).as_dict()}
            for name, times in peers.items()
        }
    return info


class Measure:
    """The `measure` fixture: measure(function, Work(...), peers={name: function})."""

    def __init__(self, benchmark, mode: str, ceilings: Mapping[str, float], synchronize=None):
        self.benchmark, self.mode, self.ceilings = benchmark, mode, ceilings
        self.synchronize = synchronize

    def __call__(
        self,
        function: Callable[[], object],
        work: Work,
        peers: Mapping[str, Callable[[], object]] | None = None,
        fewest: int = FEWEST,
        before: Callable[[], object] | None = None,
    ) -> None:
        """`before` is called before each of our rounds and not timed: it puts things back as they were."""
        peers = peers or {}
        if self.benchmark.disabled:
            function()
            return
        # The first calls compile and fill caches; the second says how long one takes.
        budget = BUDGET[self.mode] / (1 + len(peers))
        function()
        rounds = rounds_for(seconds(function, self.synchronize), budget, fewest)
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
        stats = self.benchmark.stats.stats
        self.benchmark.extra_info |= figures(work, stats.data, stats.median, taken, self.ceilings)
