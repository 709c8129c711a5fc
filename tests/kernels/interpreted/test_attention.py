"""The attention kernels compared with float64: partial blocks, grouped heads, documents, rows that see nothing."""

import math
from importlib import import_module

import pytest
import torch

import lmfast_kernels
from lmfast_kernels.attention_tiles import use_tiles
from tests.kernels.interpreted.conftest import assert_agrees, assert_compiles

module = import_module("lmfast_kernels.attention")
forward_module = import_module("lmfast_kernels.attention_forward")
backward_module = import_module("lmfast_kernels.attention_backward")
ALL = ("_attention_forward_kernel", "_attention_dq_kernel", "_attention_dkdv_kernel")


def operands(batch, heads, kv_heads, seq_q, seq_k, head_dim, dtype=torch.float32):
    q = torch.randn(batch, seq_q, heads, head_dim, dtype=dtype).transpose(1, 2).requires_grad_()
    k = torch.randn(batch, kv_heads, seq_k, head_dim, dtype=dtype, requires_grad=True)
    v = torch.randn(batch, seq_k, kv_heads, head_dim, dtype=dtype).transpose(1, 2).requires_grad_()
    return [q, k, v], [torch.randn(q.shape, dtype=dtype)]


def ours(**options):
    return lambda q, k, v: lmfast_kernels.attention(q, k, v, **options)


def theirs(**options):
    return lambda q, k, v: module.attention_reference(q, k, v, **options)[0]


@pytest.fixture(params=[False, True], ids=["tiles as dispatched", "small tiles"])
def tiles(request):
    """Small tiles with unequal sides, so that a short sequence has many blocks."""
    small = {"forward": (16, 32, 4, 2), "dq": (32, 16, 4, 2), "dkdv": (16, 32, 4, 2)}
    with use_tiles(**small if request.param else {}):
        yield


@pytest.mark.parametrize(
    "shape, causal",
    [
        ((1, 2, 2, 1, 1, 16), True),
        ((2, 4, 2, 39, 39, 20), True),
        ((1, 3, 1, 70, 70, 64), True),
        ((1, 2, 1, 64, 96, 32), True),  # whole blocks, aligned at the end
        ((1, 2, 1, 29, 113, 32), True),
        ((1, 2, 1, 29, 113, 32), False),
        ((1, 2, 2, 50, 13, 16), True),  # the first 37 queries see nothing
        ((1, 1, 1, 33, 65, 80), False),
    ],
)
def test_agrees(shape, causal, tiles, launched):
    inputs, upstream = operands(*shape)
    assert_agrees(ours(causal=causal), theirs(causal=causal), inputs, upstream)
    launched(*ALL)


@pytest.mark.parametrize("shape", [(2, 4, 2, 39, 39, 20), (1, 2, 1, 29, 113, 32)])
def test_float16(shape, launched):
    inputs, upstream = operands(*shape, dtype=torch.float16)
    assert_agrees(ours(), theirs(), inputs, upstream)
    launched(*ALL)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("order", ["packed", "any"])
def test_document_ids(causal, order, tiles, launched):
    inputs, upstream = operands(2, 1, 1, 50, 50, 16)
    ids = torch.randint(0, 5, (2, 50)) - 2
    if order == "packed":
        ids = ids.sort(-1).values.int()
    options = {"causal": causal, "document_ids": ids}
    assert_agrees(ours(**options), theirs(**options), inputs, upstream)
    launched(*ALL)


@pytest.mark.parametrize(
    "shape, window",
    [
        ((1, 2, 2, 70, 70, 16), 1),
        ((2, 2, 1, 45, 45, 20), 7),
        ((1, 1, 1, 110, 110, 16), 40),
        ((1, 1, 1, 128, 128, 16), 64),  # whole blocks only
        ((1, 2, 1, 29, 113, 80), 33),
        ((1, 2, 1, 29, 113, 16), 112),  # a single key is outside the window
        ((1, 1, 1, 50, 13, 16), 5),  # the first 37 queries see nothing
        ((1, 2, 2, 20, 20, 16), 20),
        ((1, 2, 2, 20, 20, 16), 1000),
    ],
)
def test_windows(shape, window, tiles, launched):
    inputs, upstream = operands(*shape)
    # with one key a row dout · v and Σ dout · out cancel, exactly in the reference, to their rounding in the kernels
    rounding = 64 * torch.finfo(torch.float32).eps if window == 1 else 0.0
    assert_agrees(ours(window=window), theirs(window=window), inputs, upstream, rounding)
    launched(*ALL)


@pytest.mark.parametrize("window", [1, 20, 64])
@pytest.mark.parametrize("order", ["packed", "any"])
def test_windows_within_documents(window, order, tiles, launched):
    inputs, upstream = operands(2, 1, 1, 90, 90, 16)
    ids = torch.randint(0, 3, (2, 90))
    if order == "packed":
        ids = ids.sort(-1, descending=True).values
    options = {"window": window, "document_ids": ids}
    rounding = 64 * torch.finfo(torch.float32).eps if window == 1 else 0.0
    assert_agrees(ours(**options), theirs(**options), inputs, upstream, rounding)
    launched(*ALL)


