"""FP8 training on a CUDA device, checked in pieces: `python -m bench.gpu_smoke_fp8 [--rehearse] [--only CHECK …]`.

Runs each check below against the emulation on the CPU (gpu_checks.py), then prints what the parts of a 124M step cost in
FP8 and in bf16: products, casts, feed-forward, loss. Half a minute, most of it compiling. `--rehearse` runs the checks on
a CPU.
"""

import sys
from collections.abc import Callable, Iterator
from importlib import import_module

import torch

import lmfast_kernels
from bench import gpu_checks
from bench.ceilings import best
from lmfast.model.fp8 import fp8_blocker
from lmfast_kernels.fp8_feed_forward import gradient_to_fp8, hidden_to_fp8
from lmfast_kernels.fp8_linear import E4M3, E5M2, fp8_mm, fp8_mm_reference, to_fp8, to_fp8_both, transposed

LOSS = import_module("lmfast_kernels.fp8_cross_entropy")
COMPILE: dict = {"fullgraph": True, "dynamic": False}


def near(got: torch.Tensor, want: torch.Tensor, allowed: float, what: str) -> None:
    got, want = got.detach().double().cpu(), want.detach().double().cpu()
    error = ((got - want).norm() / want.norm()).item()
    if not error <= allowed:
        raise AssertionError(f"{what}: off by {error:.2g}, allowed {allowed:.2g}")


def scales(device: torch.device) -> str:
    """The same values to the bit, eagerly and compiled; zeros stay zeros; non-finite values propagate."""
    for dtype in (E4M3, E5M2):
        for size in (1e-9, 1.0, 449.0, 1e9):
            x = torch.randn(256, 320) * size
            want, want_inverse = to_fp8(x, dtype)
            for function in (to_fp8, torch.compile(to_fp8, **COMPILE)):
                got, inverse = function(x.to(device), dtype)
                if inverse.item() != want_inverse.item():
                    raise AssertionError(
                        f"{dtype}, {size}: scale {inverse.item()}, not {want_inverse.item()}"
                    )
                near(got.float(), want.float(), 1e-3, f"{dtype}, {size}")
        for bad in (float("inf"), float("nan")):
            x = torch.ones(16, 16, device=device)
            x[3, 4] = bad
            if not to_fp8(x, dtype)[1].isnan():
                raise AssertionError(f"{dtype}: {bad} does not show")
    return "as on the CPU"


def products(device: torch.device) -> str:
    """Every layout and output type that training uses, against products in float64."""
    for a_type, b_type, fast in ((E4M3, E4M3, True), (E5M2, E4M3, False)):
        a, a_inverse = to_fp8(torch.randn(272, 528, device=device), a_type)
        b, b_inverse = to_fp8(torch.randn(144, 528, device=device), b_type)
        for dtype in (torch.bfloat16, torch.float32):
            want = fp8_mm_reference(a, a_inverse, b, b_inverse, torch.float64)
            near(fp8_mm(a, a_inverse, b, b_inverse, dtype, fast), want, 5e-3, f"{a_type} {dtype}")
            out = torch.empty(272, 144, dtype=dtype, device=device)
            fp8_mm(a, a_inverse, b, b_inverse, dtype, fast, out=out)
            near(out, want, 5e-3, f"{a_type} {dtype}, into a tensor")
        part = fp8_mm(a[:, 64:256], a_inverse, b[:, 64:256], b_inverse, torch.float32, fast)
        want = fp8_mm_reference(a[:, 64:256], a_inverse, b[:, 64:256], b_inverse, torch.float64)
        near(part, want, 5e-3, f"{a_type}, slices of the summed dimension")
        if a_type == E4M3:  # no product of two tensors of gradients exists
            across = fp8_mm(transposed(a), a_inverse, transposed(a), a_inverse, torch.float32, False)
            near(across, fp8_mm_reference(a.t(), a_inverse, a.t(), a_inverse, torch.float64), 5e-3, "across")
    return "all layouts and output types"


def as_on_the_cpu(function: Callable, inputs: list, device: torch.device, allowed: float) -> str:
    """function's value and gradients under bf16 autocast, eagerly and compiled, against the CPU's."""

    def results(function, device):
        leaves = [x.detach().to(device).requires_grad_(x.is_floating_point()) for x in inputs]
        with torch.autocast(device.type, torch.bfloat16):
            y = function(*leaves)
        wanted = [x for x in leaves if x.requires_grad]
        upstream = torch.linspace(-1, 1, y.numel()).view(y.shape) if y.dim() else torch.tensor(0.5)
        return y, *torch.autograd.grad(y, wanted, upstream.to(device, y.dtype))

    want = results(function, torch.device("cpu"))
    for name, one in (("eager", function), ("compiled", torch.compile(function, **COMPILE))):
        for number, pair in enumerate(zip(results(one, device), want, strict=True)):
            near(*pair, allowed, f"{name}, result {number}")
    return "eager and compiled, forward and backward"


def linear(device: torch.device) -> str:
    return as_on_the_cpu(
        lmfast_kernels.fp8_linear, [torch.randn(2, 80, 144).bfloat16(), torch.randn(208, 144)], device, 0.02
    )


