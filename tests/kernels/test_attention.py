"""Attention without CUDA: PyTorch's operator compared with the textbook formula; error messages."""

from importlib import import_module

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import lmfast_kernels

module = import_module("lmfast_kernels.attention")


def operands(batch, heads, kv_heads, seq_q, seq_k, head_dim):
    q = torch.randn(batch, heads, seq_q, head_dim, requires_grad=True)
    k, v = (torch.randn(batch, kv_heads, seq_k, head_dim, requires_grad=True) for _ in range(2))
    return q, k, v


@pytest.mark.parametrize(
    "shape", [(2, 4, 4, 9, 9, 8), (1, 6, 2, 5, 12, 8), (1, 2, 1, 9, 4, 8), (1, 1, 1, 1, 1, 4)]
)
@pytest.mark.parametrize("causal", [True, False])
def test_agrees_with_the_textbook(shape, causal):
    q, k, v = operands(*shape)
    got, (want, _) = lmfast_kernels.attention(q, k, v, causal), module.attention_reference(q, k, v, causal)
    torch.testing.assert_close(got, want)
    upstream = torch.randn_like(got)
    for a, b in zip(
        torch.autograd.grad(got, (q, k, v), upstream), torch.autograd.grad(want, (q, k, v), upstream)
    ):
        torch.testing.assert_close(a, b)


def test_suffix_alignment():
    """The last queries of a longer sequence give the last rows of the result."""
    q, k, v = operands(1, 2, 2, 9, 9, 8)
    torch.testing.assert_close(
        lmfast_kernels.attention(q[:, :, 6:], k, v), lmfast_kernels.attention(q, k, v)[:, :, 6:]
    )


def test_documents_equal_separate_attention():
    q, k, v = operands(1, 2, 1, 9, 9, 8)
    ids = torch.tensor([[3, 3, 3, 3, 1, 1, 1, 1, 1]])
    got = lmfast_kernels.attention(q, k, v, document_ids=ids)
    for part in (slice(0, 4), slice(4, 9)):
        apart = lmfast_kernels.attention(q[:, :, part], k[:, :, part], v[:, :, part])
        torch.testing.assert_close(got[:, :, part], apart)


def test_a_row_that_sees_nothing_has_zero_output_and_gradients():
    q, k, v = operands(1, 1, 1, 5, 2, 8)
    out = lmfast_kernels.attention(q, k, v)
    grads = torch.autograd.grad(out.sum(), (q, k, v))
    assert not out[:, :, :3].any() and not grads[0][:, :, :3].any()
    assert all(g.isfinite().all() for g in grads)


WINDOWS = [
    ((2, 4, 2, 30, 30, 8), 1),
    ((1, 2, 1, 30, 30, 8), 7),
    ((1, 2, 2, 9, 30, 8), 12),
    ((1, 2, 1, 30, 9, 80), 4),
    ((1, 1, 1, 12, 12, 8), 12),
    ((1, 1, 1, 12, 12, 8), 99),
]


@pytest.mark.parametrize("blocks", [None, 8], ids=["one mask", "blocks"])
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize(
    "shape, window", [*WINDOWS, ((2, 4, 1, 30, 30, 8), None), ((1, 2, 1, 12, 30, 8), None)]
)
def test_windows_and_documents_agree_with_the_textbook(shape, window, documents, blocks, monkeypatch):
    if blocks is not None:
        monkeypatch.setattr(module, "ONE_MASK", 0)
        monkeypatch.setattr(import_module("lmfast_kernels.attention_blocks"), "BLOCK", blocks)
    q, k, v = (x.detach().double().requires_grad_() for x in operands(*shape))
    options = {"window": window}
    if documents and shape[3] == shape[4]:
        options["document_ids"] = torch.randint(0, 3, (shape[0], shape[3])).sort(-1).values
    want, want_lse = module.attention_reference(q, k, v, **options)
    got, lse = lmfast_kernels.attention(q, k, v, **options, return_lse=True)
    torch.testing.assert_close(lmfast_kernels.attention(q, k, v, **options), want)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(lse, want_lse)
    upstream = torch.randn_like(want)
    wanted = torch.autograd.grad(want, (q, k, v), upstream)
    torch.testing.assert_close(torch.autograd.grad(got, (q, k, v), upstream), wanted)


def test_a_window_of_documents_in_any_order(monkeypatch):
    monkeypatch.setattr(module, "ONE_MASK", 0)
    monkeypatch.setattr(import_module("lmfast_kernels.attention_blocks"), "BLOCK", 8)
    q, k, v = operands(2, 2, 1, 30, 30, 8)
    for ids in (torch.randint(0, 3, (2, 30)), torch.rand(2, 30) < 0.5):
        for causal, window in ((True, 5), (True, None), (False, None)):
            options = {"document_ids": ids, "causal": causal, "window": window}
            torch.testing.assert_close(
                lmfast_kernels.attention(q, k, v, **options),
                module.attention_reference(q, k, v, **options)[0],
            )


