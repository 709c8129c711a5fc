"""Times every operator and its peers on this device. The work of a timing is the minimum that the mathematics requires.

Backward times are the difference of two measured medians, forward + backward minus forward, for ours and
for all peers, because a captured graph must contain both. Attention's FLOPs count causal work once:
forward 2·B·H·S²·D, backward 2.5 times that. Peers: PyTorch eager, the same mathematics with Inductor, and Liger
if it is installed.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import lmfast_kernels
from lmfast_kernels import backend
from lmfast_kernels.check_report import Report, time_ms

ABSENT = "not installed, or a compiled peer skipped by --quick"

Rivals = dict[str, Callable[..., Any] | None]
"""implementations by name; None: absent"""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the timed problems; tests use small ones."""

    rows: int = 16384
    width: int = 4096
    d_ff: int = 3072
    tokens: int = 16384
    attention_seqs: tuple[int, ...] = (1024, 4096, 16384)
    attention_width: int = 2048  # heads × head_dim
    d_model: int = 768
    vocab: int = 50304
    context: int = 8192
    decode_batches: tuple[int, ...] = (1, 32)
    linear: tuple[tuple[int, int], ...] = (
        (768, 2304),
        (768, 768),
        (768, 5120),
        (2560, 768),
        (768, 50304),
    )  # K, N
    linear_rows: tuple[int, ...] = (1, 2, 4)
    compiled_peers: bool = True
    cache_bytes: int = 2**28  # total size of the caches used in turn, so that none stays in the L2 cache


def _inductor(function: Callable[..., Any], sizes: Sizes) -> Callable[..., Any] | None:
    """The function compiled with Inductor, or None if compiled peers are skipped."""
    return _compiled(function) if sizes.compiled_peers else None


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, dynamic=False)


def _liger(module: str, name: str) -> Callable[..., Any] | None:
    if importlib.util.find_spec("liger_kernel") is None:
        return None
    return getattr(import_module(f"liger_kernel.ops.{module}"), name).apply


