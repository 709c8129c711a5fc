"""The rotate-and-append kernel compared with float64: heads, strides, caches as views, lengths out of range."""

from importlib import import_module

import pytest
import torch

import lmfast_kernels

module = import_module("lmfast_kernels.rope_append")


def operands(batch, heads, kv_heads, max_len, head_dim, dtype=torch.float32):
    projected = torch.randn(batch, 1, heads + 2 * kv_heads, head_dim, dtype=dtype)[:, 0]
    caches = torch.randn(2, batch, kv_heads, max_len, head_dim, dtype=dtype)
    angles = torch.arange(max_len + 3)[:, None] * torch.rand(head_dim // 2)
    lengths = torch.randint(1, max_len + 1, (batch,), dtype=torch.int32)
    return [
        *projected.split([heads, kv_heads, kv_heads], 1), angles.cos(), angles.sin(), lengths, *caches
    ]  # fmt: skip


def exact(inputs):
    """(q rotated, k cache, v cache) in float64; does not change the inputs."""
    wide = [x.double() if x is not None and x.is_floating_point() else x for x in inputs]
    wide[6:] = [cache.clone() for cache in wide[6:]]
    return module.rope_append_reference(*wide), *wide[6:]


def assert_correct(inputs):
    wanted = exact(inputs)
    got = lmfast_kernels.rope_append(*inputs), *inputs[6:]
    for name, a, b in zip(("q", "k_cache", "v_cache"), got, wanted, strict=True):
        error, allowed = (a - b).abs().max(), 8 * torch.finfo(a.dtype).eps * b.abs().max()
        assert error <= allowed, f"{name} is off by {error:.3g}, allowed {allowed:.3g}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 2), (3, 6, 2, 9, 8), (2, 3, 3, 40, 80), (2, 2, 1, 5, 256)])
@pytest.mark.parametrize("rotate", [True, False])
def test_agrees(dtype, shape, rotate, launched):
    inputs = operands(*shape, dtype=dtype)
    if not rotate:
        inputs[3:5] = None, None
    assert_correct(inputs)
    launched("_rope_append_kernel")


def test_odd_heads_without_rotation():
    inputs = operands(2, 3, 1, 9, 6)
    inputs[:3], inputs[6:] = [x[..., :5] for x in inputs[:3]], [x[..., :5] for x in inputs[6:]]
    inputs[3:5] = None, None
    assert_correct(inputs)


def test_any_strides_and_a_cache_of_another_dtype():
    inputs = operands(2, 4, 2, 9, 8)
    inputs[0] = inputs[0].transpose(1, 2).contiguous().transpose(1, 2)
    inputs[5] = torch.tensor([[3, 0], [9, 0]])[:, 0]
    whole = torch.zeros(2, 2, 8, 20)
    inputs[6] = whole.transpose(2, 3)[:, :, :9]
    assert_correct(inputs)
    assert int((whole != 0).any(2).sum()) == 4  # one row of each head of each sequence
    inputs = operands(2, 4, 2, 9, 8)
    inputs[6:] = [cache.half() for cache in inputs[6:]]
    assert lmfast_kernels.rope_append(*inputs).dtype == torch.float16


@pytest.mark.parametrize("dtype", [torch.int16, torch.int64])
def test_lengths_outside_the_cache_write_nothing(dtype):
    inputs = operands(4, 2, 2, 5, 8)
    inputs[5] = torch.tensor([0, -3, 6, 1000], dtype=dtype)
    before = [cache.clone() for cache in inputs[6:]]
    lmfast_kernels.rope_append(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(before, inputs[6:], strict=True))


def test_equals_rope_bitwise():
    """A token's keys are then the same from a prompt and from a decoding step."""
    inputs = operands(2, 4, 2, 9, 16)
    q, k, _, cos, sin, lengths, k_cache, _ = inputs
    got = lmfast_kernels.rope_append(*inputs)
    turned = lmfast_kernels.rope(q[:, :, None], k[:, :, None], cos, sin, lengths[:, None] - 1)
    assert torch.equal(got, turned[0].squeeze(2))
    for b, n in enumerate(lengths.tolist()):
        assert torch.equal(k_cache[b, :, n - 1], turned[1][b, :, 0])


def test_one_graph_for_every_length_writes_the_caches():
    inputs = operands(2, 4, 2, 9, 8)
    compiled = torch.compile(lmfast_kernels.rope_append, fullgraph=True, dynamic=False)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for lengths in ([9, 1], [5, 6]):
            inputs[5] = torch.tensor(lengths)
            ours, theirs = ([*inputs[:6], inputs[6].clone(), inputs[7].clone()] for _ in range(2))
            assert torch.equal(compiled(*ours), lmfast_kernels.rope_append(*theirs))
            assert torch.equal(ours[6], theirs[6]) and torch.equal(ours[7], theirs[7])


def test_opcheck():
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(module._rope_append, tuple(operands(2, 2, 1, 5, 8)), test_utils=checks)


@pytest.mark.parametrize(
    "old, new",
    [
        ("tl.where(first, -other, other)", "other"),
        ("x.to(k_cache_ptr.dtype.element_ty)", "(x + 1).to(k_cache_ptr.dtype.element_ty)"),
        ("place * vc_row", "(place - 1) * vc_row"),
        ("(head - heads) * k_head", "0 * k_head"),
    ],
)
def test_a_broken_kernel_fails(old, new, mutate):
    mutate(module, "_rope_append_kernel", old, new)
    with pytest.raises(AssertionError, match="off by"):
        inputs = operands(2, 4, 2, 9, 8)
        inputs[5] = torch.tensor([4, 7])
        assert_correct(inputs)
