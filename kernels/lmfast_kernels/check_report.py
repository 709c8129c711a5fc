"""The results of `python -m lmfast_kernels.check`: timings, comparisons and targets, saved as JSON and printed as a table.

A rate is the bytes or FLOPs that the operator at least needs, divided by the measured time; its fraction is relative to
a ceiling measured on the same device in the same run (a large copy, bytes read plus written; a large bf16
product), never to a datasheet. What did not run is recorded with the reason and without a number.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lmfast_kernels import backend
from lmfast_kernels.json_file import write_json


def time_ms(function: Callable[[], object], device: torch.device) -> tuple[float, str]:
    """(median milliseconds, method): replays of a CUDA graph, or device events if capture fails."""
    if device.type != "cuda":
        function()
        samples = []
        for _ in range(3):
            start = time.perf_counter()
            function()
            samples.append(1e3 * (time.perf_counter() - start))
        return sorted(samples)[1], "host clock"
    testing = backend.triton.testing
    try:
        return testing.do_bench_cudagraph(function, rep=40, return_mode="median"), "graph"
    except RuntimeError:  # the function synchronises with the host
        torch.cuda.synchronize()
        return testing.do_bench(function, warmup=25, rep=60, return_mode="median"), "events"


def commit() -> str:
    """LMFAST_COMMIT, else the checkout's commit, with + if files differ from it; "unknown" without git."""
    if given := os.environ.get("LMFAST_COMMIT"):
        return given
    folder = Path(__file__).parent
    try:
        answers = [
            subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
            for command in (
                ["git", "rev-parse", "--short", "HEAD"],
                ["git", "status", "--porcelain", "--untracked-files=no", "."],
            )
        ]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answers[0] + ("+" if answers[1] else "")