def _passes(
    function: Callable[..., Any], inputs: Sequence[torch.Tensor]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(forward, forward and backward) as functions without arguments."""

    def forward():
        outputs = function(*inputs)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    leaves = [x for x in inputs if x.requires_grad]
    upstream = [torch.randn_like(x) for x in forward()]
    return forward, lambda: torch.autograd.grad(forward(), leaves, upstream)


def _reason(problem: Exception) -> str:
    return str(problem).strip().split("\n")[0][:160] or type(problem).__name__


def _time_all(
    report: Report,
    operator: str,
    rivals: Rivals,
    inputs: Sequence[torch.Tensor],
    forward_work: float,
    backward_work: float,
    unit: str,
    label: str = "",
) -> None:
    """Times forward, and backward by difference, of every implementation on the same inputs."""
    forward_name, backward_name = (f"{name} {label}".strip() for name in ("forward", "backward"))
    for who, function in rivals.items():
        if function is None:
            report.absent(operator, forward_name, who, ABSENT)
            continue
        try:
            forward, both = _passes(function, inputs)
            with torch.no_grad():
                forward_ms, timer = time_ms(forward, report.device)
            report.timed(operator, forward_name, who, forward_ms, forward_work, unit, timer)
            recorded_ms, _ = time_ms(forward, report.device)  # with the autograd graph being built
            both_ms, timer = time_ms(both, report.device)
        except (RuntimeError, ImportError, TypeError, ValueError) as problem:
            report.absent(operator, forward_name, who, _reason(problem))
            continue
        if both_ms <= recorded_ms:
            report.absent(operator, backward_name, who, "the difference of the two medians is not positive")
            continue
        backward_ms = both_ms - recorded_ms
        report.timed(operator, backward_name, who, backward_ms, backward_work, unit, timer, both_ms=both_ms)


def rms_norm(report: Report, sizes: Sizes) -> None:
    x, weight = report.randn(sizes.rows, sizes.width), report.randn(sizes.width)
    residual = report.randn(sizes.rows, sizes.width)
    reference = import_module("lmfast_kernels.rms_norm").rms_norm_reference
    liger = _liger("rms_norm", "LigerRMSNormFunction")
    rivals: Rivals = {
        "ours": lmfast_kernels.rms_norm,
        "F.rms_norm": lambda x, w: F.rms_norm(x, w.shape, w, 1e-5),
        "Inductor": _inductor(lambda x, w: reference(x, w, 1e-5), sizes),
        "Liger": liger and (lambda x, w: liger(x, w, 1e-5)),
    }
    _time_all(report, "rms_norm", rivals, (x, weight), 2 * x.nbytes, 3 * x.nbytes, "bytes")
    rivals = {
        "ours": lambda x, w, r: lmfast_kernels.rms_norm(x, w, residual=r),
        "Inductor": _inductor(lambda x, w, r: reference(x, w, 1e-5, r), sizes),
    }
    inputs = (x, weight, residual)
    _time_all(report, "rms_norm", rivals, inputs, 4 * x.nbytes, 4 * x.nbytes, "bytes", "with residual")


def swiglu(report: Report, sizes: Sizes) -> None:
    gate, up = (report.randn(sizes.rows, sizes.d_ff) for _ in range(2))
    reference = import_module("lmfast_kernels.swiglu").swiglu_reference
    rivals: Rivals = {
        "ours": lmfast_kernels.swiglu,
        "PyTorch": lambda gate, up: F.silu(gate) * up,
        "Inductor": _inductor(reference, sizes),
        "Liger": _liger("swiglu", "LigerSiLUMulFunction"),
    }
    _time_all(report, "swiglu", rivals, (gate, up), 3 * gate.nbytes, 5 * gate.nbytes, "bytes")


def rope(report: Report, sizes: Sizes) -> None:
    seq = sizes.attention_seqs[0] * 4
    batch = max(1, 4 * sizes.tokens // seq)
    q, k = report.randn(batch, 12, seq, 64), report.randn(batch, 4, seq, 64)
    angles = torch.rand(seq, 32, device=report.device)
    table = angles.cos(), angles.sin()
    reference = import_module("lmfast_kernels.rope").rope_reference
    rivals: Rivals = {
        "ours": lambda q, k: lmfast_kernels.rope(q, k, *table),
        "PyTorch": lambda q, k: reference(q, k, *table),
        "Inductor": _inductor(lambda q, k: reference(q, k, *table), sizes),
    }
    work = 2 * (q.nbytes + k.nbytes)
    _time_all(report, "rope", rivals, (q, k), work, work, "bytes")


def attention(report: Report, sizes: Sizes) -> None:
    def sdpa(which: SDPBackend) -> Callable[..., Any]:
        def attend(q, k, v):
            with sdpa_kernel(which):
                return F.scaled_dot_product_attention(q, k, v, is_causal=True)

        return attend

    def ours(q, k, v):
        with backend.use_choice("attention", "triton"):
            return lmfast_kernels.attention(q, k, v)

    rivals: Rivals = {
        "ours": ours,
        "SDPA flash": sdpa(SDPBackend.FLASH_ATTENTION),
        "SDPA cuDNN": sdpa(SDPBackend.CUDNN_ATTENTION),
    }
    for head_dim in (64, 128):
        for seq in sizes.attention_seqs:
            batch, heads = max(1, sizes.tokens // seq), max(1, sizes.attention_width // head_dim)
            inputs = [report.randn(batch, heads, seq, head_dim) for _ in range(3)]
            work = 2.0 * batch * heads * seq * seq * head_dim
            _time_all(report, "attention", rivals, inputs, work, 2.5 * work, "flops", f"d{head_dim} S{seq}")


def _in_turn(
    function: Callable[..., Any], q: torch.Tensor, caches: list[list[torch.Tensor]], lengths: torch.Tensor
) -> Callable[..., Any]:
    return lambda: [function(q, k, v, lengths) for k, v in caches]


def decode_attention(report: Report, sizes: Sizes) -> None:
    heads, kv_heads, head_dim = 32, 8, 128
    for batch in sizes.decode_batches:
        shape = (batch, kv_heads, sizes.context, head_dim)
        each = 2 * 2 * batch * kv_heads * sizes.context * head_dim
        count = max(1, -(-sizes.cache_bytes // each))
        caches = [[report.randn(*shape, grad=False) for _ in range(2)] for _ in range(count)]
        q = report.randn(batch, heads, head_dim, grad=False)
        lengths = torch.full((batch,), sizes.context, dtype=torch.int32, device=report.device)
        reference = import_module("lmfast_kernels.decode_attention").decode_attention_reference

        def sdpa(q, k, v, lengths):
            return F.scaled_dot_product_attention(q.unsqueeze(2), k, v, enable_gqa=True)

        rivals: Rivals = {
            "ours": lmfast_kernels.decode_attention,
            "SDPA, no mask": sdpa,
            "PyTorch": reference,
            "Inductor": _inductor(reference, sizes),
        }
        for who, function in rivals.items():
            if function is None:
                report.absent("decode_attention", f"batch {batch}", who, ABSENT)
                continue
            try:
                ms, timer = time_ms(_in_turn(function, q, caches, lengths), report.device)
            except RuntimeError as problem:
                report.absent("decode_attention", f"batch {batch}", who, _reason(problem))
                continue
            report.timed("decode_attention", f"batch {batch}", who, ms / count, each, "bytes", timer)


def decode_linear(report: Report, sizes: Sizes) -> None:
    """One product of decoding, alone and with the preceding norm or SwiGLU, over as many weights as fill the caches."""
    for k, n in sizes.linear:
        for rows in sizes.linear_rows:
            x, residual, both = (report.randn(rows, 1, m * k, grad=False) for m in (1, 1, 2))
            norm, weight = torch.ones(k, device=report.device), report.randn(n, k, grad=False)
            count = max(1, -(-sizes.cache_bytes // weight.nbytes))
            weights = [weight, *(torch.randn_like(weight) for _ in range(count - 1))]

            def swiglu_then(w, both=both):
                return F.linear(lmfast_kernels.swiglu(*both.chunk(2, -1)), w)

            def norm_then(w, x=x, norm=norm, residual=residual):
                return F.linear(lmfast_kernels.rms_norm(x, norm, 1e-5, residual)[0], w)

            def with_norm(w, x=x, norm=norm, residual=residual):
                return lmfast_kernels.decode_norm_linear(x, norm, w, 1e-5, residual)

            rivals: dict[str, Callable[..., Any]] = {
                "ours": lambda w, x=x: lmfast_kernels.decode_linear(x, w),
                "F.linear": lambda w, x=x: F.linear(x, w),
                "ours, norm": with_norm,
                "rms_norm, F.linear": norm_then,
                "ours, SwiGLU": lambda w, both=both: lmfast_kernels.decode_swiglu_linear(both, w),
                "swiglu, F.linear": swiglu_then,
            }
            for who, function in rivals.items():

                def in_turn(function=function, weights=weights):
                    return [function(w) for w in weights]

                with torch.no_grad():
                    ms, timer = time_ms(in_turn, report.device)
                what = f"{rows} × {k} × {n}"
                report.timed("decode_linear", what, who, ms / count, weight.nbytes, "bytes", timer)


def linear_cross_entropy(report: Report, sizes: Sizes) -> None:
    hidden = report.randn(sizes.tokens, sizes.d_model)
    weight = report.randn(sizes.vocab, sizes.d_model)
    weight.data *= 0.05
    targets = torch.randint(0, sizes.vocab, (sizes.tokens,), device=report.device)
    module = import_module("lmfast_kernels.linear_cross_entropy")
    work = 3 * 2.0 * sizes.tokens * sizes.d_model * sizes.vocab
    buffers = [torch.empty(sizes.tokens, sizes.vocab, dtype=report.dtype, device=report.device)]

    def products():
        (logits,) = buffers
        torch.mm(hidden.detach(), weight.detach().t(), out=logits)
        return logits @ weight.detach(), logits.t() @ hidden.detach()

    def trained(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda: torch.autograd.grad(function(hidden, weight, targets), (hidden, weight))

    def naive(h, w, t):
        return F.cross_entropy(h @ w.t(), t, reduction="sum")

    def chunked(h, w, t):  # the implementation for other devices, compiled by Inductor
        rows = torch.ones_like(t, dtype=torch.bool)
        return module._ChunkedLoss.apply(h, w, t, rows, None, 0.0, h.dtype, True)

    def compiled(function: Callable[..., Any]) -> Callable[..., Any] | None:
        through = _inductor(function, sizes)
        return None if through is None else trained(through)

    fused = getattr(F, "linear_cross_entropy", None)
    liger = _liger("fused_linear_cross_entropy", "LigerFusedLinearCrossEntropyFunction")
    rivals: Rivals = {
        "bare products": products,
        "ours": trained(lambda h, w, t: lmfast_kernels.linear_cross_entropy(h, w, t)[0]),
        "naive": trained(naive),
        "naive, Inductor": compiled(naive),
        "chunked, Inductor": compiled(chunked),
        "F.linear_c_e": fused and trained(lambda h, w, t: fused(h, w, t, reduction="sum")),
        "Liger": liger and trained(lambda h, w, t: liger(h, w, t, None, None, -100, 0.0, 0.0, "sum")[0]),
    }
    what = "forward + backward"
    for who, function in rivals.items():
        if function is None:
            report.absent("linear_cross_entropy", what, who, ABSENT)
            continue
        if who == "ours":
            buffers.clear()  # only the bare products use them
        try:
            peak = {}
            if report.device.type == "cuda":
                function()
                torch.cuda.synchronize()
                before = torch.cuda.memory_allocated()
                torch.cuda.reset_peak_memory_stats()
                function()
                torch.cuda.synchronize()
                peak = {"peak_bytes": torch.cuda.max_memory_allocated() - before}
            ms, timer = time_ms(function, report.device)
        except (RuntimeError, TypeError, ValueError) as problem:
            report.absent("linear_cross_entropy", what, who, _reason(problem))
            continue
        report.timed("linear_cross_entropy", what, who, ms, work, "flops", timer, **peak)


def grouped_linear(report: Report, sizes: Sizes) -> None:
    """8 groups compared with one dense product of as many rows, which experts of equal FLOPs replace."""
    k, n, rows = sizes.d_model, sizes.d_ff, sizes.tokens
    x, weight = report.randn(rows, k), report.randn(8, n, k)
    ends = (torch.arange(1, 9, device=report.device) ** 2 * rows // 64).int()
    upstream = report.randn(rows, n, grad=False)
    rivals: dict[str, Callable[[], torch.Tensor]] = {
        "ours": lambda: lmfast_kernels.grouped_linear(x, weight, ends),
        "one dense product": lambda: F.linear(x, weight[0]),
    }
    what = "forward + backward"
    for who, function in rivals.items():

        def step(function=function):
            return torch.autograd.grad(function(), (x, weight), upstream)

        try:
            ms, timer = time_ms(step, report.device)
        except RuntimeError as problem:
            report.absent("grouped_linear", what, who, _reason(problem))
            continue
        report.timed("grouped_linear", what, who, ms, 6.0 * rows * k * n, "flops", timer)


def compiled_step(report: Report, operator: str, sizes: Sizes) -> None:
    """Times a compiled block with each of the operator's two implementations, to choose the one in `CHOICES`."""
    d_model, d_ff, heads = sizes.d_model, sizes.d_ff, max(1, sizes.d_model // 64)
    seq = min(sizes.attention_seqs)
    batch = max(1, sizes.tokens // seq)
    x = report.randn(batch, seq, d_model)
    norm = report.randn(d_model)
    shapes = (2 * d_ff, d_model), (d_model, d_ff), (3 * d_model, d_model), (d_model, d_model)
    weights = [report.randn(*shape) for shape in shapes]
    for weight in weights:
        weight.data *= 0.02
    angles = torch.rand(seq, d_model // heads // 2, device=report.device)
    cos, sin = angles.cos(), angles.sin()

    def block(x, norm, wide, narrow, qkv, out):
        y = lmfast_kernels.rms_norm(x, norm)
        q, k, v = (t.view(batch, seq, heads, -1).transpose(1, 2) for t in (y @ qkv.t()).chunk(3, -1))
        q, k = lmfast_kernels.rope(q, k, cos, sin)
        y = (
            F.scaled_dot_product_attention(q, k, v, is_causal=True)
            if operator != "attention"
            else lmfast_kernels.attention(q, k, v)
        )
        y = y.transpose(1, 2).reshape(x.shape) @ out.t()
        y, x = lmfast_kernels.rms_norm(y, norm, residual=x)
        return x + lmfast_kernels.swiglu(*(y @ wide.t()).chunk(2, -1)) @ narrow.t()

    inputs = (x, norm, *weights)
    upstream = torch.randn_like(x)
    before = dict(backend.CHOICES)
    try:
        for choice in ("triton", "torch"):
            backend.CHOICES.update({name: ("torch", "torch") for name in before})
            backend.CHOICES[operator] = (choice, choice)
            compiled = _compiled(block)

            def step(compiled=compiled):
                return torch.autograd.grad(compiled(*inputs), inputs, upstream)

            ms, timer = time_ms(step, report.device)
            work = 3 * 2.0 * x.shape[0] * seq * sum(w.numel() for w in weights)
            report.timed(operator, "compiled block, forward + backward", choice, ms, work, "flops", timer)
    except RuntimeError as problem:
        report.absent(operator, "compiled block, forward + backward", choice, _reason(problem))
    finally:
        backend.CHOICES.update(before)


SPEEDS: dict[str, Callable[[Report, Sizes], None]] = {
    "rms_norm": rms_norm,
    "swiglu": swiglu,
    "rope": rope,
    "attention": attention,
    "decode_attention": decode_attention,
    "decode_linear": decode_linear,
    "linear_cross_entropy": linear_cross_entropy,
    "grouped_linear": grouped_linear,
}
IN_A_COMPILED_STEP = ("rms_norm", "swiglu", "rope", "attention")
