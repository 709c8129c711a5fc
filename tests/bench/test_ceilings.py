"""Ceilings are positive rates of the device in use."""

import torch

from bench.ceilings import measured, synchronizer


def test_rates_on_a_cpu():
    found = measured(torch.device("cpu"), tries=1, num_bytes=1 << 20, side=64)
    assert set(found) == {"read", "copy", "matmul float32", "matmul bfloat16"}
    assert all(rate > 1e6 for rate in found.values())
    assert synchronizer(torch.device("cpu")) is None