def feed_forward(device: torch.device) -> str:
    weights = [torch.randn(2 * 208, 144) / 12, torch.randn(144, 208) / 14]
    function = lambda *inputs: lmfast_kernels.feed_forward(*inputs, fp8=True)  # noqa: E731
    return as_on_the_cpu(function, [torch.randn(2, 80, 144).bfloat16(), *weights], device, 0.05)


def transposes(device: torch.device) -> str:
    """Both copies of values that a kernel stores twice, to the bit, with as many programs as in training."""
    rows, width = (16384, 2560) if device.type == "cuda" else (160, 208)
    both, dhidden = (torch.randn(rows, n, device=device).bfloat16() for n in (2 * width, width))
    hidden8, hidden8t, _, bound = hidden_to_fp8(both)
    gradient8, gradient8t, _ = gradient_to_fp8(dhidden, both, bound)
    for name, one, across in (
        ("hidden values", hidden8, hidden8t),
        ("their gradients", gradient8, gradient8t),
        ("a cast", *to_fp8_both(dhidden, E5M2)[:2]),
    ):
        if not torch.equal(one.view(torch.uint8).t(), across.view(torch.uint8)):
            raise AssertionError(f"{name}: the transposed copy differs")
    return "the same bytes"


def loss(device: torch.device) -> str:
    """Several chunks and groups; softcap and z-loss."""
    hidden, weight = torch.randn(400, 144).bfloat16(), torch.randn(1040, 144) / 6
    targets = torch.randint(0, 1040, (400,))
    targets[::7] = -100
    before = LOSS.LOGITS_BYTES, LOSS.DLOGITS_BYTES
    try:
        for sizes in (before, (1, 2 * LOSS.TILE * 1040)):
            LOSS.LOGITS_BYTES, LOSS.DLOGITS_BYTES = sizes
            for options in ({}, {"softcap": 15.0, "z_loss": 1e-3}):

                def function(h, w, t, o=options):
                    return lmfast_kernels.linear_cross_entropy(h, w, t, fp8=True, **o)[0]

                done = as_on_the_cpu(function, [hidden, weight, targets], device, 0.05)
    finally:
        LOSS.LOGITS_BYTES, LOSS.DLOGITS_BYTES = before
    return f"{done}, one chunk and several"


CHECKS: dict[str, gpu_checks.Check] = {
    "scales": scales,
    "products": products,
    "linear": linear,
    "feed-forward": feed_forward,
    "transposes": transposes,
    "loss": loss,
}


def costs(
    device: torch.device, rows: int = 65536, width: int = 768, hidden: int = 2560, vocab: int = 32000
) -> Iterator[str]:
    """Milliseconds of the parts of a 124M step, the best of several runs: FP8 and bf16."""

    def ms(function: Callable) -> float:
        function()
        return 1e3 * best(function, device, tries=5)

    for name, m, n, k in (
        ("up", rows, 2 * hidden, width),
        ("down", rows, width, hidden),
        ("dweight of up", 2 * hidden, width, rows),
    ):
        a, b = (torch.randn(size, k, device=device, dtype=torch.bfloat16) for size in (m, n))
        a8, b8 = to_fp8(a, E4M3), to_fp8(b, E4M3)
        fast = "dweight" not in name
        plain = ms(lambda a=a, b=b: a @ b.t())
        quick = ms(lambda a=a8, b=b8, fast=fast: fp8_mm(*a, *b, torch.bfloat16, fast))
        rate = 2 * m * n * k / 1e9
        yield (
            f"product {name}, {m} x {n} x {k}: bf16 {plain:.3f} ms ({rate / plain:.0f} TFLOP/s), "
            f"FP8 {quick:.3f} ms ({rate / quick:.0f} TFLOP/s)"
        )
    x = torch.randn(rows, width, device=device, dtype=torch.bfloat16, requires_grad=True)
    up, down = (
        torch.randn(size, device=device, requires_grad=True)
        for size in ((2 * hidden, width), (width, hidden))
    )
    head = torch.randn(vocab, width, device=device, requires_grad=True)
    targets = torch.randint(0, vocab, (rows,), device=device)

    def both_ways(function: Callable, *inputs: torch.Tensor) -> Callable:
        compiled = torch.compile(function, **COMPILE)

        def step() -> None:
            with torch.autocast(device.type, torch.bfloat16):
                y = compiled(*inputs)
            y.backward(torch.ones_like(y))
            for tensor in inputs:
                tensor.grad = None

        return step

    for fp8 in (False, True):
        kind = "FP8" if fp8 else "bf16"
        one = ms(both_ways(lambda x, u, d, f=fp8: lmfast_kernels.feed_forward(x, u, d, fp8=f), x, up, down))
        yield f"feed-forward of {rows} tokens, forward and backward, {kind}: {one:.2f} ms"
        one = ms(
            both_ways(
                lambda h, w, f=fp8: lmfast_kernels.linear_cross_entropy(h, w, targets, fp8=f)[0], x, head
            )
        )
        yield f"head and loss of {rows} tokens, forward and backward, {kind}: {one:.2f} ms"


def main(arguments: list[str] | None = None) -> int:
    options = gpu_checks.parser_of("gpu_smoke_fp8", __doc__, CHECKS).parse_args(arguments)
    return gpu_checks.run(options, CHECKS, costs, fp8_blocker)


if __name__ == "__main__":
    sys.exit(main())
