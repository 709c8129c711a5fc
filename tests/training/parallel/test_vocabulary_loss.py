"""The loss of a head that is split over the vocabulary equals the whole loss; no rank has the logits of all ids."""

import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lmfast.training.parallel import vocabulary_loss
from lmfast.training.parallel.vocabulary_loss import chunk_rows, vocabulary_cross_entropy
from lmfast_kernels.linear_cross_entropy import linear_cross_entropy_reference
from tests.training.forked_runs import on_ranks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks processes that share the loopback")

TOKENS, WIDTH, VOCAB, ROWS = 50, 8, 36, 7
"""the last of 8 chunks of ROWS tokens is short"""
CASES = [{}, {"softcap": 3.0}, {"z_loss": 0.1}, {"softcap": 2.0, "z_loss": 0.3}]


def inputs(dtype=torch.float64):
    torch.manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, dtype=dtype)
    weight = 0.5 * torch.randn(VOCAB, WIDTH, dtype=dtype)
    targets = torch.randint(VOCAB, (TOKENS,))
    targets[[0, 7, 8]] = -100
    targets[[1, 2]] = torch.tensor([0, VOCAB - 1])
    return hidden.requires_grad_(), weight.requires_grad_(), targets


class Largest(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operator returns, and counts gathers."""

    def __init__(self):
        super().__init__()
        self.elements = self.gathers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.gathers += "all_gather" in func.__name__
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


def split_losses(ranks):
    """For each case, (loss, dhidden of this rank, dweight of this rank) and (largest tensor, number of exchanges)."""
    ranks = ranks.in_tensor_groups(ranks.world_size)
    size, each = ranks.tensor_size, VOCAB // ranks.tensor_size
    vocabulary_loss.CHUNK_BYTES["cpu"] = 4 * each * ROWS
    group = (size, ranks.tensor_group.group_name)
    found = []
    for case in CASES:
        hidden, weight, targets = inputs()
        own = weight.detach()[ranks.tensor_rank * each :][:each].clone().requires_grad_()
        with Largest() as seen:
            loss = vocabulary_cross_entropy(hidden, own, targets, ranks.tensor_rank * each, *group, **case)
            loss.backward(torch.tensor(0.5, dtype=loss.dtype))
        found.append((loss.detach(), hidden.grad, own.grad, seen.elements, seen.gathers))
    with torch.no_grad():
        no_gradient = vocabulary_cross_entropy(hidden, own, targets, ranks.tensor_rank * each, *group, **case)
    with torch.autocast("cpu", torch.bfloat16):
        hidden, weight, targets = inputs(torch.float32)
        own = weight.detach()[ranks.tensor_rank * each :][:each].clone().requires_grad_()
        low = vocabulary_cross_entropy(hidden, own, targets, ranks.tensor_rank * each, *group)
        low.backward()
    return found, no_gradient, (low.detach(), hidden.grad, own.grad)


@pytest.mark.parametrize("size", [2, 3])
def test_loss_and_gradients_equal_the_whole_loss_without_whole_logits(tmp_path, size):
    results = on_ranks(split_losses, tmp_path, size)
    for number, case in enumerate(CASES):
        hidden, weight, targets = inputs()
        loss, _ = linear_cross_entropy_reference(hidden, weight, targets, **case)
        (0.5 * loss).backward()
        parts = [found[number] for found, _, _ in results]
        for part in parts:
            torch.testing.assert_close(part[0], loss.detach(), rtol=1e-12, atol=0)
            # The hidden states, the weight of the rank, the logits of a chunk: each far below TOKENS x VOCAB.
            assert part[3] == max(TOKENS * WIDTH, VOCAB // size * WIDTH) < TOKENS * VOCAB // 4
            assert part[4] == -(-TOKENS // ROWS)
        torch.testing.assert_close(sum(part[1] for part in parts), hidden.grad, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(
            torch.cat([part[2] for part in parts]), weight.grad, rtol=1e-10, atol=1e-12
        )
        assert all(torch.equal(part[0], parts[0][0]) for part in parts)
    for _, no_gradient, _ in results:
        torch.testing.assert_close(no_gradient, loss.detach(), rtol=1e-12, atol=0)


def test_under_autocast_products_are_in_16_bits_and_sums_in_32(tmp_path):
    results = [low for _, _, low in on_ranks(split_losses, tmp_path, 2)]
    hidden, weight, targets = inputs(torch.float32)
    loss, _ = linear_cross_entropy_reference(hidden, weight, targets)
    loss.backward()
    for low, dhidden, dweight in results:
        assert low.dtype == dhidden.dtype == dweight.dtype == torch.float32
        torch.testing.assert_close(low, loss.detach(), rtol=5e-3, atol=0)
    torch.testing.assert_close(sum(r[1] for r in results), hidden.grad, rtol=0, atol=2e-2)
    torch.testing.assert_close(torch.cat([r[2] for r in results]), weight.grad, rtol=0, atol=5e-2)


def test_chunks_bound_the_logits_of_a_rank():
    columns = 25_152
    for device in ("cpu", "cuda"):
        rows = chunk_rows(10**6, columns, torch.device(device))
        assert 4 * columns * rows <= 256 * 2**20 and rows >= 64
    assert chunk_rows(3, 10**9, torch.device("cpu")) == 1
