"""Rotate and append without CUDA: equal to `rope` and an assignment, in place, one compiled graph, errors."""

import pytest
import torch

import lmfast_kernels
from tests.kernels.test_rope import table


def operands(batch=3, heads=4, kv_heads=2, max_len=9, head_dim=8, dtype=torch.float32):
    """q, k, v as slices of one projection, then cos, sin, lengths and two caches."""
    projected = torch.randn(batch, heads + 2 * kv_heads, head_dim, dtype=dtype)
    caches = torch.randn(2, batch, kv_heads, max_len, head_dim, dtype=dtype)
    lengths = torch.tensor([1, max_len, 4][:batch], dtype=torch.int32)
    return [*projected.split([heads, kv_heads, kv_heads], 1), *table(max_len, head_dim), lengths, *caches]


def assert_appended(inputs):
    q, k, v, cos, sin, lengths, *caches = inputs
    want_q, rows = q, [k, v]
    if cos is not None:
        turned = lmfast_kernels.rope(q[:, :, None], k[:, :, None], cos, sin, lengths[:, None] - 1)
        want_q, rows[0] = turned[0].squeeze(2), turned[1].squeeze(2)
    wanted = [cache.clone() for cache in caches]
    for cache, row in zip(wanted, rows, strict=True):
        for b, n in enumerate(lengths.tolist()):
            cache[b, :, n - 1] = row[b]
    got = lmfast_kernels.rope_append(*inputs)
    torch.testing.assert_close(got, want_q.to(caches[0].dtype))
    assert got.is_contiguous() and got.dtype == caches[0].dtype
    for cache, want in zip(caches, wanted, strict=True):
        torch.testing.assert_close(cache, want)


@pytest.mark.parametrize("rotate", [True, False])
def test_equals_rope_and_an_assignment(rotate):
    inputs = operands()
    if not rotate:
        inputs[3:5] = None, None
    assert_appended(inputs)


def test_casts_to_the_caches_dtype():
    inputs = operands()
    inputs[6:] = inputs[6].bfloat16(), inputs[7].bfloat16()
    assert_appended(inputs)


def test_a_view_of_the_cache_is_written_in_place():
    inputs = operands()
    whole = torch.zeros(3, 2, 20, 8)
    inputs[6] = whole[:, :, :9]
    lmfast_kernels.rope_append(*inputs)
    assert int((whole != 0).any(-1).sum()) == 3 * 2 and whole[1, :, 8].all()


def test_inputs_that_require_gradients_are_accepted():
    inputs = operands()
    inputs[:3] = [x.requires_grad_() for x in inputs[:3]]
    assert not lmfast_kernels.rope_append(*inputs).requires_grad


def test_compiles_to_plain_operations(assert_plain):
    assert_plain(lmfast_kernels.rope_append, *operands())


@pytest.mark.parametrize(
    "place, value, message",
    [
        (0, torch.zeros(3, 4, 1, 8), r"q \(3, 4, 1, 8\) must be \(batch, heads, head_dim\)"),
        (1, torch.zeros(3, 1, 8), "rope_append: q"),
        (6, torch.zeros(3, 2, 9, 6), r"caches \(3, 2, 9, 6\) and \(3, 2, 9, 8\) must both be"),
        (6, torch.zeros(3, 2, 9, 8).half(), "both caches one"),
        (0, torch.zeros(3, 4, 8).half(), "give q, k and v one dtype"),
        (3, None, "cos and sin must both be given, or neither"),
        (4, torch.zeros(9, 3), r"must be \(max_positions, 4\)"),
        (5, torch.zeros(3), r"lengths \(3,\) torch.float32 must be integers \(3,\)"),
    ],
)
def test_rejects(place, value, message):
    inputs = operands()
    inputs[place] = value
    with pytest.raises(ValueError, match=message):
        lmfast_kernels.rope_append(*inputs)


def test_rejects_tables_shorter_than_the_cache_and_odd_heads():
    inputs = operands()
    inputs[3:5] = table(8, 8)
    with pytest.raises(ValueError, match="caches of 9 rows, but cos and sin hold only 8 positions"):
        lmfast_kernels.rope_append(*inputs)
    inputs = operands(head_dim=6)
    inputs[:3] = [x[..., :5] for x in inputs[:3]]
    inputs[6:] = [x[..., :5] for x in inputs[6:]]
    with pytest.raises(ValueError, match="head_dim 5 must be even"):
        lmfast_kernels.rope_append(*inputs)
