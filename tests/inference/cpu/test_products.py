import numpy as np
import pytest
from numba import njit

from lmfast.inference.cpu import products as cpu_products
from lmfast.inference.cpu.products import ROW_PADDING, TILE, pack, packed_size


@njit
def pack_all(weight, begin, end, panels):
    pack(weight.ctypes.data, weight.shape[0], weight.shape[1], begin, end, panels.ctypes.data)


@njit
def multiply(panels, x, inputs, begin, end, out, scratch):
    rows, width = out.shape
    cpu_products.products(
        panels.ctypes.data,
        x.ctypes.data,
        inputs,
        rows,
        begin,
        end,
        out.ctypes.data,
        width,
        scratch.ctypes.data,
    )


def packed(weight: np.ndarray, cut: int = 0) -> np.ndarray:
    """In two parts, as on two threads."""
    panels = np.full(packed_size(*weight.shape), np.nan, np.float32)
    pack_all(weight, 0, cut, panels)
    pack_all(weight, cut, weight.shape[0], panels)
    return panels


def product(panels: np.ndarray, x: np.ndarray, outputs: int, begin: int = 0) -> np.ndarray:
    """(rows, outputs), NaN before `begin`; x (rows, inputs)."""
    rows, inputs = x.shape
    spaced = np.full((rows, inputs + ROW_PADDING), np.nan, np.float32)
    spaced[:, :inputs] = x
    around = np.full(rows * outputs + 64, np.nan, np.float32)
    out = around[: rows * outputs].reshape(rows, outputs)
    multiply(panels, spaced, inputs, begin, outputs, out, np.zeros(TILE, np.float32))
    assert np.isnan(around[rows * outputs :]).all()
    return out


def test_a_panel_holds_16_outputs_input_by_input():
    weight = np.arange(20 * 3, dtype=np.float32).reshape(20, 3)
    panels = packed(weight, cut=16).reshape(2, 3, 16)
    assert (panels[0] == weight[:16].T).all()
    assert (panels[1, :, :4] == weight[16:].T).all() and not panels[1, :, 4:].any()


@pytest.mark.parametrize("outputs", [1, 16, 61, 64, 80, 200])
@pytest.mark.parametrize("inputs", [1, 24, 100])
@pytest.mark.parametrize("rows", [1, 2, 4, 7, 16, 31, 64])
def test_products_are_correct_and_independent_of_other_rows(rows, inputs, outputs):
    rng = np.random.default_rng(rows)
    weight, x = (rng.standard_normal((n, inputs), np.float32) for n in (outputs, rows))
    panels = packed(weight)
    found = product(panels, x, outputs)
    exact = x.astype(np.float64) @ weight.T.astype(np.float64)
    np.testing.assert_allclose(found, exact, atol=1e-5 * np.sqrt(inputs))
    for r in {0, rows // 2, rows - 1}:
        assert (product(panels, x[r : r + 1], outputs) == found[r]).all()  # bit for bit
    part = product(panels, x, outputs, begin=16 * (outputs // 32))
    begin = 16 * (outputs // 32)
    assert np.isnan(part[:, :begin]).all() and (part[:, begin:] == found[:, begin:]).all()


@pytest.mark.parametrize("most", [4, 16])
def test_machines_with_fewer_registers_take_fewer_rows(monkeypatch, most):
    """The constant is compiled in; the variant for the other kind of machine is compiled from the same source."""
    monkeypatch.setattr(cpu_products, "MAX_TILE_ROWS", most)
    panel_products = njit(cpu_products.panel_products.py_func)
    monkeypatch.setattr(cpu_products, "panel_products", panel_products)
    products = njit(cpu_products.products.py_func)

    @njit
    def run(panels, x, out, scratch):
        products(panels.ctypes.data, x.ctypes.data, 24, 30, 0, 61, out.ctypes.data, 61, scratch.ctypes.data)

    rng = np.random.default_rng(0)
    weight, x = (
        rng.standard_normal((61, 24), np.float32),
        rng.standard_normal((30, 24 + ROW_PADDING), np.float32),
    )
    out = np.zeros((30, 61), np.float32)
    panels = packed(weight)
    run(panels, x, out, np.zeros(TILE, np.float32))
    assert (out == product(panels, x[:, :24], 61)).all()
