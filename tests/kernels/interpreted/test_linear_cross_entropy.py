"""The output loss compared with float64: several chunks, ignored tokens, softcap, z-loss, no gradient, autocast."""

from importlib import import_module

import pytest
import torch

import lmfast_kernels
from lmfast_kernels import backend
from lmfast_kernels.tuning import use_config
from tests.kernels.interpreted.conftest import assert_agrees, assert_compiles
from tests.kernels.large_logits import assert_large_logits

module = import_module("lmfast_kernels.linear_cross_entropy")


def operands(rows, width, vocab, dtype=torch.float32):
    hidden = torch.randn(rows, width, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocab, width, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, vocab, (rows,))
    targets[1::4] = -100
    return hidden, weight, targets


def ours(**options):
    return lambda h, w, t: lmfast_kernels.linear_cross_entropy(h, w, t, **options)[0]


def theirs(**options):
    return lambda h, w, t: module.linear_cross_entropy_reference(h, w, t, **options)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", [(7, 16, 33), (5, 8, 5000), (1, 4, 2), (1, 1, 1)])
@pytest.mark.parametrize(
    "options", [{}, {"softcap": 2.0, "z_loss": 0.1}], ids=["plain", "softcap and z-loss"]
)
def test_agrees(dtype, shape, options, launched):
    inputs = operands(*shape, dtype=dtype)
    assert_agrees(ours(**options), theirs(**options), inputs, [torch.tensor(0.5)])
    launched("_loss_kernel")


def test_count_and_chunks(monkeypatch):
    monkeypatch.setattr(module, "LOGITS_BYTES", 3 * 64 * 4)
    inputs = operands(11, 16, 33)
    assert module.rows_per_chunk(11, 64 * 4, 16, 4) == 3
    assert_agrees(ours(), theirs(), inputs, [torch.tensor(2.0)])
    loss, count = lmfast_kernels.linear_cross_entropy(*inputs)
    assert count.dtype == torch.int64 and count.item() == inputs[2].ne(-100).sum()
    assert loss.dtype == torch.float32


@pytest.mark.parametrize(
    "rows, vocab, width, sms, expected",
    [
        (16384, 50304, 768, 132, 2816),  # one wave of 22 × 6 tiles of dhidden
        (65536, 50304, 768, 132, 5632),  # two, because the buffer may hold an eighth of all logits
        (65536, 32000, 768, 132, 5632),
        (16384, 50304, 768, 108, 2304),  # an A100
        (16384, 50304, 4096, 132, 3584),  # seven waves of 28 × 32 tiles, except 3 %
        (100, 50304, 768, 132, 100),
        (16384, 500_000, 768, 132, 1024),  # no wave fits: whole tiles
        (10, 10**9, 768, 132, 1),
        (512, 10**6, 50000, 132, 128),  # one row of tiles is more than two waves
    ],
)
def test_rows_per_chunk(rows, vocab, width, sms, expected):
    assert module.rows_per_chunk(rows, 2 * vocab, width, sms) == expected


def test_buffer_bounds():
    row = 2 * 50304
    assert module.logits_bytes(1, row) == module.logits_bytes(16384, row) == module.LOGITS_BYTES
    assert module.logits_bytes(65536, row) == 65536 * row // 8
    assert module.logits_bytes(10**6, row) == module.LARGEST_LOGITS_BYTES


def test_chunk_rows_of_a_sweep():
    inputs = operands(11, 16, 33)
    before = backend.launches["_loss_kernel"]
    with use_config("loss chunks", ROWS=4):
        assert_agrees(ours(), theirs(), inputs, [torch.tensor(2.0)])
    assert backend.launches["_loss_kernel"] - before == 3


@pytest.mark.parametrize("candidate", module.LOSS_CANDIDATES)
def test_candidates_of_a_sweep(candidate):
    with use_config("loss", **candidate):
        assert_agrees(ours(softcap=3.0), theirs(softcap=3.0), operands(9, 4, 9000), [torch.tensor(2.0)])


@pytest.mark.parametrize(
    "vocab, per_sm, block", [(151936, 1, 8192), (50304, 2, 4096), (32000, 3, 2048), (10048, 4, 2048)]
)
def test_rows_in_flight_fit_l2(vocab, per_sm, block):
    config = module.loss_config(vocab, 2 * vocab, 132)
    assert (config["PER_SM"], config["BLOCK"]) == (per_sm, block)
    assert per_sm == 1 or 132 * per_sm * 2 * vocab <= module.RESIDENT_BYTES
    assert config["maxnreg"] * 32 * config["num_warps"] * per_sm <= 65536


@pytest.mark.parametrize("offset", [100.0, 1e4, -1e4])
@pytest.mark.parametrize("z_loss", [0.0, 0.01])
def test_large_logits_have_accurate_gradients(offset, z_loss):
    assert_large_logits(offset, z_loss)


def test_every_token_ignored():
    hidden, weight, targets = operands(4, 8, 9)
    loss, count = lmfast_kernels.linear_cross_entropy(
        hidden, weight, torch.full_like(targets, 3), ignore_index=3
    )
    grads = torch.autograd.grad(loss, (hidden, weight))
    assert loss.item() == 0 and count.item() == 0 and not any(g.any() for g in grads)


