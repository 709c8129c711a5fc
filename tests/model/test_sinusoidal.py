import math
from dataclasses import replace

import numpy as np
import pytest

from lmfast.model.config import ModelConfig
from lmfast.model.sinusoidal import SCALE, sinusoidal_table

CONFIG = ModelConfig(
    vocab_size=50, context_length=40, d_model=6, num_heads=1, position="sinusoidal"
).resolved()


@pytest.mark.parametrize("d_model", [6, 7])
def test_columns_alternate_sine_and_cosine_of_falling_frequencies(d_model):
    table = sinusoidal_table(replace(CONFIG, d_model=d_model, head_dim=8))
    assert table.shape == (40, d_model) and table.dtype == np.float32
    for position in (0, 1, 39):
        for column in range(d_model):
            angle = position / 10000 ** (column // 2 * 2 / d_model)
            expected = math.cos(angle) if column % 2 else math.sin(angle)
            assert table[position, column] == pytest.approx(SCALE * expected, abs=1e-7)


def test_the_scale_is_that_of_the_embedding_and_rope_theta_does_not_matter():
    table = sinusoidal_table(CONFIG)
    np.testing.assert_allclose(
        sinusoidal_table(replace(CONFIG, tie_embeddings=True)), table * 6**-0.5, rtol=1e-6
    )
    assert np.array_equal(sinusoidal_table(replace(CONFIG, rope_theta=5.0)), table)


@pytest.mark.parametrize("position", ["rope", "none", "learned"])
def test_other_positions_have_no_table(position):
    assert sinusoidal_table(replace(CONFIG, position=position)) is None
