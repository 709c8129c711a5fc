import pytest
import torch

from lmfast.training import clock as clock_module
from lmfast.training.clock import Clock


@pytest.fixture
def now(monkeypatch):
    """A clock that only the test advances."""
    time = type("Time", (), {"now": 100.0})
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: time.now)
    return time


def test_seconds_continue_from_an_earlier_part(now):
    clock = Clock(50.0, torch.device("cpu"))
    now.now += 7
    assert clock.seconds() == 57


def test_the_rate_excludes_the_first_step_and_other_work(now):
    clock = Clock(0.0, torch.device("cpu"))
    now.now += 30  # compiling
    clock.step_done(10)
    assert clock.tokens_per_second() is None
    for _ in range(2):
        now.now += 1
        clock.step_done(10)
    with clock.excluded("evaluate"):
        now.now += 5
    assert clock.tokens_per_second() == 10
    assert clock.seconds() == 37


def test_the_share_counts_the_next_step_and_what_follows_the_last(now):
    clock = Clock(20.0, torch.device("cpu"))
    assert clock.share_after_next_step(None) == 0
    assert clock.share_after_next_step(100.0) == pytest.approx(0.2)
    now.now += 10
    clock.step_done(1)  # the first step says nothing about the next
    assert clock.share_after_next_step(100.0) == pytest.approx(0.3)
    now.now += 2
    clock.step_done(1)
    assert clock.share_after_next_step(100.0) == pytest.approx(0.34)
    for seconds in (9, 4):  # the last time counts
        with clock.excluded("evaluate"):
            now.now += seconds
    with clock.excluded("checkpoint"):
        now.now += 1
    now.now += 3
    clock.step_done(1)
    # 20 before, 29 since; a step of 3, an evaluation of 4 and a checkpoint of 1 would follow
    assert clock.share_after_next_step(100.0) == pytest.approx(0.57)
