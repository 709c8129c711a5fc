"""A share of the quiet rate is by total time; neighbours end with their block."""

import psutil
import pytest

from bench import contended_table
from bench.contended_table import TARGETS, neighbours, share
from bench.worker import KINDS


class SlowWhenBusy:
    """A worker that takes twice as long in every second call, which is next to neighbours."""

    def __init__(self, kind: str):
        self.calls = 0

    def __call__(self, repetitions: int) -> list[float]:
        self.calls += 1
        return [1.0 if self.calls % 2 else 2.0] * repetitions

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_share_of_the_quiet_rate(monkeypatch):
    monkeypatch.setattr(contended_table, "Worker", SlowWhenBusy)
    monkeypatch.setattr(contended_table.time, "sleep", lambda _: None)
    row = share("training 0.2M, 2 busy", rounds=3, repetitions=4)
    assert row.value == 0.5 and row.must == 0.15 and row.verdict == "must"
    assert row.times == {"ours": [8.0] * 3} and row.data == {"quiet": [4.0] * 3}


def test_neighbours_are_processes_that_end(monkeypatch):
    monkeypatch.setattr(contended_table.time, "sleep", lambda _: None)
    before = set(psutil.Process().children())
    with pytest.raises(KeyboardInterrupt), neighbours(2):
        assert len(set(psutil.Process().children()) - before) == 2
        raise KeyboardInterrupt
    assert set(psutil.Process().children()) <= before


def test_every_row_has_its_kind_of_work():
    assert {kind for kind, _ in TARGETS} == set(KINDS)
