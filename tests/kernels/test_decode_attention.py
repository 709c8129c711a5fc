"""Decode attention without CUDA: equal to attention over the filled part, one graph for all lengths, errors."""

import pytest
import torch

import lmfast_kernels


def operands(batch, heads, kv_heads, max_len, head_dim):
    cache = (batch, kv_heads, max_len, head_dim)
    return torch.randn(batch, heads, head_dim), torch.randn(cache), torch.randn(cache)


@pytest.mark.parametrize("shape", [(1, 4, 4, 9, 8), (3, 6, 2, 12, 8)])
def test_equals_attention_over_the_filled_part(shape):
    q, k, v = operands(*shape)
    lengths = torch.arange(1, shape[0] + 1, dtype=torch.int32) * 3
    got = lmfast_kernels.decode_attention(q, k, v, lengths)
    for b, n in enumerate(lengths.tolist()):
        part = slice(b, b + 1)
        want = lmfast_kernels.attention(q[part, :, None], k[part, :, :n], v[part, :, :n])[:, :, 0]
        torch.testing.assert_close(got[part], want)


@pytest.mark.parametrize("window", [1, 3, 9, 50])
def test_a_window_equals_attention_over_its_rows(window):
    q, k, v = operands(3, 4, 2, 9, 8)
    lengths = torch.tensor([1, 5, 9])
    got = lmfast_kernels.decode_attention(q, k, v, lengths, window)
    for b, n in enumerate(lengths.tolist()):
        part, rows = slice(b, b + 1), slice(max(0, n - window), n)
        want = lmfast_kernels.attention(q[part, :, None], k[part, :, rows], v[part, :, rows])[:, :, 0]
        torch.testing.assert_close(got[part], want)
    with pytest.raises(ValueError, match="window 0 must be at least 1"):
        lmfast_kernels.decode_attention(q, k, v, lengths, 0)


def test_both_shapes_of_q_and_a_length_of_zero():
    q, k, v = operands(2, 4, 2, 9, 8)
    lengths = torch.tensor([0, 9])
    got = lmfast_kernels.decode_attention(q, k, v, lengths)
    assert torch.equal(lmfast_kernels.decode_attention(q[:, :, None], k, v, lengths), got[:, :, None])
    assert not got[0].any() and got[1].all()


def test_rows_after_the_length_are_ignored():
    q, k, v = operands(1, 2, 1, 9, 8)
    want = lmfast_kernels.decode_attention(q, k, v, torch.tensor([4]))
    k[:, :, 4:], v[:, :, 4:] = 1e4, -1e4
    assert torch.equal(lmfast_kernels.decode_attention(q, k, v, torch.tensor([4])), want)
    torch.testing.assert_close(
        lmfast_kernels.decode_attention(q, k[:, :, :5], v[:, :, :5], torch.tensor([4])), want
    )


def test_one_plain_graph_for_every_length(assert_plain):
    q, k, v = operands(1, 4, 2, 9, 8)
    assert_plain(lmfast_kernels.decode_attention, q, k, v, torch.tensor([4]))
    torch._dynamo.reset()
    compiled = torch.compile(lmfast_kernels.decode_attention, fullgraph=True, backend="eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for n in (1, 5, 9):
            torch.testing.assert_close(
                compiled(q, k, v, torch.tensor([n])),
                lmfast_kernels.decode_attention(q, k, v, torch.tensor([n])),
            )


def test_autocast_casts():
    q, k, v = operands(1, 4, 2, 9, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert lmfast_kernels.decode_attention(q, k.bfloat16(), v, torch.tensor([4])).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "q, cache, lengths, message",
    [
        ((2, 4, 2, 8), (2, 2, 9, 8), torch.ones(2).int(), r"or \(batch, heads, 1, head_dim\)"),
        ((2, 4, 8), (2, 3, 9, 8), torch.ones(2).int(), "4 heads are not a multiple of 3 kv heads"),
        ((2, 4, 8), (1, 2, 9, 8), torch.ones(2).int(), "must have batch and head_dim"),
        ((2, 4, 8), (2, 2, 9, 8), torch.ones(3).int(), r"must be integers \(2,\)"),
        ((2, 4, 8), (2, 2, 9, 8), torch.ones(2), r"must be integers \(2,\)"),
        ((2, 4, 300), (2, 2, 9, 300), torch.ones(2).int(), "head_dim 300 is outside 1 to 256"),
    ],
)
def test_rejects(q, cache, lengths, message):
    with pytest.raises(ValueError, match=message):
        lmfast_kernels.decode_attention(torch.zeros(q), torch.zeros(cache), torch.zeros(cache), lengths)
