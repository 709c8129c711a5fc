"""Checks the results of every operator on this device: bf16 compared with float32, and tensors above 2³¹ elements.

Above 2³¹ elements an index that overflows 32 bits would read or write the wrong element, so the last rows of a huge
call are compared bitwise with the same rows computed alone. Each such check needs tens of gigabytes and is skipped, with
the reason, on a device with less.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F

import lmfast_kernels
from lmfast_kernels import backend
from lmfast_kernels.check_report import Report, compare, difference


@dataclass(frozen=True)
class Sizes:
    """Sizes of the checks; the defaults are real sizes, tests use small ones."""

    rows: int = 4096
    width: int = 4096
    seq: int = 2048
    head_dims: tuple[int, ...] = (64, 128, 80)
    lengths: tuple[tuple[int, int], ...] = ((1, 1), (113, 203), (239, 239), (799, 1023))
    decode: tuple[tuple[int, int, int], ...] = ((1, 12, 12), (3, 32, 8), (32, 8, 8))  # batch, heads, kv heads
    linear: tuple[tuple[int, int], ...] = (
        (768, 2304),
        (2560, 768),
        (768, 5120),
        (768, 50304),
        (5003, 1031),
    )  # K, N
    vocab: int = 50304
    huge: int = 2**31 + 2**16  # elements; 0 skips those checks


def _huge(
    report: Report,
    operator: str,
    sizes: Sizes,
    width: int,
    function: Callable[..., Any],
    inputs: int,
    tensors: int,
    slack: float = 0.0,
) -> None:
    """Compares the last 8 rows of each result of function(`inputs` tensors (rows, width)) with those computed alone.

    `tensors`: the number of such tensors that are live at once. The rows must be bitwise equal, or within `slack` of the
    largest value if a library's product or the number of splits may depend on the shape.
    """
    if not sizes.huge:
        return
    what = f"{sizes.huge:,} elements"
    rows = -(-sizes.huge // width)
    on_cuda = report.device.type == "cuda"
    if on_cuda:
        torch.cuda.empty_cache()
        free, needed = torch.cuda.mem_get_info(report.device)[0], 2 * tensors * rows * width
        if free < needed * 1.05:
            reason = f"needs {needed / 2**30:.0f} GiB, {free / 2**30:.0f} GiB are free"
            report.skip(operator, what, reason)
            return
    drawn = [
        torch.empty(rows, width, dtype=report.dtype, device=report.device).normal_() for _ in range(inputs)
    ]
    alone = [x.detach() for x in function(*(x[-8:].clone() for x in drawn))]
    whole = [x[-8:].detach().clone() for x in function(*drawn)]
    for i, (a, b) in enumerate(zip(whole, alone, strict=True)):
        report.check(operator, f"{what}, result {i}", difference(a, b), slack * b.abs().max().item())
    del drawn
    if on_cuda:
        torch.cuda.empty_cache()


def rms_norm(report: Report, sizes: Sizes) -> None:
    reference = import_module("lmfast_kernels.rms_norm").rms_norm_reference

    def exact(x, weight, residual=None):
        return reference(x, weight, 1e-5, residual)

    def ours(x, weight, residual=None):
        return lmfast_kernels.rms_norm(x, weight, 1e-5, residual)

    def theirs(x, weight, residual=None):
        s = x if residual is None else x + residual
        y = F.rms_norm(s, weight.shape, weight, 1e-5)
        return y if residual is None else (y, s)

    for width in (sizes.width, sizes.width - 37, 64, 5 * sizes.width):
        for residual in (False, True):
            inputs = [report.randn(sizes.rows, width), report.randn(width)]
            inputs += [report.randn(sizes.rows, width)] if residual else []
            upstream = [report.randn(sizes.rows, width, grad=False) for _ in range(1 + residual)]
            what = f"({sizes.rows}, {width}){' + residual' if residual else ''}"
            compare(report, "rms_norm", what, ours, theirs, exact, inputs, upstream)
    weight = torch.ones(sizes.width, device=report.device)

    def both(x, dy):
        x.requires_grad_()
        y = lmfast_kernels.rms_norm(x, weight)
        return y, *torch.autograd.grad(y, x, dy)

    _huge(report, "rms_norm", sizes, sizes.width, both, inputs=2, tensors=5)


def swiglu(report: Report, sizes: Sizes) -> None:
    reference = import_module("lmfast_kernels.swiglu").swiglu_reference

    def halves(function):
        return lambda fused: function(*fused.chunk(2, -1))

    for width in (sizes.width, sizes.width // 4 * 3, sizes.width - 37):
        inputs = [report.randn(sizes.rows, 2 * width)]
        upstream = [report.randn(sizes.rows, width, grad=False)]
        theirs = halves(lambda gate, up: F.silu(gate) * up)
        what = f"halves of ({sizes.rows}, {2 * width})"
        compare(
            report, "swiglu", what, halves(lmfast_kernels.swiglu), theirs, halves(reference), inputs, upstream
        )

    def both(gate, up):
        out = lmfast_kernels.swiglu(gate.requires_grad_(), up.requires_grad_())
        return out, *torch.autograd.grad(out, (gate, up), gate.detach())

    _huge(report, "swiglu", sizes, sizes.width, both, inputs=2, tensors=6)


def rope(report: Report, sizes: Sizes) -> None:
    reference = import_module("lmfast_kernels.rope").rope_reference
    for head_dim in sizes.head_dims:
        angles = torch.rand(sizes.seq + 8, head_dim // 2, device=report.device) * 6.28
        table = angles.cos(), angles.sin()
        q = (
            torch.randn(2, sizes.seq, 12, head_dim, device=report.device)
            .to(report.dtype)
            .transpose(1, 2)
            .requires_grad_()
        )
        k = report.randn(2, 4, sizes.seq, head_dim)
        upstream = [torch.randn_like(q), torch.randn_like(k)]
        for positions in (None, torch.randint(0, sizes.seq, (2, sizes.seq), device=report.device)):
            what = f"head_dim {head_dim}{'' if positions is None else ', positions'}"

            def turn(function, table=table, positions=positions):
                return lambda a, b: function(a, b, *table, positions)

            peer = turn(reference)
            compare(report, "rope", what, turn(lmfast_kernels.rope), peer, peer, [q, k], upstream)
    angles = torch.rand(8, 32, device=report.device)

    def heads(x, y):  # (rows, 512) as (rows, 1 head, 8 positions, 64)
        turned = lmfast_kernels.rope(x.view(-1, 1, 8, 64), y.view(-1, 1, 8, 64), angles.cos(), angles.sin())
        return tuple(t.reshape(x.shape) for t in turned)

    _huge(report, "rope", sizes, 512, heads, inputs=2, tensors=5)


def attention(report: Report, sizes: Sizes) -> None:
    """This package's kernels at every size, and cuDNN's, if dispatch prefers it, at training sizes."""
    with backend.use_choice("attention", "triton"):
        _attention_kernels(report, sizes)
    if report.device.type != "cuda" or not backend.cudnn_attention_preferred():
        return
    reference = import_module("lmfast_kernels.attention").attention_reference
    for head_dim in (64, 128):
        for kv_heads in (8, 2):
            shapes = [(2, heads, sizes.seq, head_dim) for heads in (8, kv_heads, kv_heads)]
            inputs = [report.randn(*shape) for shape in shapes]
            with backend.use_choice("attention", "cudnn"):
                compare(
                    report,
                    "attention",
                    f"cuDNN, head_dim {head_dim}, 8/{kv_heads} heads, {sizes.seq} × {sizes.seq}",
                    lmfast_kernels.attention,
                    lambda q, k, v: reference(q, k, v)[0],
                    lambda q, k, v: reference(q, k, v)[0],
                    inputs,
                    [report.randn(*shapes[0], grad=False)],
                    1.0,
                    repeats=False,  # its backward sums dq in any order
                )


def _attention_kernels(report: Report, sizes: Sizes) -> None:
    reference = import_module("lmfast_kernels.attention").attention_reference

    def attend(function, **options):
        return lambda q, k, v: function(q, k, v, **options)

    def exact(**options):
        return lambda q, k, v: reference(q, k, v, **options)[0]

    plain = {"causal": True, "scale": None, "document_ids": None}
    sdpa = import_module("lmfast_kernels.attention").attention_sdpa

    def one(head_dim: int, heads: int, kv_heads: int, seq_q: int, seq_k: int, **options) -> None:
        q = torch.randn(2, seq_q, heads, head_dim, device=report.device).to(report.dtype)
        q = q.transpose(1, 2).requires_grad_()
        inputs = [
            q,
            report.randn(2, kv_heads, seq_k, head_dim),
            report.randn(2, kv_heads, seq_k, head_dim),
        ]
        upstream = [torch.randn_like(q)]
        named = ", ".join(f"{k}" if k == "document_ids" else f"{k}={v}" for k, v in options.items())
        what = (
            f"head_dim {head_dim}, {heads}/{kv_heads} heads, {seq_q} × {seq_k}{', ' if named else ''}{named}"
        )
        ours, peer = attend(lmfast_kernels.attention, **options), attend(sdpa, **plain | options)
        compare(report, "attention", what, ours, peer, exact(**options), inputs, upstream, 1.0)

    for head_dim in sizes.head_dims:
        one(head_dim, 8, 8, sizes.seq, sizes.seq)
        one(head_dim, 8, 2, sizes.seq, sizes.seq)
    for seq_q, seq_k in sizes.lengths:
        one(64, 4, 1, seq_q, seq_k)
        one(128, 4, 4, seq_q, seq_k, causal=False)
    ids = torch.randint(0, 6, (2, sizes.seq), device=report.device).sort(-1).values
    one(64, 4, 2, sizes.seq, sizes.seq, document_ids=ids)
    one(128, 4, 4, sizes.seq, sizes.seq, document_ids=ids)

    def blocks(x, dout):  # (rows, 2048) as (rows, 1 head, 32 positions, 64)
        shape = (-1, 1, 32, 64)
        q = x.view(shape).requires_grad_()
        out = lmfast_kernels.attention(q, q, q)
        return tuple(t.reshape(x.shape) for t in (out, *torch.autograd.grad(out, q, dout.view(shape))))

    _huge(report, "attention", sizes, 2048, blocks, inputs=2, tensors=10)


def decode_attention(report: Report, sizes: Sizes) -> None:
    reference = import_module("lmfast_kernels.decode_attention").decode_attention_reference
    ours = lmfast_kernels.decode_attention
    for head_dim in sizes.head_dims:
        for batch, heads, kv_heads in sizes.decode:
            q = report.randn(batch, heads, head_dim, grad=False)
            cache = [report.randn(batch, kv_heads, sizes.seq, head_dim, grad=False) for _ in range(2)]
            lengths = torch.randint(1, sizes.seq + 1, (batch,), device=report.device, dtype=torch.int32)
            what = f"head_dim {head_dim}, batch {batch}, {heads}/{kv_heads} heads"
            compare(report, "decode_attention", what, ours, reference, reference, [q, *cache, lengths])

    def caches(k, v):  # (rows, 4096) as (rows, 1 head, 64 positions, 64)
        k, v = k.view(-1, 1, 64, 64), v.view(-1, 1, 64, 64)
        lengths = torch.full((k.shape[0],), 61, device=k.device)
        return (lmfast_kernels.decode_attention(k[:, :, 5].contiguous(), k, v, lengths),)

    _huge(report, "decode_attention", sizes, 4096, caches, inputs=2, tensors=3, slack=2**-7)


def decode_linear(report: Report, sizes: Sizes) -> None:
    """The three products of decoding, with sums in float32, for 1, 2 and 4 rows, compared with the operators."""
    rms_norm_reference = import_module("lmfast_kernels.rms_norm").rms_norm_reference
    swiglu_reference = import_module("lmfast_kernels.swiglu").swiglu_reference

    def ours(x, norm, weight, residual, both):
        normed = lmfast_kernels.decode_norm_linear(x, norm, weight, 1e-5, residual)
        alone, _ = lmfast_kernels.decode_norm_linear(x, norm, weight)
        return (
            *normed,
            alone,
            lmfast_kernels.decode_linear(x, weight),
            lmfast_kernels.decode_swiglu_linear(both, weight),
        )

    def reference(x, norm, weight, residual, both):
        y, s = rms_norm_reference(x, norm, 1e-5, residual)
        inputs = rms_norm_reference(x, norm, 1e-5), x, swiglu_reference(*both.chunk(2, -1))
        return y @ weight.t(), s, *(each @ weight.t() for each in inputs)

    for k, n in sizes.linear:
        for rows in (1, 2, 4):
            shapes = (rows, 1, k), (k,), (n, k), (rows, 1, k), (rows, 1, 2 * k)
            x, norm, weight, residual, both = (report.randn(*shape, grad=False) for shape in shapes)
            what = f"{rows} × {k} × {n}"
            inputs = [x, norm.float(), weight * k**-0.5, residual, both]
            compare(report, "decode_linear", what, ours, reference, reference, inputs)
    x = report.randn(1, 1024, grad=False)

    def columns(weight):  # (rows, 1024): one value of the result per row of the weight
        return (lmfast_kernels.decode_linear(x, weight).t(),)

    _huge(report, "decode_linear", sizes, 1024, columns, inputs=1, tensors=2, slack=2**-7)


def linear_cross_entropy(report: Report, sizes: Sizes) -> None:
    reference = import_module("lmfast_kernels.linear_cross_entropy").linear_cross_entropy_reference
    targets = torch.randint(0, sizes.vocab, (sizes.rows,), device=report.device)
    targets[::7] = -100

    def mean(function, options):
        def loss(h, w):
            total, count = function(h, w, targets, **options)
            return total / count

        return loss

    for options in ({}, {"softcap": 15.0, "z_loss": 1e-4}):
        hidden, weight = report.randn(sizes.rows, 768), report.randn(sizes.vocab, 768)
        weight.data *= 0.05
        what = f"{sizes.rows} × 768 × {sizes.vocab}{', softcap, z-loss' if options else ''}"
        ours, peer = mean(lmfast_kernels.linear_cross_entropy, options), mean(reference, options)
        upstream = [torch.ones((), device=report.device)]
        compare(report, "linear_cross_entropy", what, ours, peer, peer, [hidden, weight], upstream)
    weight = report.randn(64, 1024, grad=False)

    def gradient(hidden):
        hidden.requires_grad_()
        labels = torch.arange(-hidden.shape[0], 0, device=hidden.device) % 64
        loss, _ = lmfast_kernels.linear_cross_entropy(hidden, weight, labels)
        return torch.autograd.grad(loss, hidden)

    _huge(report, "linear_cross_entropy", sizes, 1024, gradient, inputs=1, tensors=4, slack=2**-6)


def grouped_linear(report: Report, sizes: Sizes) -> None:
    """Groups of uneven sizes, one of them empty; the second pair of sizes is not aligned for torch._grouped_mm."""
    module = import_module("lmfast_kernels.grouped_linear")

    def with_ends(function: Callable[..., Any], ends: torch.Tensor) -> Callable[..., Any]:
        return lambda x, weight: function(x, weight, ends)

    for k, n in ((sizes.width // 8, sizes.width // 4), (sizes.width // 4 - 3, sizes.width // 8 + 1)):
        for _ in range(2):  # different sizes of the groups
            cuts = torch.randint(0, sizes.rows + 1, (7,), device=report.device).sort().values
            cuts[1] = cuts[0]
            ends = F.pad(cuts, (0, 1), value=sizes.rows).int()
            inputs = [report.randn(sizes.rows, k), report.randn(8, n, k)]
            exact, what = with_ends(module.grouped_linear_reference, ends), f"{sizes.rows} × {k} × {n}"
            upstream = [report.randn(sizes.rows, n, grad=False)]
            ours = with_ends(lmfast_kernels.grouped_linear, ends)
            compare(report, "grouped_linear", what, ours, exact, exact, inputs, upstream)
            captured, plain = with_ends(module.masked_products, ends), [x.detach() for x in inputs]
            compare(report, "grouped_linear", f"{what}, as captured", captured, exact, exact, plain)
    weight = report.randn(2, 64, 4096, grad=False)

    def all_in_the_second(x):
        return (lmfast_kernels.grouped_linear(x, weight, torch.tensor([0, len(x)], device=x.device).int()),)

    _huge(report, "grouped_linear", sizes, 4096, all_in_the_second, inputs=1, tensors=2, slack=2**-7)


CHECKS: dict[str, Callable[[Report, Sizes], None]] = {
    "attention": attention,
    "linear_cross_entropy": linear_cross_entropy,
    "decode_attention": decode_attention,
    "decode_linear": decode_linear,
    "rms_norm": rms_norm,
    "swiglu": swiglu,
    "rope": rope,
    "grouped_linear": grouped_linear,
}
