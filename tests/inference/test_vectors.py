import numpy as np
import pytest
from numba import njit

from lmfast.inference import vectors


@njit
def rows_of(a, b, out):
    """All rows of a (16 k + rest) with b."""
    n, size = a.shape[1], 4 * a.shape[1]
    r = 0
    while r + 16 <= a.shape[0]:
        vectors.dots_16(a.ctypes.data + r * size, size, b.ctypes.data, n, out.ctypes.data + 4 * r)
        r += 16
    while r < a.shape[0]:
        vectors.dots_1(a.ctypes.data + r * size, size, b.ctypes.data, n, out.ctypes.data + 4 * r)
        r += 1


@njit
def tile_of(a, b, out):
    """4 x 4 and 1 x 4: b's four rows with a's four, then with a's first."""
    n, size = a.shape[1], 4 * a.shape[1]
    vectors.dots_4x4(a.ctypes.data, size, b.ctypes.data, size, n, out.ctypes.data)
    vectors.dots_1x4(a.ctypes.data, size, b.ctypes.data, size, n, out.ctypes.data + 64)


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
def test_dot_products_are_right_and_the_same_in_any_company(n):
    rng = np.random.default_rng(n)
    # Exactly as long as said: a read beyond would be of other numbers, and NaN where it is of these.
    a, b = rng.standard_normal((35, n), np.float32), rng.standard_normal((4, n), np.float32)
    exact = a.astype(np.float64) @ b[0].astype(np.float64)
    alone = np.full(35, np.nan, np.float32)
    rows_of(a, b[0], alone)
    np.testing.assert_allclose(alone, exact, atol=1e-5 * np.sqrt(n))
    tile = np.full(20, np.nan, np.float32)
    tile_of(a, b, tile)
    np.testing.assert_allclose(tile[:16].reshape(4, 4), b @ a[:4].T, atol=1e-5 * np.sqrt(n))
    assert tile[:4].tolist() == alone[:4].tolist()  # bit for bit
    assert tile[16:].tolist() == tile[:16].reshape(4, 4)[:, 0].tolist()
    shifted = np.full(18, np.nan, np.float32)
    rows_of(a[17:], b[0], shifted)
    assert shifted.tolist() == alone[17:].tolist()


def test_a_row_s_end_is_not_read_over():
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
