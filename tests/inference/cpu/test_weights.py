import torch

from lmfast.inference.cpu.torch_weights import unsupported_reason
from lmfast_kernels import cpu_build
from tests.inference.cpu.test_decoder import build
from tests.kernels.cpu_native import needs_decoder

pytestmark = needs_decoder


def test_unsupported_models():
    assert unsupported_reason(build()) is None
    assert "float32" in unsupported_reason(build().double())
    assert unsupported_reason(build().to("meta")) == "it is not on the CPU"
    assert unsupported_reason(build(dropout=0.1)) is None
    assert unsupported_reason(build(experts_per_token=3)) is None  # of none
    assert unsupported_reason(build(num_experts=4)) == "its num_experts is not supported there"
    assert unsupported_reason(build(dropout=0.1).train()) == "it is in training mode, with dropout"
    with torch.autocast("cpu", torch.bfloat16):
        assert "float32" in unsupported_reason(build())


def test_a_new_setting_is_unsupported(monkeypatch):
    monkeypatch.setattr("lmfast.inference.cpu.weights._SUPPORTED", {"vocab_size"})
    assert unsupported_reason(build()) == "its context_length is not supported there"


def test_without_a_compiler_pytorch_decodes(monkeypatch):
    monkeypatch.setattr(cpu_build, "why_not", lambda name: f"no compiler for {name}")
    assert unsupported_reason(build()) == "no compiler for decoder"