class Largest(TorchDispatchMode):
    """Records the largest number of elements of an operator's result, and the operators' names."""

    def __init__(self):
        super().__init__()
        self.elements, self.names = 0, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.names.add(str(function))
        for x in torch.utils._pytree.tree_leaves(result):
            if isinstance(x, torch.Tensor):
                self.elements = max(self.elements, x.numel())
        return result


@pytest.mark.parametrize(
    "ids, window, most",
    [(None, 100, 128 * (128 + 100)), (torch.arange(2048)[None] // 700, 0, 128 * 828), (None, 0, 128 * 2048)],
)
def test_no_tensor_is_as_large_as_all_scores(ids, window, most):
    blocks = import_module("lmfast_kernels.attention_blocks")
    q, k, v = operands(1, 1, 1, 2048, 2048, 8)
    with Largest() as seen:
        options = {"document_ids": ids, "window": window or None}
        out, _ = lmfast_kernels.attention(q, k, v, return_lse=True, **options)
        out.sum().backward()
    assert {"lmfast.attention_blocks.default", "lmfast.attention_blocks_backward.default"} <= seen.names
    with torch.no_grad(), Largest() as seen:  # of the operators' bodies, which a mode does not see otherwise
        out, lse = blocks.attention_blocks._init_fn(q, k, v, ids, True, 0.3, window)
        blocks._backward._init_fn(out, q, k, v, out, lse, ids, True, 0.3, window)
    assert most / 2 < seen.elements <= most < 2048 * 2048 / 8


def test_blocks_opcheck_and_compile():
    blocks = import_module("lmfast_kernels.attention_blocks").attention_blocks
    q, k, v = (x.detach().double().requires_grad_() for x in operands(1, 4, 2, 5, 5, 4))
    ids = torch.tensor([[0, 0, 1, 1, 1]])
    for arguments in ((q, k, v, None, True, 0.5, 2), (q, k, v, ids, False, 0.5, 0)):
        torch.library.opcheck(blocks, arguments, atol=1e-9, rtol=1e-9)
        assert torch.autograd.gradcheck(lambda *a, rest=arguments[3:]: blocks(*a, *rest)[0], (q, k, v))
    q, k, v = operands(1, 2, 1, 600, 600, 8)
    compiled = torch.compile(
        lambda *a: lmfast_kernels.attention(*a, window=30), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(q, k, v), lmfast_kernels.attention(q, k, v, window=30))


def test_lse():
    q, k, v = operands(1, 2, 1, 4, 6, 8)
    out, lse = lmfast_kernels.attention(q, k, v, causal=False, return_lse=True)
    scores = (q @ k.transpose(-1, -2)) * 8**-0.5
    torch.testing.assert_close(lse, scores.logsumexp(-1).detach())
    torch.testing.assert_close(out, lmfast_kernels.attention(q, k, v, causal=False))


def test_autocast_casts():
    q, k, v = operands(1, 2, 1, 4, 4, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert lmfast_kernels.attention(q, k.bfloat16(), v).dtype == torch.bfloat16


def test_exact_float32_on_wide_heads_goes_to_pytorch():
    before = torch.get_float32_matmul_precision()
    try:
        for precision, wide in (("highest", True), ("high", False)):
            torch.set_float32_matmul_precision(precision)
            assert module._too_wide_for_exact(torch.zeros(1, 1, 1, 128)) is wide
            assert not module._too_wide_for_exact(torch.zeros(1, 1, 1, 64))
            assert not module._too_wide_for_exact(torch.zeros(1, 1, 1, 128, dtype=torch.bfloat16))
    finally:
        torch.set_float32_matmul_precision(before)


HALF = {"dtype": torch.bfloat16}
REFUSED_BY_CUDNN = [
    ((1, 2, 4, 64), (1, 2, 4, 64), {}, {}),  # float32
    ((1, 2, 4, 256), (1, 2, 4, 256), HALF, {}),
    ((1, 2, 4, 60), (1, 2, 4, 60), HALF, {}),
    ((1, 2, 4, 64), (1, 2, 5, 64), HALF, {}),
    ((1, 2, 1, 64), (1, 2, 1, 64), HALF, {}),
    ((0, 2, 4, 64), (0, 2, 4, 64), HALF, {}),
    ((1, 2, 4, 64), (1, 2, 4, 64), HALF, {"document_ids": torch.zeros(1, 4).long()}),
    ((1, 2, 4, 64), (1, 2, 4, 64), HALF, {"return_lse": True}),
    ((1, 2, 4, 64), (1, 2, 4, 64), HALF, {"window": 3}),
]


@pytest.fixture
def implementations(monkeypatch):
    """Simulates a GPU; a list of the implementations that calls of attention used."""
    ran = []

    def stand_in(name):
        def run(q, *_):
            ran.append(name)
            return (q, q) if name == "triton" else q

        return run

    monkeypatch.setattr(module, "triton_runs", lambda q: True)
    for name, function in (
        ("triton", "attention_forward"),
        ("cudnn", "attention_cudnn"),
        ("torch", "attention_sdpa"),
    ):
        monkeypatch.setattr(module, function, stand_in(name))
    return ran


@pytest.mark.parametrize("wanted", ["triton", "torch", "cudnn"])
def test_the_choice_applies_to_calls_that_all_support(wanted, implementations, monkeypatch):
    monkeypatch.setattr(module, "attention_choice", lambda q: wanted)
    for shape in ((2, 4, 9, 64), (1, 3, 2, 128), (1, 1, 5, 80)):
        lmfast_kernels.attention(*[torch.zeros(shape, **HALF)] * 3)
        lmfast_kernels.attention(*[torch.zeros(shape, **HALF)] * 3, causal=False)
    lmfast_kernels.attention(torch.zeros(1, 4, 9, 64, **HALF), *[torch.zeros(1, 2, 9, 64, **HALF)] * 2)
    assert set(implementations) == {wanted}


@pytest.mark.parametrize("wanted", ["torch", "cudnn"])
@pytest.mark.parametrize("q, k, dtype, options", REFUSED_BY_CUDNN)
def test_our_kernels_run_calls_that_others_reject_or_mask(
    q, k, dtype, options, wanted, implementations, monkeypatch
):
    monkeypatch.setattr(module, "attention_choice", lambda q: wanted)
    lmfast_kernels.attention(
        torch.zeros(q, **dtype), torch.zeros(k, **dtype), torch.zeros(k, **dtype), **options
    )
    assert implementations == ["triton"]


def test_cudnn_computes_statistics_only_for_a_backward(monkeypatch):
    calls = []
    monkeypatch.setattr(
        torch.ops.aten, "_scaled_dot_product_cudnn_attention", lambda *a, **o: calls.append((*a[3:], o)) or a
    )
    q = torch.zeros(1, 1, 2, 8, requires_grad=True)
    module.attention_cudnn(q, q, q, True, 0.5)
    module.attention_cudnn(q.detach(), q.detach(), q.detach(), False, 0.5)
    with torch.no_grad():
        module.attention_cudnn(q, q, q, True, 0.5)
    assert calls == [
        (None, trains, 0.0, causal, False, {"scale": 0.5})
        for trains, causal in ((True, True), (False, False), (False, True))
    ]


def test_compiles_to_plain_operations(assert_plain):
    q, k, v = (x.detach() for x in operands(2, 4, 2, 6, 6, 8))
    assert_plain(lmfast_kernels.attention, q, k, v)
    assert_plain(lambda *a: lmfast_kernels.attention(*a, document_ids=torch.zeros(2, 6).long()), q, k, v)


@pytest.mark.parametrize(
    "q, k, options, message",
    [
        ((1, 3, 4, 8), (1, 2, 4, 8), {}, "3 heads are not a multiple of 2 kv heads"),
        ((1, 2, 4, 8), (1, 2, 4, 9), {}, "must have batch and head_dim"),
        ((1, 1, 4, 257), (1, 1, 4, 257), {}, "head_dim 257 is outside 1 to 256"),
        (
            (1, 2, 4, 8),
            (1, 2, 4, 8),
            {"document_ids": torch.zeros(1, 5).long()},
            r"must be \(batch, seq\) = \(1, 4\)",
        ),
        ((1, 2, 4, 8), (1, 2, 5, 8), {"document_ids": torch.zeros(1, 4).long()}, "q and k of one length"),
        ((1, 2, 4, 8), (1, 2, 4, 8), {"document_ids": torch.zeros(1, 4)}, "must be integers"),
        ((1, 2, 4, 8), (1, 2, 4, 8), {"window": 0}, "window 0 must be at least 1"),
        ((1, 2, 4, 8), (1, 2, 4, 8), {"window": 3, "causal": False}, "with causal=True"),
        ((1, 2, 4, 8), (1, 2, 4, 8), {"scale": -1.0}, "scale -1.0 must be positive"),
        ((2, 4, 8), (2, 4, 8), {}, r"must be \(batch, heads, seq, head_dim\)"),
    ],
)
def test_rejects(q, k, options, message):
    with pytest.raises(ValueError, match=message):
        lmfast_kernels.attention(torch.zeros(q), torch.zeros(k), torch.zeros(k), **options)


def test_rejects_mixed_dtypes():
    with pytest.raises(ValueError, match="give them one dtype"):
        lmfast_kernels.attention(
            *(torch.zeros(1, 1, 2, 8).to(d) for d in (torch.float32, torch.half, torch.half))
        )
