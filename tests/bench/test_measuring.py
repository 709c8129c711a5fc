"""What is saved of a benchmark, and how often it runs."""

import itertools

import pytest

from bench import measuring
from bench.measuring import Measure, Work, rounds_for, timed_row

KEY = ("x", "y")


def test_fractions_are_of_the_ceiling():
    ceilings = {"matmul float32": 12.0, "copy": 10.0}
    row = timed_row(KEY, Work(4, 10, flops=6.0, ceiling="matmul float32"), {"ours": [2.0]}, ceilings)
    assert row.key == KEY and row.work == {"tokens": 4, "bytes": 10, "flops": 6.0}
    assert row.data["fraction"] == {"of": "matmul float32", "value": 0.25}
    assert row.shown == "2 s, 2 tokens/s, 25 % of matmul float32"
    assert (
        timed_row(KEY, Work(4, 10, ceiling="copy"), {"ours": [2.0]}, ceilings).data["fraction"]["value"]
        == 0.5
    )
    assert timed_row(KEY, Work(4, 10, ceiling="copy"), {"ours": [2.0]}, {}).shown == "2 s, 2 tokens/s, 5 B/s"


@pytest.mark.parametrize("given", [{}, {"tokens": 1}, {"bytes": 1}])
def test_every_benchmark_states_tokens_and_bytes(given):
    with pytest.raises(TypeError):
        Work(**given)


@pytest.mark.parametrize(("taken", "expected"), [(0.1, 10), (10.0, 3), (1e-9, 200)])
def test_rounds_fit_the_budget(taken, expected):
    assert rounds_for(taken, budget=1.0) == expected


class FakeBenchmark:
    """The part of pytest-benchmark in use; a round takes as long as the clock below says."""

    disabled = False

    def pedantic(self, target, setup, rounds):
        for _ in range(rounds):
            setup()
            target()
        self.stats = type("Outer", (), {"stats": type("Inner", (), {"data": [1.0] * rounds})})


@pytest.mark.parametrize(
    ("mode", "once", "rounds"),
    [("quick", 5.0, 1), ("default", 5.0, 3), ("full", 5.0, 3), ("default", 9.5, 1)],
)
def test_peers_run_before_each_round_and_slow_ones_once(monkeypatch, mode, once, rounds):
    """Each of the three gets 3 of the budget's 9 seconds."""
    calls = []
    monkeypatch.setitem(measuring.BUDGET, mode, 9.0)

    def seconds(function, synchronize):
        function()
        return {"ours": 1.0, "peer": 1.0, "slow": once}[calls[-1]]

    monkeypatch.setattr(measuring, "seconds", seconds)
    names = {name: lambda name=name: calls.append(name) for name in ("ours", "peer", "slow")}
    row = Measure(FakeBenchmark(), KEY, mode, {}, [])(
        names["ours"], Work(tokens=5, bytes=20), {"peer": names["peer"], "slow": names["slow"]}
    )
    each = ("peer", "slow", "ours") if rounds == 3 else ("peer", "ours")
    assert calls == [*("ours", "ours", "peer", "slow"), *itertools.chain(*[each] * 3)]
    assert {name: len(taken) for name, taken in row.times.items()} == {"ours": 3, "peer": 3, "slow": rounds}
    assert (row.per_second("tokens"), row.per_second("bytes")) == (5.0, 20.0)


def test_disabled_benchmarks_run_once():
    calls = []
    benchmark = FakeBenchmark()
    benchmark.disabled = True
    rows = []
    assert Measure(benchmark, KEY, "quick", {}, rows)(lambda: calls.append(1), Work(1, 1)) is None
    assert calls == [1] and not rows


def test_before_runs_right_before_each_of_our_rounds(monkeypatch):
    calls = []
    monkeypatch.setattr(measuring, "seconds", lambda function, synchronize: function() or 1.0)
    functions = {name: lambda name=name: calls.append(name) for name in ("ours", "peer", "back")}
    Measure(FakeBenchmark(), KEY, "quick", {}, [])(
        functions["ours"], Work(1, 1), {"peer": functions["peer"]}, before=functions["back"]
    )
    timed = calls[3:]  # after the warm-up of ours, twice, and the peer
    assert timed.count("ours") == timed.count("back") == 3
    assert all(timed[i - 1] == "back" for i, name in enumerate(timed) if name == "ours")
