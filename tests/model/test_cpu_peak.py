"""The rate that MFU divides by on a CPU."""

import json

import pytest
import torch

from lmfast.model import cpu_peak as module
from lmfast.model.cpu_peak import best_seen, cpu_peak
from lmfast_kernels import cpu_build, cpu_library
from tests.kernels.cpu_native import needs_library


@pytest.fixture(autouse=True)
def rates(tmp_path, monkeypatch):
    """The file of rates, in a cache for this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "lmfast" / "rates" / "rates.json"


def products(monkeypatch, **rates):
    by_dtype = {module.DTYPES[name]: rate for name, rate in rates.items()}
    monkeypatch.setattr(module, "measured_matmul_flops", lambda device, dtype: by_dtype[dtype])


@needs_library
def test_the_multipliers_are_faster_than_any_product():
    rate, source = cpu_peak("fp32")
    assert source == f"measured {cpu_build.instruction_set()} multiply-adds"
    a = torch.randn(256, 256)
    assert module.measured_matmul_flops(torch.device("cpu"), torch.float32, size=256) < 1.05 * rate
    assert torch.isfinite(a).all() and 1e9 < rate < 1e14


@pytest.mark.parametrize(
    ("dtype", "matmul", "want"),
    [
        ("fp32", {}, (100.0, "measured AVX2 multiply-adds")),
        ("bf16", {"bf16": 200.0}, (200.0, "measured bf16 matmul")),
        ("fp16", {"fp16": 5.0}, (100.0, "measured AVX2 multiply-adds")),
    ],
)
def test_16_bit_products_count_if_they_are_faster(monkeypatch, dtype, matmul, want):
    monkeypatch.setattr(cpu_library, "library", lambda: object())
    monkeypatch.setattr(cpu_build, "instruction_set", lambda: "AVX2")
    monkeypatch.setattr(cpu_library, "multiply_rate", lambda: 100.0)
    products(monkeypatch, **matmul)
    assert cpu_peak(dtype) == want


@pytest.mark.parametrize(("dtype", "want"), [("fp32", "fp32"), ("bf16", "bf16"), ("fp16", "fp32")])
def test_without_a_compiler_products_are_measured(monkeypatch, dtype, want):
    monkeypatch.setattr(cpu_library, "library", lambda: None)
    products(monkeypatch, fp32=100.0, bf16=200.0, fp16=5.0)
    assert cpu_peak(dtype)[1] == f"measured {want} matmul"


def test_a_busy_moment_does_not_lower_the_rate(rates):
    assert best_seen("a rate", lambda: 7.0) == (7.0, "a rate")
    assert best_seen("a rate", lambda: 3.0) == (7.0, "a rate")
    assert best_seen("another", lambda: 3.0) == (3.0, "another")
    assert best_seen("a rate", lambda: 9.0) == (9.0, "a rate")
    assert sorted(json.loads(rates.read_text()).values()) == [3.0, 9.0]


def test_rates_are_separate_per_cpu_and_number_of_threads(monkeypatch):
    best_seen("a rate", lambda: 7.0)
    monkeypatch.setattr(module, "cpu_id", lambda: "another CPU")
    assert best_seen("a rate", lambda: 3.0) == (3.0, "a rate")


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"a": "b"}', '{"%s": 1e300}', '{"%s": -1.0}'])
def test_a_damaged_file_is_replaced(rates, content):
    best_seen("a rate", lambda: 7.0)
    (key,) = json.loads(rates.read_text())
    rates.write_text(content.replace("%s", key))
    assert best_seen("a rate", lambda: 3.0) == (3.0, "a rate")
    assert json.loads(rates.read_text())[key] == 3.0


def test_without_a_cache_the_rate_is_what_was_measured(monkeypatch):
    def nowhere(name):
        raise module.UserError("no directory")

    monkeypatch.setattr(module, "private_cache", nowhere)
    assert best_seen("a rate", lambda: 7.0) == (7.0, "a rate")
    assert best_seen("a rate", lambda: 3.0) == (3.0, "a rate")