def test_long_documents_between_short_ones(tiles):
    """Blocks inside one document are processed without a mask."""
    inputs, upstream = operands(1, 1, 1, 176, 176, 16)
    ids = torch.tensor([0] * 3 + [1] * 128 + [2] * 5 + [3] * 40)[None]
    for causal in (True, False):
        options = {"causal": causal, "document_ids": ids}
        assert_agrees(ours(**options), theirs(**options), inputs, upstream)


@pytest.mark.parametrize("by", ["documents", "window"])
def test_invisible_blocks_are_not_read(by):
    """NaN in them would reach every sum, even with zero weights."""
    (q, k, v), (dout,) = operands(1, 1, 1, 128, 128, 16)
    q, k, v = q.detach(), k.detach(), v.detach()
    ids = torch.arange(128)[None] // 64 if by == "documents" else None
    window = 0 if by == "documents" else 32
    early, late = slice(0, 32), slice(64, 128)
    small = (16, 32, 4, 2)
    with use_tiles(forward=small, dq=small, dkdv=small):
        k[:, :, early] = v[:, :, early] = math.nan
        out, lse = forward_module.attention_forward(q, k, v, ids, True, 0.25, window)
        dq, _, _ = backward_module.attention_backward(dout, q, k, v, out, lse, ids, True, 0.25, window)
        assert out[:, :, late].isfinite().all() and dq[:, :, late].isfinite().all()
        assert out[:, :, early].isnan().all()
        (q, k, v), _ = operands(1, 1, 1, 128, 128, 16)
        q, k, v = q.detach(), k.detach(), v.detach()
        out, lse = forward_module.attention_forward(q, k, v, ids, True, 0.25, window)
        q[:, :, late] = math.nan
        _, dk, dv = backward_module.attention_backward(dout, q, k, v, out, lse, ids, True, 0.25, window)
        assert dk[:, :, early].isfinite().all() and dv[:, :, early].isfinite().all()
        assert dk[:, :, late].isnan().all()


@pytest.mark.parametrize("head_dim", [1, 96, 128, 256])
def test_head_dims(head_dim):
    inputs, upstream = operands(1, 2, 1, 20, 20, head_dim)
    assert_agrees(ours(), theirs(), inputs, upstream)


def test_lse_is_the_natural_logarithm_without_gradient():
    (q, k, v), _ = operands(1, 4, 2, 9, 5, 16)
    out, lse = lmfast_kernels.attention(q, k, v, return_lse=True)
    _, want = module.attention_reference(q, k, v)
    assert lse.dtype == torch.float32 and not lse.requires_grad and out.requires_grad
    torch.testing.assert_close(lse, want)
    assert lse[..., :4].eq(-math.inf).all() and lse[..., 4:].isfinite().all()


def test_scale():
    inputs, upstream = operands(1, 2, 2, 20, 20, 16)
    assert_agrees(ours(scale=0.7), theirs(scale=0.7), inputs, upstream)


def test_large_scores_do_not_overflow():
    inputs, upstream = operands(1, 1, 1, 40, 40, 16)
    inputs[0].data *= 100
    q, k = inputs[0].detach(), inputs[1].detach()
    scores = (q.abs() @ k.abs().transpose(-1, -2)).max().item() * 16**-0.5
    # a score is rounded before its exponential: an error of eps · |q| |k|ᵀ in it is as large a relative one in a weight
    assert_agrees(ours(), theirs(), inputs, upstream, rounding=torch.finfo(torch.float32).eps * scores)


def test_any_strides():
    base = torch.randn(
        2, 7, 3, 3, 16, requires_grad=True
    )  # (batch, seq, q k v, heads, head_dim): one projection

    def apart(attend):
        def function(base):
            q, k, v = (x.transpose(1, 2) for x in base.unbind(2))
            return attend(q, k, v).sum()  # an expanded gradient

        return function

    assert_agrees(apart(ours()), apart(theirs()), [base], [torch.ones(())])
    crossed = torch.randn(1, 2, 16, 9).transpose(-1, -2).requires_grad_()  # last dimension not dense
    assert_agrees(
        lambda x: ours()(x, x, x), lambda x: theirs()(x, x, x), [crossed], [torch.randn(1, 2, 9, 16)]
    )


def test_results_are_stored_by_token():
    """So that the projections before and after attention need no transposing copy."""
    (q, k, v), (upstream,) = operands(2, 4, 2, 9, 9, 16)
    out = lmfast_kernels.attention(q.contiguous(), k, v)
    assert out.transpose(1, 2).is_contiguous()
    assert all(g.transpose(1, 2).is_contiguous() for g in torch.autograd.grad(out, (q, k, v), upstream)[1:])


