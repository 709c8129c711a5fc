"""Alternating functions, ratios, and silenced output."""

import os
from types import SimpleNamespace

import pytest

from bench.timing import in_turns, per_second, quiet, ratio


def test_ratios_are_of_pairs_and_read_times_as_fast():
    found = ratio(theirs=[2.0, 40.0, 3.0], ours=[1.0, 10.0, 1.0])  # a slow moment hit both of the second pair
    assert found.median == 3.0
    assert (found.low, found.high, found.rounds) == (2.5, 3.5, 3)
    assert str(found) == "3.00 (2.50-3.50)"


def test_one_round_has_no_spread():
    assert ratio([3.0], [2.0]).as_dict() == {"median": 1.5, "low": 1.5, "high": 1.5, "rounds": 1}


def test_functions_alternate_in_order():
    calls = []
    times = in_turns({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3)
    assert calls == list("abbaab")
    assert {name: len(taken) for name, taken in times.items()} == {"a": 3, "b": 3}


def test_synchronize_is_called_before_and_after():
    calls = []
    in_turns({"a": lambda: calls.append("work")}, 1, synchronize=lambda: calls.append("wait"))
    assert calls == ["wait", "work", "wait"]


def test_quiet_silences_native_code_and_restores_the_streams(capfd):
    with pytest.raises(KeyError), quiet():
        os.write(1, b"noise")
        os.write(2, b"noise")
        raise KeyError
    os.write(1, b"signal")
    assert capfd.readouterr() == ("signal", "")


def test_before_is_called_before_each_and_not_timed(monkeypatch):
    now = [0]
    monkeypatch.setattr("bench.timing.time", SimpleNamespace(perf_counter=lambda: now[0]))

    def advance(seconds):
        now[0] += seconds

    times = in_turns({"a": lambda: advance(1)}, 2, before=lambda: advance(10))
    assert times["a"] == [1, 1] and now == [22]


def test_rates_follow_from_the_amount():
    assert per_second([1.0, 2.0, 4.0], 4000) == "2,000 (1,500-3,000) tok/s"
    assert per_second([2.0], 10, "step") == "5 (5-5) step/s"
