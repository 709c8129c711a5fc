import numpy as np
import pytest
from numba import njit

from lmfast.inference.cpu import vectors


@njit
def rows_of(a, b, out):
    """All rows of a (16 k + rest) with b."""
    n, size = a.shape[1], 4 * a.shape[1]
    r = 0
    while r + 16 <= a.shape[0]:
        vectors.dots_16(a.ctypes.data + r * size, size, b.ctypes.data, n, out.ctypes.data + 4 * r, 0)
        r += 16
    while r < a.shape[0]:
        vectors.dots_1(a.ctypes.data + r * size, size, b.ctypes.data, n, out.ctypes.data + 4 * r, 0)
        r += 1


@njit
def weighted(weights, a, scale, out):
    """scale · weights · a, one vector of columns at a time, the widest first."""
    n, width = a.shape
    at, rows, to = weights.ctypes.data, a.ctypes.data, out.ctypes.data
    if width == 64:
        vectors.weighted_rows_4(at, rows, 4 * width, n, scale, to, width, rows)
    elif width == 32:
        vectors.weighted_rows_2(at, rows, 4 * width, n, scale, to, width, rows)
    elif width == 16:
        vectors.weighted_rows_1(at, rows, 4 * width, n, scale, to, width, rows)
    else:
        vectors.weighted_rows_part(at, rows, 4 * width, n, scale, to, width, rows)


@njit
def top(values):
    return vectors.largest(values.ctypes.data, values.shape[0])


@njit
def powers(x, out):
    for i in range(x.shape[0]):
        out[i] = vectors.exp2(x[i])


@njit
def written(count):
    numbers = np.zeros(count, np.float32)
    view = vectors.floats(numbers.ctypes.data, count)
    for i in range(count):
        view[i] = i
    whole = np.arange(count)
    return numbers.sum() - vectors.integers(whole.ctypes.data, count).sum()


@njit
def counted(word):
    before = vectors.atomic_add(word.ctypes.data, 5)
    vectors.relax()
    return before, vectors.atomic_load(word.ctypes.data)


@pytest.mark.parametrize("n", [1, 7, 15, 16, 17, 24, 64, 65, 100, 256, 704])
def test_dot_products_are_correct_and_independent_of_other_rows(n):
    rng = np.random.default_rng(n)
    a, b = rng.standard_normal((35, n), np.float32), rng.standard_normal(n, np.float32)
    alone = np.full(35, np.nan, np.float32)
    rows_of(a, b, alone)
    np.testing.assert_allclose(alone, a.astype(np.float64) @ b.astype(np.float64), atol=1e-5 * np.sqrt(n))
    shifted = np.full(18, np.nan, np.float32)
    rows_of(a[17:], b, shifted)
    assert shifted.tolist() == alone[17:].tolist()  # bit for bit


@pytest.mark.parametrize("width", [64, 32, 16, 15, 6, 1])
@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 117])
def test_weighted_rows(n, width):
    rng = np.random.default_rng(n)
    weights, a = rng.random(n, np.float32), rng.standard_normal((n, width), np.float32)
    out = np.full(width + 1, np.nan, np.float32)
    weighted(weights, a, np.float32(0.5), out)
    np.testing.assert_allclose(out[:-1], 0.5 * weights @ a, atol=1e-5)
    assert np.isnan(out[-1])  # not written over


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 31, 32, 33, 100])
def test_the_maximum_at_any_position(n):
    values = np.random.default_rng(n).standard_normal(n + 1, np.float32)[:n] - 100
    for place in range(n):
        values[place] += 99
        assert top(values) == values.max() == values[place]
        values[place] -= 99
    values[n // 2] = np.nan
    assert top(values) == (np.nanmax(values) if n > 1 else -np.inf)
    values[0] = np.inf
    assert top(values) == np.inf


def test_nothing_is_read_beyond_a_rows_end():
    a = np.full((3, 20), np.nan, np.float32)
    a[1] = 1
    out = np.zeros(1, np.float32)
    rows_of(a[1:2, :], np.ones(20, np.float32), out)
    assert out[0] == 20


def test_exp2():
    x = np.concatenate([np.linspace(-126, 126, 200_001), [-1e30, -127, 127, 0.5, -0.5]]).astype(np.float32)
    out = np.empty_like(x)
    powers(x, out)
    exact = np.exp2(np.clip(x, -126, 126).astype(np.float64))
    assert (np.abs(out / exact - 1)).max() < 2 * 2.0**-23


def test_views_and_atomics():
    assert written(100) == 0
    assert counted(np.array([3])) == (3, 8)
