import sys
import types

import pytest
import torch

from lmfast.errors import UserError
from lmfast.model.peaks import (
    DEVICES,
    device_peak,
    find_device,
    local_peak,
    measured_matmul_flops,
    named_peak,
)


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100 80GB PCIe", "A100"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100-PCIE-40GB", "A100 40GB"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 5090", "RTX 5090"),
        ("Tesla T4", "T4"),
        ("h100", "H100 SXM"),
        ("rtx4090", "RTX 4090"),
    ],
)
def test_names_that_torch_reports_and_people_write(reported, name):
    assert find_device(reported).name == name


@pytest.mark.parametrize("device", DEVICES, ids=lambda d: d.name)
def test_every_name_of_the_table_means_itself(device):
    assert find_device(device.name) is device
    assert device.source and device.memory_gb > 0 and "fp32" in device.rates
    # Dense rates double with each halving of the width.
    if "fp8" in device.rates:
        assert device.rates["fp8"] == pytest.approx(2 * device.rates["fp16"], rel=0.015)


@pytest.mark.parametrize(
    "relative",
    [
        "NVIDIA L40",
        "NVIDIA T400 4GB",
        "NVIDIA H100 NVL",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 5090 D",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA A10",
    ],
)
def test_similar_names_are_distinguished(relative):
    assert find_device(relative) is None


def test_dense_rates():
    assert named_peak("L4", "fp16")[1] == 121e12
    assert named_peak("A100", "bf16")[1] == 312e12
    assert named_peak("H100 PCIe", "bf16")[1] == 756e12


def test_an_unknown_device_is_one_line():
    with pytest.raises(UserError, match="unknown device H1000 SXM; did you mean H100 SXM"):
        named_peak("H1000 SXM", "bf16")
    with pytest.raises(UserError, match=r"unknown device abacus; known devices are H100 SXM, "):
        named_peak("abacus", "bf16")
    with pytest.raises(UserError, match=r"T4 does not support bf16; choose another --dtype: fp16, fp32"):
        named_peak("T4", "bf16")


def test_a_known_gpu_is_looked_up_and_an_unknown_one_measured(monkeypatch):
    gpu = types.SimpleNamespace(type="cuda")
    peaks_module = sys.modules["lmfast.model.peaks"]
    monkeypatch.setattr(peaks_module, "measured_matmul_flops", lambda device, dtype: 123.0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA L4")
    assert device_peak(gpu, bf16=True) == (121e12, "L4 dense bf16")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA L40")
    assert device_peak(gpu, bf16=True) == (123.0, "measured bf16 matmul")
    # Turing has no bf16: its substitute is measured.
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    assert device_peak(gpu, bf16=True) == (123.0, "measured bf16 matmul")
    assert device_peak(gpu, bf16=False) == (8.1e12, "T4 dense fp32")


def test_a_cpu_is_measured_and_never_in_fp8(monkeypatch):
    monkeypatch.setattr("lmfast.model.cpu_peak.cpu_peak", lambda dtype: (1e11, f"a CPU's {dtype}"))
    assert device_peak(torch.device("cpu"), bf16=False) == (1e11, "a CPU's fp32")
    assert device_peak(torch.device("cpu"), bf16=False, fp16=True) == (1e11, "a CPU's fp16")
    with pytest.raises(UserError, match="fp8 rates cannot be measured"):
        local_peak(torch.device("cpu"), "fp8")


def test_measured_rate_is_a_rate():
    assert 1e8 < measured_matmul_flops(torch.device("cpu"), torch.float32, size=256) < 1e14
