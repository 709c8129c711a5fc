"""When the library is there, and that training goes on where it is not."""

import subprocess

import pytest
import torch

import kernels
from kernels import backend, cpu_library
from tests.kernels.cpu_native import needs_library


@needs_library
def test_built_once(tmp_path):
    path = cpu_library.build(tmp_path)
    before = path.stat().st_mtime_ns
    assert cpu_library.build(tmp_path) == path and path.stat().st_mtime_ns == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_without_a_compiler_pytorch_does_the_work(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(OSError, match="no C\\+\\+ compiler"):
        cpu_library.build(None)
    cpu_library.library.cache_clear()
    try:
        assert cpu_library.library() is None and not cpu_library.available()
        x, weight = (torch.randn(4, 8, requires_grad=True) for _ in range(2))
        assert torch.equal(kernels.linear(x, weight), torch.nn.functional.linear(x, weight))
    finally:
        cpu_library.library.cache_clear()


def test_a_compiler_that_fails_is_no_error(monkeypatch):
    def fail(*_, **__):
        raise subprocess.CalledProcessError(1, "g++")

    monkeypatch.setattr(cpu_library, "build", fail)
    cpu_library.library.cache_clear()
    try:
        assert cpu_library.library() is None
    finally:
        cpu_library.library.cache_clear()


def test_switched_off_by_mode(monkeypatch):
    monkeypatch.setattr(backend, "MODE", "torch")
    assert not cpu_library.available()
    assert not cpu_library.trains_here(torch.zeros(1, requires_grad=True))
