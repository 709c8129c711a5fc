"""cpu_library.py: when the library is used, and that training works without it."""

import os
import threading
from pathlib import Path

import pytest
import torch
from torch.autograd import forward_ad

import lmfast_kernels
from lmfast_kernels import backend, cpu_build, cpu_library
from tests.kernels.cpu_native import needs_library


def test_without_a_compiler_pytorch_is_used(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(OSError, match="no C\\+\\+ compiler"):
        cpu_build.build(None, "operators")
    cpu_build.find.cache_clear()
    try:
        assert cpu_library.library() is None and not cpu_library.available()
        assert (
            cpu_build.why_not("operators")
            == "no C++ compiler (no-such-compiler) was found; install g++, or correct CXX"
        )
        x, weight = (torch.randn(4, 8, requires_grad=True) for _ in range(2))
        assert torch.equal(lmfast_kernels.linear(x, weight), torch.nn.functional.linear(x, weight))
    finally:
        cpu_build.find.cache_clear()


def test_disabled_by_mode(monkeypatch):
    monkeypatch.setattr(backend, "MODE", "torch")
    assert not cpu_library.available()
    assert not cpu_library.uses_library(torch.zeros(1, requires_grad=True))


@needs_library
def test_buffers_are_freed_with_their_thread():
    weight = torch.randn(2048, 512)  # 4 MB packed
    x = torch.randn(2, 512, requires_grad=True)

    def megabytes_after(threads: int) -> float:
        for _ in range(threads):
            thread = threading.Thread(target=lmfast_kernels.linear, args=(x, weight))
            thread.start()
            thread.join()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    before = megabytes_after(3)
    assert megabytes_after(30) - before < 60


@needs_library
def test_torch_func_uses_pytorch_operators():
    x, weight, tangent = torch.randn(3, 4, 8), torch.randn(6, 8, requires_grad=True), torch.randn(3, 4, 8)
    grads = torch.func.vmap(torch.func.grad(lambda x: lmfast_kernels.linear(x, weight).square().sum()))(x)
    torch.testing.assert_close(grads, 2 * (x @ weight.t()) @ weight)
    _, out = torch.func.jvp(lambda x: lmfast_kernels.linear(x, weight), (x,), (tangent,))
    torch.testing.assert_close(out, tangent @ weight.t())
    with forward_ad.dual_level():
        y = lmfast_kernels.linear(forward_ad.make_dual(x, tangent), weight)
        torch.testing.assert_close(forward_ad.unpack_dual(y).tangent, tangent @ weight.t())
