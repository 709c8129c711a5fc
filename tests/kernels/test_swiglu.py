"""SwiGLU without CUDA: the formula, its gradient, its dtypes, error messages."""

import pytest
import torch
import torch.nn.functional as F

import lmfast_kernels


def test_formula_and_gradient():
    gate, up = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.equal(lmfast_kernels.swiglu(gate, up), F.silu(gate) * up)
    assert torch.autograd.gradcheck(lmfast_kernels.swiglu, (gate, up))


def test_rounds_once():
    gate, up = torch.randn(99).bfloat16(), torch.randn(99).bfloat16()
    assert torch.equal(lmfast_kernels.swiglu(gate, up), (F.silu(gate.float()) * up.float()).bfloat16())


def test_compiles_to_plain_operations(assert_plain):
    assert_plain(lmfast_kernels.swiglu, torch.randn(4, 8), torch.randn(4, 8))


def test_rejects():
    with pytest.raises(ValueError, match=r"gate \(2, 3\) and up \(2, 4\)"):
        lmfast_kernels.swiglu(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="give both one dtype"):
        lmfast_kernels.swiglu(torch.zeros(2), torch.zeros(2).half())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert lmfast_kernels.swiglu(torch.zeros(2), torch.zeros(2).half()).dtype == torch.float32
