import os

import pytest
import torch

from lmfast.errors import UserError
from lmfast.model import device as device_module
from lmfast.model.device import (
    compile_blocker,
    describe_machine,
    disable_compile_workers,
    make_deterministic,
    pick_device,
)


def test_auto_is_an_available_device():
    assert pick_device("auto").type in ("cuda", "mps", "cpu")


def test_triton_is_for_cuda_unless_it_is_interpreted(monkeypatch):
    monkeypatch.setenv("LMFAST_KERNELS", "triton")
    monkeypatch.setattr(device_module, "INTERPRETING", True)
    assert pick_device("cpu").type == "cpu"
    monkeypatch.setattr(device_module, "INTERPRETING", False)
    with pytest.raises(
        UserError, match="LMFAST_KERNELS is 'triton', which needs CUDA, and the device is cpu"
    ):
        pick_device("cpu")


def test_an_absent_device_is_rejected(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"device cuda is not available on this machine; use --device .*cpu"):
        pick_device("cuda")


def test_deterministic_on_cpu():
    before = torch.are_deterministic_algorithms_enabled()
    try:
        make_deterministic(torch.device("cpu"))
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(before)


def test_compile_blocker_names_what_is_missing(monkeypatch):
    from torch._inductor import cpp_builder

    def none_found():
        raise RuntimeError("nothing")

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none_found)
    assert "no C++ compiler" in compile_blocker(torch.device("cpu"))
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", lambda: "g++")
    monkeypatch.setattr(device_module.sysconfig, "get_path", lambda name: "/nowhere")
    assert "headers" in compile_blocker(torch.device("cpu"))


def test_the_machine_is_named():
    facts = describe_machine(torch.device("cpu"))
    assert " thread" in facts["device"] and facts["torch"] == torch.__version__


def test_without_cuda_torch_compile_starts_no_workers(monkeypatch):
    monkeypatch.setenv("TORCH_WARM_POOL", "")  # so that it is restored
    del os.environ["TORCH_WARM_POOL"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    disable_compile_workers()
    assert "TORCH_WARM_POOL" not in os.environ
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    disable_compile_workers()

    from torch._inductor import async_compile

    started = []
    monkeypatch.setattr(async_compile, "has_triton_package", lambda: True)
    monkeypatch.setattr(async_compile.AsyncCompile, "warm_pool", lambda: started.append(1))
    monkeypatch.setattr(async_compile.AsyncCompile, "wakeup", lambda: started.append(1), raising=False)
    async_compile.maybe_warm_pool()
    assert not started
    os.environ["TORCH_WARM_POOL"] = "1"
    disable_compile_workers()  # a user's choice is respected
    async_compile.maybe_warm_pool()
    assert started
