"""Idle time of a device, and which waits of the host are counted."""

import pytest
import torch

from bench.gpu_profile import Watched, idle_time


def test_idle_time():
    ranges = [(0, 10, "a"), (4, 6, "b"), (15, 20, "c"), (20, 21, "d"), (22, 30, "e")]
    assert idle_time([]) == (0, [])
    idle, gaps = idle_time(ranges)
    assert idle == pytest.approx(6)
    assert [(gap["ms"], gap["after"], gap["before"]) for gap in gaps] == [
        (0.005, "a", "c"),
        (0.001, "d", "e"),
    ]


def test_syncs_are_counted_between_the_first_and_the_last_step(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    class Batches:
        def step(self, i):
            return i

    watched = Watched(Batches(), 10, 13)
    assert [watched.step(i) for i in range(10, 14)] == [10, 11, 12, 13]
    assert modes == ["default", "warn", "warn", "default"]
