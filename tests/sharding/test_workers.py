"""workers.py: the CPUs of this process, on systems that can restrict them and on others."""

import os

from lmfast.sharding.workers import default_workers


def test_the_cpus_of_this_process(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    assert default_workers() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert default_workers() == 1
