"""The RoPE kernel compared with float64: positions, grouped heads, strides, the conjugate rotation as backward."""

from importlib import import_module

import pytest
import torch

import lmfast_kernels
from tests.kernels.interpreted.conftest import assert_agrees, assert_compiles

module = import_module("lmfast_kernels.rope")


def operands(batch, heads, kv_heads, seq, head_dim, dtype=torch.float32, max_len=90):
    q = torch.randn(batch, seq, heads, head_dim, dtype=dtype).transpose(1, 2).requires_grad_()
    k = torch.randn(batch, kv_heads, seq, head_dim, dtype=dtype, requires_grad=True)
    angles = torch.arange(max_len)[:, None] * torch.rand(head_dim // 2)
    upstream = [torch.randn(q.shape, dtype=dtype), torch.randn(k.shape, dtype=dtype)]
    return [q, k, angles.cos(), angles.sin()], upstream


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 2), (2, 3, 1, 5, 6), (1, 2, 1, 70, 32), (1, 2, 2, 33, 80)])
@pytest.mark.parametrize("positions", ["none", "one row", "per sequence"])
def test_agrees(dtype, shape, positions, launched):
    inputs, upstream = operands(*shape, dtype=dtype)
    batch, seq = shape[0], shape[3]
    if positions == "one row":
        inputs.append(torch.randint(0, 90, (seq,)))
    elif positions == "per sequence":
        inputs.append(torch.randint(0, 90, (batch, seq), dtype=torch.int32))
    assert_agrees(lmfast_kernels.rope, module.rope_reference, inputs, upstream)
    launched("_rope_kernel")


def test_memory_order_of_queries_is_kept():
    (q, k, cos, sin), _ = operands(2, 3, 1, 5, 6)
    assert lmfast_kernels.rope(q, k, cos, sin)[0].stride() == q.stride()


def test_expanded_gradients_and_positions():
    inputs, _ = operands(2, 3, 1, 5, 6)
    inputs.append(torch.arange(5).expand(2, 5))

    def total(rope):
        return lambda *a: sum(x.sum() for x in rope(*a))

    assert_agrees(total(lmfast_kernels.rope), total(module.rope_reference), inputs, [torch.ones(())])


@pytest.mark.parametrize("wanted", [(True, False), (False, True)])
def test_positions_of_any_strides_and_one_gradient(wanted):
    (q, k, cos, sin), upstream = operands(2, 7, 1, 5, 6)
    q, k = (x.detach().requires_grad_(wish) for x, wish in zip((q, k), wanted))
    positions = torch.randint(0, 90, (5, 2), dtype=torch.uint8).t()

    def one(rope):
        return lambda *a: rope(*a)[wanted[1]]

    inputs = [q, k, cos.t().contiguous().t(), sin, positions]
    assert_agrees(one(lmfast_kernels.rope), one(module.rope_reference), inputs, [upstream[wanted[1]]])


def test_backward_is_the_inverse_rotation():
    (q, k, cos, sin), _ = operands(1, 2, 1, 7, 8, dtype=torch.float64)
    turned = lmfast_kernels.rope(q, k, cos, sin)
    back = torch.autograd.grad(turned, (q, k), [x.detach() for x in turned])
    for x, y in zip((q, k), back):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)  # cos² + sin² = 1 in the table's float32


def test_no_tokens():
    (q, k, cos, sin), _ = operands(2, 3, 1, 0, 6)
    assert lmfast_kernels.rope(q, k, cos, sin)[0].shape == (2, 3, 0, 6)


def test_gradcheck_and_opcheck():
    (q, k, cos, sin), _ = operands(1, 2, 1, 3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda q, k: lmfast_kernels.rope(q, k, cos, sin), (q, k))
    positions = torch.tensor([[2, 0, 7]])
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(module._rope, (q, k, cos, sin, positions, False), test_utils=checks)


def test_compiled_and_repeated():
    inputs, upstream = operands(2, 3, 1, 9, 8)
    assert_compiles(lmfast_kernels.rope, inputs, upstream)


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("_rope_kernel", "sin = -sin", "sin = sin"),
        ("_rope_kernel", "rows * positions_row", "rows * 0"),
        ("rotate_pairs", "second * cos + first * sin", "second * cos - first * sin"),
    ],
)
def test_a_broken_kernel_fails(name, old, new, mutate):
    mutate(module, name, old, new)
    inputs, upstream = operands(1, 2, 1, 9, 8)
    inputs.append(torch.randint(0, 90, (9,)))
    with pytest.raises(AssertionError, match="off by"):
        assert_agrees(lmfast_kernels.rope, module.rope_reference, inputs, upstream)
