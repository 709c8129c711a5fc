from dataclasses import replace

import numpy as np
import pytest
import torch

from lmfast.model.config import ModelConfig
from lmfast.model.rope import rope_tables

CONFIG = ModelConfig(vocab_size=50, context_length=600, d_model=128, num_heads=2).resolved()


@pytest.mark.parametrize("theta", [1e4, 123456.7])
def test_tables_equal_those_computed_with_torch(theta):
    config = replace(CONFIG, rope_theta=theta)
    frequencies = theta ** (-torch.arange(0, 64, 2, dtype=torch.float64) / 64)
    angles = torch.arange(600, dtype=torch.float64)[:, None] * frequencies
    for table, expected in zip(rope_tables(config), (angles.cos(), angles.sin()), strict=True):
        assert table.dtype == np.float32
        # The same bits on the machines where it was tried, but two libraries may round differently.
        np.testing.assert_array_max_ulp(table, expected.float().numpy(), maxulp=1)


def test_a_factor_divides_low_frequencies_only():
    config = replace(CONFIG, rope_factor=8.0, rope_original_context=4096)
    (cos, sin), (old_cos, old_sin) = rope_tables(config), rope_tables(CONFIG)
    ratio = np.arctan2(old_sin[1], old_cos[1]) / np.arctan2(sin[1], cos[1])
    np.testing.assert_allclose(ratio[[0, 1, -2, -1]], [1, 1, 8, 8], rtol=1e-5)
    assert (np.diff(ratio) > -1e-3).all() and ((ratio > 1.1) & (ratio < 7.9)).any()
