"""The device's FP8 checks, rehearsed on the CPU; each must be able to fail."""

import pytest
import torch

from bench import gpu_smoke_fp8


@pytest.fixture(autouse=True)
def compiled_quickly(monkeypatch):
    monkeypatch.setitem(gpu_smoke_fp8.COMPILE, "backend", "aot_eager")


def test_all_checks_pass_in_rehearsal(capsys):
    assert gpu_smoke_fp8.main(["--rehearse"]) == 0
    ran = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert ran == [*gpu_smoke_fp8.CHECKS, "all passed"]


def test_a_wrong_product_is_reported_with_its_traceback(monkeypatch, capsys):
    right = gpu_smoke_fp8.fp8_mm
    monkeypatch.setattr(gpu_smoke_fp8, "fp8_mm", lambda *a, **k: right(*a, **k) * 1.1)
    assert gpu_smoke_fp8.main(["--rehearse", "--only", "scales", "products"]) == 1
    out = capsys.readouterr().out
    assert "scales: as on the CPU" in out and "products: FAILED\nTraceback" in out and "off by 0.1" in out


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_a_missing_device_is_reported():
    with pytest.raises(SystemExit, match="needs a CUDA device, or --rehearse"):
        gpu_smoke_fp8.main([])


def test_costs_of_every_part(monkeypatch):
    monkeypatch.setattr(gpu_smoke_fp8, "best", lambda function, device, tries: (function(), 1.0)[1])
    lines = list(gpu_smoke_fp8.costs(torch.device("cpu"), 16, 16, 32, 48))
    parts = ["feed-forward of 16 tokens", "head and loss of 16 tokens"]
    assert [line.split(":")[0].split(",")[0] for line in lines] == [
        "product up", "product down", "product dweight of up", *parts, *parts
    ]  # fmt: skip
