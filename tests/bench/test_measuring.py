"""What a benchmark leaves in extra_info, and how often it runs."""

import itertools

import pytest

from bench import measuring
from bench.measuring import Measure, Work, figures, rounds_for


def test_rates_come_from_the_median_and_fractions_from_the_ceiling():
    ceilings = {"matmul float32": 12.0, "copy": 10.0}
    info = figures(Work(4, 10, flops=6.0, ceiling="matmul float32"), [2.0], 2.0, {}, ceilings)
    assert info["rates"] == {"tokens_per_second": 2.0, "bytes_per_second": 5.0, "flops_per_second": 3.0}
    assert info["fraction"] == {"of": "matmul float32", "value": 0.25}
    assert figures(Work(4, 10, ceiling="copy"), [2.0], 2.0, {}, ceilings)["fraction"]["value"] == 0.5
    assert "fraction" not in figures(Work(4, 10, ceiling="copy"), [2.0], 2.0, {}, {})


@pytest.mark.parametrize("given", [{}, {"tokens": 1}, {"bytes": 1}])
def test_no_benchmark_goes_without_tokens_and_bytes(given):
    with pytest.raises(TypeError):
        Work(**given)


def test_peers_are_compared_pair_by_pair():
    info = figures(Work(1, 1), [1.0, 2.0], 1.5, {"peer": [3.0, 6.0], "slow": [10.0]}, {})
    assert info["peers"]["peer"]["ratio"]["median"] == 3.0
    assert info["peers"]["slow"]["ratio"] == {"median": 10.0, "low": 10.0, "high": 10.0, "rounds": 1}


@pytest.mark.parametrize(("taken", "expected"), [(0.1, 10), (10.0, 3), (1e-9, 200)])
def test_rounds_fit_the_budget(taken, expected):
    assert rounds_for(taken, budget=1.0) == expected


class FakeBenchmark:
    """The part of pytest-benchmark that is used; a round takes what the clock below says."""

    disabled = False

    def __init__(self):
        self.extra_info = {}

    def pedantic(self, target, setup, rounds):
        for _ in range(rounds):
            setup()
            target()
        self.stats = type("Outer", (), {"stats": type("Inner", (), {"data": [1.0] * rounds, "median": 1.0})})


@pytest.mark.parametrize(
    ("mode", "once", "rounds"),
    [("quick", 5.0, 1), ("default", 5.0, 3), ("full", 5.0, 3), ("default", 9.5, 1)],
)
def test_peers_run_before_each_round_and_slow_ones_once(monkeypatch, mode, once, rounds):
    """Of a budget of 9 seconds each of the three has 3."""
    calls = []
    monkeypatch.setitem(measuring.BUDGET, mode, 9.0)

    def seconds(function, synchronize):
        function()
        return {"ours": 1.0, "peer": 1.0, "slow": once}[calls[-1]]

    monkeypatch.setattr(measuring, "seconds", seconds)
    benchmark = FakeBenchmark()
    names = {name: lambda name=name: calls.append(name) for name in ("ours", "peer", "slow")}
    Measure(benchmark, mode, {})(
        names["ours"], Work(tokens=5, bytes=20), {"peer": names["peer"], "slow": names["slow"]}
    )
    each = ("peer", "slow", "ours") if rounds == 3 else ("peer", "ours")
    assert calls == [*("ours", "ours", "peer", "slow"), *itertools.chain(*[each] * 3)]
    peers = benchmark.extra_info["peers"]
    assert (peers["peer"]["ratio"]["rounds"], peers["slow"]["ratio"]["rounds"]) == (3, rounds)
    assert benchmark.extra_info["rates"] == {"tokens_per_second": 5.0, "bytes_per_second": 20.0}


def test_disabled_benchmarks_run_once():
    calls = []
    benchmark = FakeBenchmark()
    benchmark.disabled = True
    Measure(benchmark, "quick", {})(lambda: calls.append(1), Work(1, 1))
    assert calls == [1]


def test_what_puts_things_back_runs_right_before_each_of_our_rounds(monkeypatch):
    calls = []
    monkeypatch.setattr(measuring, "seconds", lambda function, synchronize: function() or 1.0)
    functions = {name: lambda name=name: calls.append(name) for name in ("ours", "peer", "back")}
    Measure(FakeBenchmark(), "quick", {})(
        functions["ours"], Work(1, 1), {"peer": functions["peer"]}, before=functions["back"]
    )
    timed = calls[3:]  # after the warm-up of ours, twice, and the peer
    assert timed.count("ours") == timed.count("back") == 3
    assert all(timed[i - 1] == "back" for i, name in enumerate(timed) if name == "ours")
