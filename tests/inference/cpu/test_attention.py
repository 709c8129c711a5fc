import numpy as np
import pytest
from numba import njit

from lmfast.inference.cpu import attention


@njit
def attend(query, keys, values, scores, out):
    n, head_dim = keys.shape
    attention.attend(
        query.ctypes.data,
        keys.ctypes.data,
        values.ctypes.data,
        n,
        head_dim,
        scores.ctypes.data,
        out.ctypes.data,
        keys.ctypes.data,
    )


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 33, 200])
@pytest.mark.parametrize("head_dim", [6, 16, 32, 64, 80, 128])
def test_attention_of_one_query(n, head_dim):
    """Compared with float64. Memory beyond the rows is NaN: it must not be read."""
    rng = np.random.default_rng(n)
    query = rng.standard_normal(head_dim, np.float32) * 0.5
    cache = np.full((2, n + 16, head_dim), np.nan, np.float32)
    cache[:, :n] = rng.standard_normal((2, n, head_dim), np.float32)
    keys, values = cache[:, :n]
    scores, out = np.zeros(n, np.float32), np.full(head_dim, np.nan, np.float32)
    attend(query, keys, values, scores, out)
    weights = np.exp2(keys.astype(np.float64) @ query)
    np.testing.assert_allclose(out, weights @ values / weights.sum(), atol=1e-5)


def test_large_scores_do_not_overflow():
    keys = np.array([[300.0], [299.0], [-500.0]], np.float32)
    values, out = np.array([[3.0], [6.0], [1e30]], np.float32), np.zeros(1, np.float32)
    attend(np.ones(1, np.float32), keys, values, np.zeros(3, np.float32), out)
    assert out[0] == pytest.approx(4.0)
