"""RoPE without CUDA: rotations of half-split pairs, relative positions, error messages."""

import cmath

import pytest
import torch

import lmfast_kernels


def table(max_len, head_dim, dtype=torch.float32):
    angles = torch.arange(max_len, dtype=torch.float64)[:, None] * 10000.0 ** -(
        torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    )
    return angles.cos().to(dtype), angles.sin().to(dtype)


def test_rotates_half_split_pairs():
    q, k = torch.randn(1, 1, 6, 8, dtype=torch.float64), torch.randn(1, 1, 6, 8, dtype=torch.float64)
    turned, _ = lmfast_kernels.rope(q, k, *table(6, 8, torch.float64))
    for position in range(6):
        for i in range(4):
            pair = complex(q[0, 0, position, i], q[0, 0, position, i + 4])
            want = pair * cmath.exp(1j * position * 10000 ** (-i / 4))
            assert abs(want - complex(turned[0, 0, position, i], turned[0, 0, position, i + 4])) < 1e-12


def test_keeps_the_memory_order():
    """A token's heads stay contiguous, so that attention's output needs no transposing copy."""
    fused = torch.randn(2, 5, 7, 8)  # (batch, seq, heads, head_dim), as a projection writes it
    q, k = (x.transpose(1, 2) for x in fused.split([4, 3], dim=2))
    for turned in lmfast_kernels.rope(q, k, *table(5, 8)):
        assert turned.transpose(1, 2).is_contiguous()


def test_scores_depend_only_on_the_distance():
    q, k = torch.randn(1, 2, 1, 16), torch.randn(1, 2, 1, 16)
    scores = []
    for shift in (0, 7, 30):
        a, _ = lmfast_kernels.rope(q, k, *table(64, 16), torch.tensor([5 + shift]))
        _, b = lmfast_kernels.rope(q, k, *table(64, 16), torch.tensor([2 + shift]))
        scores.append((a * b).sum(-1))
    torch.testing.assert_close(scores[0], scores[1])
    torch.testing.assert_close(scores[0], scores[2])


def test_uint8_positions_are_not_a_mask():
    q, (cos, sin) = torch.randn(1, 2, 4, 8), table(20, 8)
    positions = torch.tensor([3, 0, 1, 19])
    assert torch.equal(
        lmfast_kernels.rope(q, q, cos, sin, positions.byte())[0],
        lmfast_kernels.rope(q, q, cos, sin, positions)[0],
    )


def test_positions_select_rows():
    q, k = torch.randn(2, 3, 4, 8), torch.randn(2, 1, 4, 8)
    cos, sin = table(20, 8)
    plain = lmfast_kernels.rope(q, k, cos, sin)
    same = lmfast_kernels.rope(q, k, cos, sin, torch.arange(4).expand(2, 4))
    torch.testing.assert_close(plain, same)
    mixed = lmfast_kernels.rope(q, k, cos, sin, torch.tensor([[0, 1, 2, 3], [9, 8, 7, 6]]))
    assert torch.equal(mixed[0][0], plain[0][0]) and not torch.equal(mixed[0][1], plain[0][1])


def test_dtypes_are_kept_and_tables_have_no_gradient():
    cos, sin = table(4, 8)
    cos.requires_grad_()
    q = torch.randn(1, 1, 4, 8).bfloat16().requires_grad_()
    out, _ = lmfast_kernels.rope(q, q, cos, sin)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert cos.grad is None and q.grad is not None


def test_compiles_to_plain_operations(assert_plain):
    q, k = torch.randn(2, 3, 4, 8), torch.randn(2, 1, 4, 8)
    assert_plain(lmfast_kernels.rope, q, k, *table(9, 8))
    assert_plain(lmfast_kernels.rope, q, k, *table(9, 8), torch.randint(0, 9, (2, 4)))


@pytest.mark.parametrize(
    "k, length, positions, message",
    [
        ((2, 1, 4, 6), 9, None, "must have batch, seq and head_dim"),
        ((2, 1, 4, 8), 3, None, "4 positions, but cos and sin hold only 3"),
        ((2, 1, 4, 8), 9, torch.zeros(5).long(), r"positions \(5,\) must be \(4,\) or \(2, 4\)"),
        ((2, 1, 4, 8), 9, torch.zeros(4), "must be integers"),
    ],
)
def test_rejects(k, length, positions, message):
    with pytest.raises(ValueError, match=message):
        lmfast_kernels.rope(torch.zeros(2, 3, 4, 8), torch.zeros(k), *table(length, 8), positions)


def test_rejects_odd_heads_and_wrong_tables():
    with pytest.raises(ValueError, match="head_dim 7 must be even"):
        lmfast_kernels.rope(
            torch.zeros(1, 1, 2, 7), torch.zeros(1, 1, 2, 7), torch.zeros(2, 3), torch.zeros(2, 3)
        )
    with pytest.raises(ValueError, match=r"must be \(max_len, 4\)"):
        lmfast_kernels.rope(
            torch.zeros(1, 1, 2, 8), torch.zeros(1, 1, 2, 8), torch.zeros(2, 8), torch.zeros(2, 8)
        )
