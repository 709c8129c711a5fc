"""Ceilings are positive rates of the device in use."""

import time

import torch

from bench import ceilings
from bench.ceilings import measured, synchronizer


def test_waits_out_a_busy_start():
    """Three tries end before another process releases the core."""
    start = time.perf_counter()

    def product():
        time.sleep(0.03 if time.perf_counter() - start < 0.3 else 0.001)

    assert ceilings.best(product, torch.device("cpu"), tries=3) < 0.02


def test_rates_on_a_cpu(monkeypatch):
    monkeypatch.setattr(ceilings, "LEAST_SECONDS", 0.01)
    found = measured(torch.device("cpu"), tries=1, num_bytes=1 << 20)
    assert set(found) == {"read", "copy", "matmul float32", "matmul bfloat16"}
    assert all(rate > 1e6 for rate in found.values())
    assert synchronizer(torch.device("cpu")) is None