def test_empty():
    q, k = torch.randn(1, 2, 0, 16, requires_grad=True), torch.randn(1, 2, 5, 16, requires_grad=True)
    out = lmfast_kernels.attention(q, k, k)
    assert out.shape == q.shape
    assert torch.equal(torch.autograd.grad(out.sum(), k)[0], torch.zeros_like(k))


def test_autocast_casts():
    (q, k, v), _ = operands(1, 2, 2, 9, 9, 16)
    with torch.autocast("cpu", dtype=torch.float16):
        out = lmfast_kernels.attention(q.half(), k, v)
    assert out.dtype == torch.float16
    torch.testing.assert_close(out.float(), module.attention_reference(q, k, v)[0], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
def test_gradients_for_some_inputs_only(wanted):
    inputs, upstream = operands(1, 7, 1, 9, 11, 80)  # a group size that is not a power of two
    inputs = [x.detach().requires_grad_(wish) for x, wish in zip(inputs, wanted)]
    assert_agrees(ours(), theirs(), inputs, upstream)


def test_expanded_operands():
    base = torch.randn(1, 1, 1, 16, requires_grad=True)

    def expanded(attend):
        return lambda x: attend(x.expand(2, 4, 9, 16), x.expand(2, 2, 9, 16), x.expand(2, 2, 9, 16))

    assert_agrees(expanded(ours()), expanded(theirs()), [base], [torch.randn(2, 4, 9, 16)])


@pytest.mark.parametrize("causal", [True, False])
def test_no_keys(causal):
    (q, k, v), upstream = operands(1, 2, 1, 4, 0, 16)
    out, lse = lmfast_kernels.attention(q, k, v, causal, return_lse=True)
    grads = torch.autograd.grad(out, (q, k, v), upstream)
    assert not out.any() and not grads[0].any() and lse.eq(-math.inf).all()
    assert grads[1].shape == k.shape


@pytest.mark.parametrize(
    "ids",
    [
        torch.tensor([[True, True, False, False, True, False]]),
        torch.tensor([[2**40, 2**40, -(2**40), -(2**40), 2**40 + 2**32, 0]]),
        torch.tensor([[2**31 - 1] * 3 + [-(2**31)] * 3], dtype=torch.int32),
        torch.tensor([[200, 200, 7, 7, 7, 255]], dtype=torch.uint8),
    ],
    ids=["bool", "beyond 32 bits", "extremes of 32 bits", "bytes"],
)
def test_document_ids_of_any_integers(ids):
    inputs, upstream = operands(2, 2, 1, 6, 6, 16)
    options = {"document_ids": ids.expand(2, 6)}
    assert_agrees(ours(**options), theirs(**options), inputs, upstream)


def test_gradcheck_and_opcheck():
    (q, k, v), _ = operands(1, 2, 1, 3, 4, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(ours(), (q, k, v), fast_mode=True)
    ids = torch.tensor([[0, 0, 1, 1]])
    q4 = torch.randn(1, 2, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ours(document_ids=ids), (q4, k, v), fast_mode=True)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    assert torch.autograd.gradcheck(ours(window=2), (q, k, v), fast_mode=True)
    for arguments in ((q, k, v, None, True, 0.5, 0), (q4, k, v, ids, True, 0.5, 2)):
        torch.library.opcheck(
            forward_module.attention_forward, arguments, test_utils=checks, atol=1e-9, rtol=1e-9
        )


def test_compiled_and_repeated():
    inputs, upstream = operands(1, 4, 2, 33, 33, 16)
    assert_compiles(ours(), inputs, upstream)


@pytest.mark.parametrize(
    "owner, name, old, new",
    [
        (forward_module, "_forward_range", "row_sum * shrink", "row_sum"),
        (forward_module, "visible_scores", "col <= row + offset", "col <= row"),
        (backward_module, "visible_scores", "col <= row + offset", "col < row + offset"),
        (backward_module, "_dq_range", "dweights - delta[:, None]", "dweights"),
        (backward_module, "_dkdv_range", "dweights - delta[None, :]", "dweights"),
        (forward_module, "visible_scores", "col > row + offset - window", "col >= row + offset - window"),
        (forward_module, "key_ranges", "- window + 1, 0)", "- window + 40, 0)"),
        (backward_module, "_query_ranges", "(seq_k - seq_q) + window, stop)", "(seq_k - seq_q), stop)"),
        (
            backward_module,
            "_attention_dkdv_kernel",
            "head = kv_head * group + member",
            "head = kv_head * group",
        ),
    ],
)
def test_a_broken_kernel_fails(owner, name, old, new, mutate):
    mutate(owner, name, old, new)
    inputs, upstream = operands(1, 2, 1, 70, 100, 16)
    options = {"window": 30} if "window" in old else {}
    small = (16, 16, 4, 2)
    with pytest.raises(AssertionError, match=r"off by|NaN"), use_tiles(forward=small, dq=small, dkdv=small):
        assert_agrees(ours(**options), theirs(**options), inputs, upstream)