def machine(device: torch.device) -> dict[str, str]:
    """The device, versions and commit of the measurements."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    triton = "absent" if backend.triton is None else backend.triton.__version__
    return {"device": name, "torch": torch.__version__, "triton": triton, "commit": commit()}


@dataclass
class Report:
    """Results by operator, saved after each one, so that an interrupted run keeps its results."""

    device: torch.device
    path: Path | None = None
    machine: dict[str, str] = field(default_factory=dict)
    ceilings: dict[str, float] = field(default_factory=dict)  # "bytes" per second, "flops" per second
    operators: dict[str, dict[str, Any]] = field(default_factory=dict)
    echo: Callable[[str], None] = print
    dtype: torch.dtype = torch.bfloat16  # of the operands; tests under the interpreter cannot use bf16

    def load(self) -> None:
        """Loads the results of an earlier run on the same machine and commit from `path`."""
        if self.path is None or not self.path.exists():
            return
        try:
            earlier = json.loads(self.path.read_text())
        except ValueError:
            raise ValueError(
                f"{self.path}: is not the JSON file of an earlier check; name another file with --json"
            ) from None
        if earlier.get("machine") == self.machine:
            self.operators = earlier["operators"]

    def save(self) -> None:
        if self.path is None:
            return
        state = {"machine": self.machine, "ceilings": self.ceilings, "operators": self.operators}
        write_json(self.path, state)

    def randn(self, *shape: int, grad: bool = True) -> torch.Tensor:
        """Normal values in the operands' dtype; with `grad` they require a gradient."""
        return torch.randn(shape, device=self.device).to(self.dtype).requires_grad_(grad)

    def begin(self, operator: str) -> None:
        self.operators[operator] = {"checks": [], "timings": [], "done": False}

    def finish(self, operator: str) -> None:
        self.operators[operator]["done"] = True
        self.save()

    def measure_ceilings(self, elements: int, side: int) -> None:
        """Measures the bandwidth for `elements` bf16 values and the rate of a product of two bf16 matrices of `side`.

        torch copies with cudaMemcpyAsync, which reaches 2.44 TB/s on an H100; kernels that read and write reach 2.9 and
        kernels that only read 3.07. The ceiling is the fastest of the three."""
        source = torch.randn(elements, device=self.device).bfloat16()
        target = torch.empty_like(source)
        moving = {
            "copied": (2, lambda: target.copy_(source)),
            "negated": (2, lambda: torch.neg(source, out=target)),
            "summed": (1, source.sum),
        }
        rates = {
            what: tensors * source.nbytes / time_ms(move, self.device)[0] * 1e3
            for what, (tensors, move) in moving.items()
        }
        left, right = (torch.randn(side, side, device=self.device).bfloat16() for _ in range(2))
        product, _ = time_ms(lambda: left @ right, self.device)
        self.ceilings = {"bytes": max(rates.values()), "flops": 2 * side**3 / product * 1e3}
        self.echo(
            "ceilings: " + ", ".join(f"{what} {rate / 1e9:.0f} GB/s" for what, rate in rates.items()) + ", "
            f"bf16 product {self.ceilings['flops'] / 1e12:.1f} TFLOP/s"
        )
        self.save()

    def check(self, operator: str, what: str, error: float, allowed: float, detail: str = "") -> None:
        """Records a comparison; NaN never passes."""
        passed = bool(error <= allowed)
        entry = {"what": what, "error": error, "allowed": allowed, "passed": passed}
        self.operators[operator]["checks"].append(entry | ({"detail": detail} if detail else {}))
        if not passed:
            self.echo(f"WRONG {operator}: {what}: error {error:.3g}, allowed {allowed:.3g} {detail}")
        self.save()

    def skip(self, operator: str, what: str, reason: str) -> None:
        """Records a check that could not run."""
        self.operators[operator]["checks"].append({"what": what, "skipped": reason})
        self.save()

    def timed(
        self,
        operator: str,
        what: str,
        who: str,
        ms: float,
        work: float,
        unit: str,
        timer: str,
        **extra: float,
    ) -> None:
        """Records a timing; `work` is in bytes or flops, as `unit` says."""
        rate = work / ms * 1e3
        entry = {"what": what, "who": who, "ms": ms, "rate": rate, "unit": unit, "timer": timer} | extra
        if unit in self.ceilings:
            self.ceilings[unit] = max(rate, self.ceilings[unit])  # a ceiling is at least the highest rate
            entry["fraction"] = rate / self.ceilings[unit]
        self.operators[operator]["timings"].append(entry)
        self.echo(row(operator, entry))
        self.save()

    def absent(self, operator: str, what: str, who: str, reason: str) -> None:
        """Records a peer that is not installed or failed."""
        self.operators[operator]["timings"].append({"what": what, "who": who, "absent": reason})
        self.echo(f"{operator:21}{what:38}{who:18} absent: {reason}")
        self.save()

    def find(self, operator: str, what: str, who: str) -> dict[str, Any] | None:
        """The timing with these names, or None if it was not measured."""
        for entry in self.operators.get(operator, {}).get("timings", []):
            if (entry["what"], entry["who"]) == (what, who) and "ms" in entry:
                return entry
        return None

    def wrong(self) -> list[tuple[str, dict[str, Any]]]:
        return [
            (operator, entry)
            for operator, results in self.operators.items()
            for entry in results["checks"]
            if entry.get("passed") is False
        ]


