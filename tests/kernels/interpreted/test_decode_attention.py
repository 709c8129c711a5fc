"""The decoding kernels compared with float64: empty splits, empty sequences, grouped heads, any strides."""

from importlib import import_module

import pytest
import torch

import lmfast_kernels

module = import_module("lmfast_kernels.decode_attention")


def operands(batch, heads, kv_heads, max_len, head_dim, dtype=torch.float32):
    q = torch.randn(batch, heads, head_dim, dtype=dtype)
    k = torch.randn(batch, max_len, kv_heads, head_dim, dtype=dtype).transpose(1, 2)
    v = torch.randn(batch, kv_heads, max_len, head_dim, dtype=dtype)
    return q, k, v


def exact(q, k, v, lengths, window=None):
    """One sequence at a time, over exactly the valid rows, in float64."""
    out = torch.zeros(q.shape, dtype=torch.float64)
    group = q.shape[1] // k.shape[1]
    for b, length in enumerate(lengths.tolist()):
        if length:
            first = 0 if window is None else max(0, length - window)
            keys, values = (x[b, :, first:length].double().repeat_interleave(group, 0) for x in (k, v))
            scores = (q[b].double().unsqueeze(1) @ keys.transpose(1, 2)) * q.shape[-1] ** -0.5
            out[b] = (scores.softmax(-1) @ values).squeeze(1)
    return out


def assert_correct(q, k, v, lengths, window=None):
    got, want = lmfast_kernels.decode_attention(q, k, v, lengths, window), exact(q, k, v, lengths, window)
    theirs = module.decode_attention_reference(q, k, v, lengths, window)
    error, allowed = (got - want).abs().max(), 2 * (theirs - want).abs().max() + 8 * torch.finfo(q.dtype).eps
    assert not got.isnan().any() and error <= allowed, f"off by {error:.3g}, allowed {allowed:.3g}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    "shape, lengths",
    [
        ((1, 6, 1, 130, 16), [129]),
        ((2, 4, 2, 300, 20), [300, 3]),
        ((3, 2, 2, 200, 32), [0, 1, 64]),
        ((1, 3, 3, 1, 8), [1]),
        ((1, 40, 2, 70, 80), [70]),
    ],
)
def test_agrees(dtype, shape, lengths, launched):
    assert_correct(*operands(*shape, dtype=dtype), torch.tensor(lengths, dtype=torch.int32))
    launched("_decode_split_kernel")


@pytest.mark.parametrize("sms", [1, 4, 64])
def test_any_number_of_splits(sms, monkeypatch, launched):
    monkeypatch.setattr(module, "num_sms", lambda device: sms)
    for length in (0, 1, 31, 32, 33, 250, 500):
        assert_correct(*operands(1, 2, 1, 500, 16), torch.tensor([length]))
    if sms > 1:
        launched("_decode_split_kernel", "_decode_combine_kernel")


@pytest.mark.parametrize("window", [1, 31, 64, 100, 1000])
def test_windows(window, launched):
    q, k, v = operands(4, 4, 2, 300, 20)
    lengths = torch.tensor([0, 300, 30, 97])
    assert_correct(q, k, v, lengths, window)
    want = lmfast_kernels.decode_attention(q, k, v, lengths, window)
    for b, length in enumerate(lengths.tolist()):
        first = max(0, length - window)
        k[b, :, :first] = v[b, :, :first] = k[b, :, length:] = v[b, :, length:] = float("nan")
    assert torch.equal(
        lmfast_kernels.decode_attention(q, k, v, lengths, window), want
    )  # nothing else is read
    launched("_decode_split_kernel")


def test_rows_after_the_length_are_not_read():
    q, k, v = operands(2, 2, 1, 100, 16)
    lengths = torch.tensor([10, 77])
    want = lmfast_kernels.decode_attention(q, k, v, lengths)
    for b, length in enumerate(lengths.tolist()):
        k[b, :, length:] = v[b, :, length:] = float("nan")
    assert torch.equal(lmfast_kernels.decode_attention(q, k, v, lengths), want)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int64])
def test_lengths_above_the_cache_and_below_zero(dtype):
    q, k, v = operands(3, 14, 2, 65, 80)
    got = lmfast_kernels.decode_attention(q, k, v, torch.tensor([-3, 1000, 65], dtype=dtype))
    want = exact(q, k, v, torch.tensor([0, 65, 65]))
    torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=1e-5)


def test_expanded_caches_and_strided_lengths():
    q, k = (
        torch.randn(1, 4, 16).expand(3, 4, 16),
        torch.randn(1, 2, 16, 50).transpose(2, 3).expand(3, 2, 50, 16),
    )
    assert_correct(q, k, k, torch.tensor([[5, 0], [50, 0], [7, 0]])[:, 0])


def test_one_graph_for_every_length():
    q, k, v = operands(2, 4, 2, 90, 16)
    compiled = torch.compile(lmfast_kernels.decode_attention, fullgraph=True, dynamic=False)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for lengths in ([90, 1], [5, 60]):
            lengths = torch.tensor(lengths)
            got = compiled(q[:, :, None], k, v, lengths)
            assert torch.equal(got, lmfast_kernels.decode_attention(q, k, v, lengths)[:, :, None])


def test_opcheck():
    q, k, v = operands(1, 2, 1, 40, 8)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(module._decode, (q, k, v, torch.tensor([33]), 0), test_utils=checks)


def test_agrees_with_attention():
    q, k, v = operands(2, 4, 2, 50, 16)
    got = lmfast_kernels.decode_attention(q, k, v, torch.tensor([50, 50]))
    want = lmfast_kernels.attention(q.unsqueeze(2), k, v)
    torch.testing.assert_close(got, want.squeeze(2))


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("_decode_split_kernel", "acc * shrink[:, None]", "acc"),
        ("_decode_split_kernel", "(n + cols)[None, :] < stop", "(n + cols)[None, :] >= 0"),
        ("_decode_combine_kernel", "weights * sums", "sums"),
        ("_decode_split_kernel", "length - window, 0)", "length - window - 1, 0)"),
    ],
)
def test_a_broken_kernel_fails(name, old, new, mutate):
    mutate(module, name, old, new)
    with pytest.raises(AssertionError, match="off by"):
        assert_correct(*operands(1, 2, 2, 500, 16), torch.tensor([333]), 200 if "window" in old else None)
