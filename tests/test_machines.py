"""machines.py: its rows cover every pair of levels of two factors."""

from itertools import combinations, product

from tests.machines import (
    FILES,
    INTERPRETED,
    LOADS,
    QUICK_FILES,
    QUICK_INTERPRETED,
    ROOT,
    ROWS,
    Row,
    variables,
)


def test_any_two_levels_occur_together():
    levels = [sorted({row[factor] for row in ROWS}) for factor in range(len(Row._fields))]
    for a, b in combinations(range(len(levels)), 2):
        assert {(row[a], row[b]) for row in ROWS} == set(product(levels[a], levels[b])), (a, b)
    assert {row.load for row in ROWS} == LOADS.keys()


def test_files_exist():
    for name in [*FILES, *INTERPRETED, *QUICK_FILES, *QUICK_INTERPRETED]:
        assert (ROOT / name.split("::")[0]).exists(), name


def test_a_prescribed_blas_kernel_is_kept(monkeypatch):
    row = ROWS[0]
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    assert variables(row)["OPENBLAS_CORETYPE"] == row.blas == "Haswell"
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    assert "OPENBLAS_CORETYPE" not in variables(row)
