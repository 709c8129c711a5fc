"""The RMSNorm kernels compared with float64: narrow and wide rows, strided rows, values and gradients."""

from importlib import import_module

import pytest
import torch

import lmfast_kernels
from lmfast_kernels.tuning import use_config
from tests.kernels.interpreted.conftest import assert_agrees, assert_compiles

module = import_module("lmfast_kernels.rms_norm")
NARROW = ("_rms_norm_forward_kernel", "_rms_norm_backward_kernel", "_sum_rows_kernel")


def operands(shape, dtype, residual=None, weight_dtype=None):
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    weight = torch.randn(shape[-1], dtype=weight_dtype or dtype, requires_grad=True)
    inputs = [x, weight]
    if residual is not None:
        inputs.append(torch.randn(shape, dtype=residual, requires_grad=True))
    return inputs, [torch.randn(shape, dtype=dtype) for _ in inputs[1:]]


def ours(x, weight, residual=None):
    return lmfast_kernels.rms_norm(x, weight, 1e-5, residual)


def theirs(x, weight, residual=None):
    return module.rms_norm_reference(x, weight, 1e-5, residual)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1), (1, 48), (37, 48), (2, 3, 130), (70, 1000), (130, 7)])
@pytest.mark.parametrize("with_residual", [False, True])
def test_agrees(dtype, shape, with_residual, launched):
    inputs, upstream = operands(shape, dtype, dtype if with_residual else None)
    assert_agrees(ours, theirs, inputs, upstream)
    launched(*NARROW)


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize(
    "shape", [(3, 17000), (70, 8200)]
)  # 70 rows: more tiles than a narrow row's programs
def test_wide_rows(shape, with_residual, launched):
    inputs, upstream = operands(shape, torch.float32, torch.float32 if with_residual else None)
    assert_agrees(ours, theirs, inputs, upstream)
    launched("_rms_norm_forward_kernel", "_rms_norm_backward_wide_kernel", "_sum_rows_kernel")


def test_many_partial_rows_of_dweight(mutate):
    """More partial rows than one tile of the kernel that sums them (256), and a partial last tile."""
    inputs, upstream = operands((270, 12), torch.float32)
    with use_config("rms_norm_backward", ROWS=1, PER_SM=75):
        assert_agrees(ours, theirs, inputs, upstream)
        mutate(module, "_sum_rows_kernel", "total += tl.load", "total = tl.load")
        with pytest.raises(AssertionError, match="off by"):
            assert_agrees(ours, theirs, inputs, upstream)


@pytest.mark.parametrize("candidate", module.NARROW_BACKWARD_CANDIDATES + module.BACKWARD_CANDIDATES)
def test_candidates_of_a_sweep(candidate):
    inputs, upstream = operands((70, 100), torch.float32, torch.float32)
    with use_config("rms_norm_backward", **candidate):
        assert_agrees(ours, theirs, inputs, upstream)


def test_half_stream_into_float_residual():
    inputs, upstream = operands((5, 48), torch.float16, torch.float32, weight_dtype=torch.float32)
    assert_agrees(ours, theirs, inputs, upstream)


def test_bfloat16_rounds_like_the_reference():
    x, weight = torch.randn(6, 96, dtype=torch.bfloat16), torch.randn(96)
    got, want = ours(x, weight).double(), theirs(x.double(), weight.double())
    torch.testing.assert_close(
        got, want, rtol=2**-7, atol=1e-3
    )  # the interpreter truncates instead of rounding


def test_strided_rows_and_expanded_gradients():
    base = torch.randn(4, 3, 2 * 40, requires_grad=True)
    weight = torch.randn(40, requires_grad=True)
    assert_agrees(
        lambda b, w: ours(b[..., 40:], w).sum(),
        lambda b, w: theirs(b[..., 40:], w).sum(),
        [base, weight],
        [torch.ones(())],
    )
    column = torch.randn(40, 6, requires_grad=True)  # last dimension not dense
    assert_agrees(
        lambda c, w: ours(c.t(), w), lambda c, w: theirs(c.t(), w), [column, weight], [torch.randn(6, 40)]
    )


def heads(qkv, first, count):
    """The queries or keys of a fused projection (batch, seq, 5 · 24): (batch, seq, count, 24) with gaps between rows."""
    return qkv.view(2, 7, 5, 24)[:, :, first : first + count]


