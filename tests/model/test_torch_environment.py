"""Threads that wait for each other sleep soon, unless the user has chosen otherwise."""

import os

import pytest

from lmfast.errors import UserError
from lmfast.model import compile_cache
from lmfast.model.torch_environment import SPIN_COUNT, set_environment

NAMES = (compile_cache.VARIABLE, "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.fixture(autouse=True)
def unset(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compile_cache, "_own", None)
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is restored
        del os.environ[name]


def test_variables_are_set():
    set_environment()
    assert all(name in os.environ for name in (compile_cache.VARIABLE, "GOMP_SPINCOUNT"))
    assert "OMP_WAIT_POLICY" not in os.environ


@pytest.mark.parametrize("name, value", [("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "active")])
def test_a_users_choice_is_respected(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    set_environment()
    assert os.environ[name] == value
    assert os.environ.get("GOMP_SPINCOUNT") != SPIN_COUNT


def test_unknown_kernels_are_rejected(monkeypatch):
    for name in ("auto", "triton", "torch"):
        monkeypatch.setenv("LMFAST_KERNELS", name)
        set_environment()
    for name in ("cuda", ""):
        monkeypatch.setenv("LMFAST_KERNELS", name)
        with pytest.raises(
            UserError, match=f"LMFAST_KERNELS is '{name}'; unset it, or use auto, triton, torch"
        ):
            set_environment()
