"""The device's decoding checks, rehearsed on the CPU; each must be able to fail."""

import pytest
import torch

from bench import gpu_smoke_decoding
from lmfast.model.layers import Attention

pytestmark = pytest.mark.usefixtures("compiled_quickly", "by_torch")


@pytest.fixture
def by_torch(monkeypatch):
    monkeypatch.setattr(
        "lmfast.inference.model_decoder.unsupported_reason", lambda model: "the test wants torch"
    )


def test_all_checks_pass_in_rehearsal(capsys):
    assert gpu_smoke_decoding.main(["--rehearse"]) == 0
    out = capsys.readouterr().out
    ran = [line.partition(":")[0] for line in out.splitlines()]
    assert ran == [*gpu_smoke_decoding.CHECKS, "all passed"]


def test_a_wrong_step_is_reported_with_its_traceback(monkeypatch, capsys):
    right = Attention.decode
    monkeypatch.setattr(Attention, "decode", lambda self, x, *rest: right(self, x, *rest) * 1.5)
    assert gpu_smoke_decoding.main(["--rehearse", "--only", "append", "eager"]) == 1
    out = capsys.readouterr().out
    assert "append: values" in out and "eager: FAILED\nTraceback" in out and out.endswith("failed: eager\n")


def test_an_append_to_another_row_is_reported(monkeypatch, capsys):
    right = gpu_smoke_decoding.rope_append

    def wrong(*arguments):
        return right(*arguments[:5], arguments[5].clamp(max=50), *arguments[6:])

    monkeypatch.setattr(gpu_smoke_decoding, "rope_append", wrong)
    assert gpu_smoke_decoding.main(["--rehearse", "--only", "append"]) == 1
    assert "off by" in capsys.readouterr().out


def test_a_wrong_copy_of_a_beginning_is_reported(monkeypatch, capsys):
    monkeypatch.setattr(gpu_smoke_decoding.TorchSlots, "copy", lambda *given: None)
    assert gpu_smoke_decoding.main(["--rehearse", "--only", "slots"]) == 1
    assert "must be [[" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_a_missing_device_is_reported():
    with pytest.raises(SystemExit, match="needs a CUDA device, or --rehearse"):
        gpu_smoke_decoding.main([])