def test_heads_of_a_fused_projection():
    qkv, weight = torch.randn(2, 7, 5 * 24, requires_grad=True), torch.randn(24, requires_grad=True)
    upstream = torch.randn(2, 3, 7, 24).transpose(1, 2)  # as from attention, batch and heads outermost
    for first, count in ((0, 3), (3, 2)):
        assert_agrees(
            lambda x, w, f=first, n=count: ours(heads(x, f, n), w),
            lambda x, w, f=first, n=count: theirs(heads(x, f, n), w),
            [qkv, weight],
            [upstream[:, :, :count]],
        )
    wide = torch.randn(2, 7, 5 * 24)
    assert_agrees(  # residual and both upstream gradients with gaps
        lambda x, w, r: ours(heads(x, 0, 3), w, heads(r, 2, 3)),
        lambda x, w, r: theirs(heads(x, 0, 3), w, heads(r, 2, 3)),
        [qkv, weight, torch.randn(2, 7, 5 * 24, requires_grad=True)],
        [heads(wide, 1, 3), heads(wide, 2, 3)],
    )


@pytest.mark.parametrize(
    "make, copies",
    [
        (lambda x: x, False),
        (lambda x: heads(x, 0, 3), False),
        (lambda x: heads(x, 3, 1), False),
        (lambda x: heads(x, 1, 3)[1], False),
        (lambda x: x[:, 2:5, :24], False),
        (lambda x: x[0, 0, :24].expand(3, 2, 24), False),
        (lambda x: x[0, 3, 24:], False),
        (lambda x: heads(x, 0, 3).transpose(1, 2), True),  # three levels of strides
        (lambda x: x.transpose(1, 2), True),
        (lambda x: x[0, 0, :1].expand(4, 24), True),
    ],
)
def test_row_layout_avoids_copies_with_two_strides(make, copies):
    x = make(torch.randn(2, 7, 5 * 24))
    base, outer, inner, count = module.row_layout(x)
    assert (base.data_ptr() != x.data_ptr()) == copies
    N = x.shape[-1]
    rows = x.reshape(-1, N)
    flat = torch.as_strided(base, (base.untyped_storage().size() // 4 - base.storage_offset(),), (1,))
    for r in range(rows.shape[0]):
        start = r // count * outer + r % count * inner
        assert torch.equal(flat[start : start + N], rows[r])


def test_only_one_output_used():
    inputs, upstream = operands((4, 24), torch.float64, torch.float64)
    for place in (0, 1):
        assert_agrees(
            lambda x, w, r, place=place: ours(x, w, r)[place] + 0 * w,
            lambda x, w, r, place=place: theirs(x, w, r)[place] + 0 * w,
            inputs,
            upstream[:1],
        )


def test_no_rows():
    x, weight = torch.randn(0, 8, requires_grad=True), torch.randn(8, requires_grad=True)
    y = ours(x, weight)
    grads = torch.autograd.grad(y.sum(), (x, weight))
    assert y.shape == (0, 8) and torch.equal(grads[1], torch.zeros(8))


def test_gradcheck_and_opcheck():
    inputs, _ = operands((3, 5), torch.float64, torch.float64)
    assert torch.autograd.gradcheck(ours, inputs)
    assert torch.autograd.gradcheck(ours, inputs[:2])
    torch.library.opcheck(module._forward, (inputs[0], inputs[1], inputs[2], 1e-5))
    torch.library.opcheck(module._forward, (inputs[0], inputs[1], None, 1e-5))


def test_compiled_and_repeated():
    inputs, upstream = operands((19, 33), torch.float32, torch.float32)
    assert_compiles(ours, inputs, upstream)


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("_rms_norm_forward_kernel", "squares / N + EPS", "squares / N"),
        ("_rms_norm_backward_kernel", "dx = (dy - normed *", "dx = (dy + normed *"),
        ("_rms_norm_backward_kernel", "dweight += dy * normed", "dweight = dy * normed"),
        ("_rms_norm_backward_kernel", "if HAS_DS:", "if not HAS_DS:"),
        ("_rms_norm_backward_kernel", "tl.range(program,", "tl.range(program + 1,"),
    ],
)
def test_a_broken_kernel_fails(name, old, new, mutate):
    mutate(module, name, old, new)
    inputs, upstream = operands((70, 1000), torch.float32, torch.float32)
    inputs[0].data *= 0.01
    inputs[2].data *= 0.01
    with pytest.raises(AssertionError, match=r"off by|NaN"):
        assert_agrees(ours, theirs, inputs, upstream)
