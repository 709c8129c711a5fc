"""The backward of the rotated heads of a fused projection, compared with float64."""

from importlib import import_module

import pytest
import torch

from tests.kernels.interpreted.conftest import assert_agrees, assert_compiles

module = import_module("lmfast_kernels.split_heads")
SHAPES = [(1, 1, 1, 1, 2), (2, 3, 1, 5, 6), (1, 2, 1, 70, 32), (2, 2, 2, 33, 80)]


def operands(batch, heads, kv_heads, seq, head_dim, dtype=torch.float32):
    qkv = torch.randn(batch, seq, (heads + 2 * kv_heads) * head_dim, dtype=dtype, requires_grad=True)
    angles = torch.arange(seq + 3)[:, None] * torch.rand(head_dim // 2)
    upstream = [torch.randn(batch, n, seq, head_dim, dtype=dtype) for n in (heads, kv_heads, kv_heads)]
    return [qkv, angles.cos(), angles.sin()], upstream


def split(function, heads, kv_heads):
    return lambda qkv, cos, sin: function(qkv, heads, kv_heads, cos, sin)


def pair(heads, kv_heads):
    return split(module.split_heads, heads, kv_heads), split(module.split_heads_reference, heads, kv_heads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("by_token", [True, False])
def test_agrees(dtype, shape, by_token, launched):
    inputs, upstream = operands(*shape, dtype=dtype)
    if by_token:  # as from attention's backward
        upstream = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in upstream]
    assert_agrees(*pair(*shape[1:3]), inputs, upstream)
    launched("_join_heads_kernel")


def test_gradients_of_any_strides():
    inputs, upstream = operands(2, 3, 1, 5, 6)
    upstream[0] = torch.randn(6, 5, 3, 2).permute(3, 2, 1, 0)
    upstream[2] = torch.randn(()).expand(2, 1, 5, 6)
    assert_agrees(*pair(3, 1), inputs, upstream)


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_one_gradient_only(wanted):
    inputs, upstream = operands(1, 2, 1, 7, 4)
    ours, theirs = pair(2, 1)
    assert_agrees(lambda *a: ours(*a)[wanted], lambda *a: theirs(*a)[wanted], inputs, [upstream[wanted]])


def test_no_tokens_and_no_gradient():
    (qkv, cos, sin), upstream = operands(2, 3, 1, 0, 6)
    parts = module.split_heads(qkv, 3, 1, cos, sin)
    assert torch.autograd.grad(parts, qkv, upstream)[0].shape == qkv.shape
    with torch.no_grad():
        assert not module.split_heads(qkv, 3, 1, cos, sin)[0].requires_grad


def test_values_are_a_view():
    (qkv, cos, sin), _ = operands(1, 2, 1, 3, 4)
    q, _, v = module.split_heads(qkv, 2, 1, cos, sin)
    assert v.untyped_storage().data_ptr() == qkv.untyped_storage().data_ptr()
    assert q.transpose(1, 2).is_contiguous()  # by token


def test_opcheck():
    (_, cos, sin), upstream = operands(1, 2, 1, 3, 4)
    torch.library.opcheck(
        module._join_heads, (*upstream, cos, sin), test_utils=("test_schema", "test_faketensor")
    )


def test_compiled_and_repeated():
    inputs, upstream = operands(2, 3, 1, 9, 8)
    assert_compiles(pair(3, 1)[0], inputs, upstream)


@pytest.mark.parametrize(
    "old, new",
    [
        ("sin = -tl.load", "sin = tl.load"),
        ("(head - heads - kv_heads) * v_head", "0 * v_head"),
        ("tl.load(values + HALF", "tl.load(values"),
    ],
)
def test_a_broken_kernel_fails(old, new, mutate):
    mutate(module, "_join_heads_kernel", old, new)
    inputs, upstream = operands(1, 2, 2, 9, 8)
    with pytest.raises(AssertionError, match="off by"):
        assert_agrees(*pair(2, 2), inputs, upstream)
