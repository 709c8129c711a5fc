"""The kernel that casts a matrix and its transpose, compared with PyTorch operations.

To float32 and float16: the interpreter halves an e5m2 value that is rounded up to a power of two.
"""

from importlib import import_module

import pytest
import torch

module = import_module("lmfast_kernels.fp8_cast")
SHAPES = [(1, 1), (16, 48), (64, 64), (65, 130), (200, 16)]


def plain(x, scale, dtype):
    limit = torch.finfo(dtype).max
    y = (x.float() * scale).clamp(-limit, limit).to(dtype)
    return y, y.t()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_agrees(shape, dtype, launched):
    x, scale = torch.randn(shape), torch.tensor(4.0)
    for got, want in zip(module.cast_both(x, scale, dtype), plain(x, scale, dtype), strict=True):
        assert torch.equal(got, want) and got.is_contiguous()
    launched("_cast_kernel")


@pytest.mark.parametrize(
    "x", [torch.randn(32, 160)[:, ::2], torch.randn(80, 32).t(), torch.randn(32, 96)[:, :80]]
)
def test_any_strides(x):
    got = module.cast_both(x, torch.tensor(0.5), torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(got, plain(x, 0.5, torch.float32), strict=True))


def test_clamping_and_non_finite_values():
    x = torch.tensor([[1e6, -1e6, float("inf"), float("-inf"), float("nan"), 2.0]])
    got, across = module.cast_both(x, torch.tensor(1.0), torch.float16)
    limit = torch.finfo(torch.float16).max
    want = torch.tensor([[limit, -limit, limit, -limit, float("nan"), 2.0]]).half()
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(across, want.t(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("store_both", "tl.trans(x)", "x"),
        ("_cast_kernel", "* tl.load(scale_ptr)", ""),
        ("store_both", "first_col * M + first_row", "first_col * M"),
    ],
)
def test_a_broken_kernel_differs(name, old, new, mutate):
    mutate(module, name, old, new)
    x, scale = torch.randn(65, 130), torch.tensor(4.0)
    got = module.cast_both(x, scale, torch.float32)
    assert not all(torch.equal(a, b) for a, b in zip(got, plain(x, scale, torch.float32), strict=True))


def test_opcheck():
    arguments = torch.randn(16, 32), torch.tensor(2.0), torch.float32, 1e30
    torch.library.opcheck(module._cast, arguments, test_utils=("test_schema", "test_faketensor"))