def row(operator: str, entry: dict[str, Any]) -> str:
    """A timing as a line of the table."""
    scale, name = (1e12, "TFLOP/s") if entry["unit"] == "flops" else (1e9, "GB/s")
    fraction = f"{100 * entry['fraction']:5.1f} %" if "fraction" in entry else ""
    memory = f"  {entry['peak_bytes'] / 2**30:.2f} GiB" if "peak_bytes" in entry else ""
    return (
        f"{operator:21}{entry['what']:38}{entry['who']:18}{entry['ms']:10.4f} ms"
        f"{entry['rate'] / scale:10.1f} {name:8}{fraction}{memory}"
    )


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest absolute difference, in float32; NaN where either holds one."""
    return (a.float() - b.float()).abs().max().item() if a.numel() else 0.0


def outputs_and_gradients(
    function: Callable[..., Any], inputs: Sequence[torch.Tensor], upstream: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """The differentiable outputs of function(*inputs), then the gradients of the inputs that require one."""
    outputs = function(*inputs)
    outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
    leaves = [x for x in inputs if x.requires_grad]
    grads = ()
    if leaves:
        upstream = [g.to(o.dtype) for g, o in zip(upstream, outputs, strict=True)]
        grads = torch.autograd.grad(outputs, leaves, upstream)
    return [*(o.detach() for o in outputs), *grads]


def compare(
    report: Report,
    operator: str,
    what: str,
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    exact: Callable[..., Any],
    inputs: Sequence[torch.Tensor],
    upstream: Sequence[torch.Tensor] = (),
    unit: float = 0.0,
    repeats: bool = True,
) -> None:
    """Checks that our error in low precision, relative to float32, is at most twice that of PyTorch's implementation.

    The slack of 2⁻⁸ of the largest value (or of `unit`, if results may cancel to less) is one rounding of
    bf16. With `repeats` ours is called twice, and the results must be bitwise equal.
    """
    got = outputs_and_gradients(ours, inputs, upstream)
    again = outputs_and_gradients(ours, inputs, upstream) if repeats else got
    peer = outputs_and_gradients(theirs, inputs, upstream)
    wide = [
        x.detach().float().requires_grad_(x.requires_grad) if x.is_floating_point() else x for x in inputs
    ]
    want = outputs_and_gradients(exact, wide, [g.float() for g in upstream])
    for i, (a, b, c, d) in enumerate(zip(got, again, peer, want, strict=True)):
        allowed = 2 * difference(c, d) + 2**-8 * max(unit, d.abs().max().item())
        report.check(operator, f"{what}, result {i}", difference(a, d), allowed)
        if repeats:
            repeat = 0.0 if torch.equal(a, b) else 1.0
            report.check(operator, f"{what}, result {i}, two calls", repeat, 0.0)


def targets(report: Report) -> Iterable[tuple[str, float | None, float, float]]:
    """(name, measured, minimum, aim) of the targets for an H100; higher is better. None: not measured."""

    def fraction(operator: str, what: str) -> float | None:
        found = report.find(operator, what, "ours")
        return found["rate"] / report.ceilings[found["unit"]] if found and report.ceilings else None

    def tflops(what: str) -> float | None:
        found = report.find("attention", what, "ours")
        return found["rate"] / 1e12 if found else None

    def speedup(operator: str, what: str, peer: str) -> float | None:
        a, b = report.find(operator, what, "ours"), report.find(operator, what, peer)
        return b["ms"] / a["ms"] if a and b else None

    yield "RMSNorm forward, of the memory's rate", fraction("rms_norm", "forward"), 0.85, 0.92
    yield "RMSNorm backward", fraction("rms_norm", "backward"), 0.75, 0.85
    yield "SwiGLU forward", fraction("swiglu", "forward"), 0.85, 0.92
    yield "SwiGLU backward", fraction("swiglu", "backward"), 0.80, 0.88
    for head_dim, must in ((64, 340.0), (128, 380.0)):
        forward, backward = f"forward d{head_dim} S4096", f"backward d{head_dim} S4096"
        cudnn = report.find("attention", forward, "SDPA cuDNN")
        aim = 0.85 * cudnn["rate"] / 1e12 if cudnn else must
        yield f"attention forward d{head_dim}, TFLOP/s (aim: 85 % of cuDNN's)", tflops(forward), must, aim
        yield (
            f"attention forward d{head_dim}, × SDPA flash",
            speedup("attention", forward, "SDPA flash"),
            1,
            1,
        )
        yield (
            f"attention backward d{head_dim}, × SDPA flash",
            speedup("attention", backward, "SDPA flash"),
            1,
            1,
        )
    gemms = speedup("linear_cross_entropy", "forward + backward", "bare products")
    yield "linear + cross-entropy, bare products' time over ours", gemms, 1 / 1.5, 1 / 1.2
    ours = report.find("linear_cross_entropy", "forward + backward", "ours")
    naive = report.find("linear_cross_entropy", "forward + backward", "naive")
    memory = naive["peak_bytes"] / ours["peak_bytes"] if ours and naive and "peak_bytes" in ours else None
    yield "linear + cross-entropy, naive memory over ours", memory, 8, 8
    for batch in (1, 32):
        yield (
            f"decode, batch {batch}, of the memory's rate",
            fraction("decode_attention", f"batch {batch}"),
            0.70,
            0.85,
        )


def target_table(report: Report) -> list[str]:
    """The targets as lines, marked if not measured."""
    lines = []
    for name, measured, must, aim in targets(report):
        if measured is None:
            lines.append(f"{name:58} not measured   must {must:.3g}, aim {aim:.3g}")
        else:
            verdict = "aim reached" if measured >= aim else "reached" if measured >= must else "MISSED"
            lines.append(f"{name:58} {measured:12.3g}   must {must:.3g}, aim {aim:.3g}   {verdict}")
    return lines
