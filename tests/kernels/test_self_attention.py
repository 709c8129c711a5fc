"""The C++ attention on a fused projection compared with rope and attention in float64."""

import pytest
import torch

import lmfast_kernels
from lmfast_kernels.attention import attention_reference
from lmfast_kernels.rope import rope_reference
from tests.kernels.cpu_native import (
    assert_like_float64,
    assert_same_with_any_threads,
    assert_same_without_gradients,
    graph_calls,
    needs_library,
)


def textbook(qkv, heads, kv_heads, cos, sin, window=None):
    batch, seq, _ = qkv.shape
    parts = qkv.view(batch, seq, heads + 2 * kv_heads, -1).split([heads, kv_heads, kv_heads], 2)
    q, k, v = (x.transpose(1, 2) for x in parts)
    if cos is not None:
        q, k = rope_reference(q, k, cos.to(qkv.dtype), sin.to(qkv.dtype))
    return attention_reference(q, k, v, window=window)[0].transpose(1, 2).flatten(2)


def tables(seq, head_dim):
    angles = torch.arange(seq)[:, None] * 100.0 ** -torch.linspace(0, 1, head_dim // 2)
    return angles.cos(), angles.sin()


SHAPES = [(2, 64, 4, 4, 32), (1, 100, 4, 2, 24), (2, 37, 4, 1, 40), (1, 1, 2, 2, 8), (1, 1500, 1, 1, 16)]


@needs_library
@pytest.mark.parametrize("batch, seq, heads, kv_heads, head_dim", SHAPES)
@pytest.mark.parametrize("rotated", [True, False])
def test_agrees_with_float64(batch, seq, heads, kv_heads, head_dim, rotated):
    cos, sin = tables(seq, head_dim) if rotated else (None, None)
    qkv = torch.randn(batch, seq, (heads + 2 * kv_heads) * head_dim)
    assert_like_float64(
        lambda x: lmfast_kernels.self_attention(x, heads, kv_heads, cos, sin),
        lambda x: textbook(x, heads, kv_heads, cos, sin),
        [qkv],
    )


@pytest.mark.parametrize("window", [1, 7, 40, 1000])
def test_windows(window):
    qkv, (cos, sin) = torch.randn(2, 40, 6 * 16, requires_grad=True), tables(40, 16)
    got = lmfast_kernels.self_attention(qkv, 2, 2, cos, sin, window)
    want = textbook(qkv, 2, 2, cos, sin, window)
    torch.testing.assert_close(got, want)
    upstream = torch.randn_like(got)
    grads = (torch.autograd.grad(x, qkv, upstream) for x in (got, want))
    torch.testing.assert_close(*grads)
    with pytest.raises(ValueError, match="window 0 must be at least 1"):
        lmfast_kernels.self_attention(qkv, 2, 2, cos, sin, 0)


@needs_library
def test_threads_graph_and_nan():
    qkv, (cos, sin) = torch.randn(3, 40, 8 * 16), tables(40, 16)

    def function(x):
        return lmfast_kernels.self_attention(x, 4, 2, cos, sin)

    assert_same_with_any_threads(function, [qkv])
    assert any("cpu_self_attention" in name for name in graph_calls(function, [qkv]))
    assert_same_without_gradients(function, [qkv], "cpu_self_attention")
    qkv[1, 20, 0] = float("nan")
    out = function(qkv.requires_grad_())
    assert out[1, 20].isnan().any() and not out[1, :20].isnan().any() and not out[0].isnan().any()


def test_without_a_gradient_and_errors():
    qkv, (cos, sin) = torch.randn(2, 9, 8 * 8), tables(9, 8)
    torch.testing.assert_close(
        lmfast_kernels.self_attention(qkv, 4, 2, cos, sin), textbook(qkv, 4, 2, cos, sin)
    )
    with pytest.raises(ValueError, match="8 heads"):
        lmfast_kernels.self_attention(torch.zeros(2, 9, 63), 4, 2)
    with pytest.raises(ValueError, match="multiple of 0 kv heads"):
        lmfast_kernels.self_attention(qkv, 4, 0)
    with pytest.raises(ValueError, match="at least 9"):
        lmfast_kernels.self_attention(qkv, 4, 2, cos[:5], sin[:5])