def test_an_ignored_index_within_the_vocabulary():
    hidden, weight, targets = operands(9, 24, 130)
    targets = targets.where(targets != -100, 17)
    options = {"ignore_index": 17, "softcap": 0.5, "z_loss": 1.0}
    assert lmfast_kernels.linear_cross_entropy(hidden, weight, targets, **options)[1] < 9
    assert_agrees(ours(**options), theirs(**options), [hidden, weight, targets], [torch.tensor(0.7)])


@pytest.mark.parametrize("wanted", [(True, False), (False, True)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_strided_operands_and_one_gradient(wanted, dtype):
    hidden, weight, targets = operands(6, 8, 9)
    hidden = hidden.detach().t().contiguous().t().requires_grad_(wanted[0])
    weight = weight.detach()[:1].expand(9, 8).requires_grad_(wanted[1])

    def narrow(h, w, t):
        return ours()(h, w, t.to(dtype))

    assert_agrees(narrow, theirs(), [hidden, weight, targets.clamp(min=0)], [torch.tensor(1.0)])


def test_no_tokens():
    hidden, weight = torch.randn(0, 8, requires_grad=True), torch.randn(9, 8, requires_grad=True)
    loss, count = lmfast_kernels.linear_cross_entropy(hidden, weight, torch.zeros(0, dtype=torch.long))
    grads = torch.autograd.grad(loss, (hidden, weight))
    assert loss.item() == 0 and count.item() == 0 and not grads[1].any()


def test_a_target_outside_the_vocabulary_gives_nan():
    hidden, weight, targets = operands(4, 8, 9)
    targets[0] = 9
    assert lmfast_kernels.linear_cross_entropy(hidden, weight, targets)[0].isnan()


def test_without_gradient():
    inputs = operands(7, 16, 33)
    want = lmfast_kernels.linear_cross_entropy(*inputs)[0].item()
    with torch.no_grad():
        assert lmfast_kernels.linear_cross_entropy(*inputs)[0].item() == want


def test_autocast_keeps_loss_and_dweight_in_float32():
    hidden, weight, targets = operands(7, 16, 33)
    with torch.autocast("cpu", dtype=torch.float16):
        loss, _ = lmfast_kernels.linear_cross_entropy(hidden, weight, targets)
    grads = torch.autograd.grad(loss, (hidden, weight))
    want = theirs()(hidden.double(), weight.double(), targets)
    wanted = torch.autograd.grad(want, (hidden, weight))
    assert loss.dtype == grads[0].dtype == grads[1].dtype == torch.float32
    torch.testing.assert_close(loss.double(), want, rtol=2e-3, atol=2e-3)
    for a, b in zip(grads, wanted):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)


def test_three_dimensional_input_and_gradcheck():
    hidden = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 7, (2, 3))
    assert torch.autograd.gradcheck(
        lambda h, w: ours(softcap=3.0, z_loss=0.1)(h, w, targets), (hidden, weight)
    )


def test_opcheck():
    hidden, weight, targets = operands(3, 4, 5)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    arguments = (hidden, weight, targets, -100, 2.0, 0.1, torch.float32, True)
    torch.library.opcheck(module._loss, arguments, test_utils=checks)


@pytest.mark.parametrize("rows", [6, 0])
def test_gradients_are_dense_in_compiled_code(rows):
    """Inductor compares an operator's strides with its fake's; transposed operands made the compiled step fail."""
    hidden, weight = torch.randn(8, rows).t(), torch.randn(8, 20).t()
    targets = torch.zeros(rows, dtype=torch.int64)
    torch.library.opcheck(
        module._loss, (hidden, weight, targets, -100, None, 0.0, torch.float32, True),
        test_utils=("test_faketensor",),
    )  # fmt: skip


def test_compiled_and_repeated():
    assert_compiles(ours(), operands(9, 8, 33), [torch.tensor(0.5)])


@pytest.mark.parametrize(
    "old, new",
    [
        ("totals * decay + 1.0", "totals + 1.0"),
        ("totals * tl.exp(tops - top)", "totals"),
        ("tl.where(counted, target, -1)", "target"),
        ("rows, programs)", "rows, programs + 1)"),
        ("2.0 * Z_LOSS * lse", "Z_LOSS * lse"),
        ("1.0 - tanh * tanh", "1.0"),
    ],
)
def test_a_broken_kernel_fails(old, new, mutate):
    mutate(module, "_loss_kernel", old, new)
    options = {"softcap": 3.0, "z_loss": 0.1, "ignore_index": 4}
    hidden, weight, targets = operands(9, 8, 5000)
    weight.data[4096:] *= 3  # the largest logit is in the second block
    targets[1::4] = 4
    with use_config("loss", PER_SM=1), pytest.raises(AssertionError, match="off by"):
        assert_agrees(ours(**options), theirs(**options), (hidden, weight, targets), [torch.tensor(1.0)])
