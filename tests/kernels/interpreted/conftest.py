"""Shared by the tests that run the Triton kernels in Triton's interpreter on the CPU.

Collected only where TRITON_INTERPRET=1 and LMFAST_KERNELS=triton were set before Python started, because `@triton.jit`
reads it once; tests/kernels/test_interpreted.py starts such a process and reports every file here as one test.
"""

import inspect
import os
from collections import Counter
from collections.abc import Callable, Sequence
from types import ModuleType

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]
else:
    from lmfast_kernels import backend
    from tests.kernels.interpreted import fast_interpreter

    fast_interpreter.install()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch._dynamo.reset()


@pytest.fixture
def launched():
    """A function that fails unless each named kernel was launched in this test."""
    before = Counter(backend.launches)

    def check(*names: str) -> None:
        grown = backend.launches - before
        missing = [name for name in names if not grown[name]]
        assert not missing, f"never launched: {missing}; launched: {dict(grown)}"

    return check


@pytest.fixture
def mutate(tmp_path, monkeypatch):
    """A function that replaces a kernel in its module by a broken copy, with `old` in its source replaced by `new`."""

    def put(module: ModuleType, name: str, old: str, new: str) -> None:
        source = inspect.getsource(getattr(module, name).fn)
        assert source.count(old) >= 1, f"{name} does not contain {old!r}"
        path = tmp_path / f"{name}.py"
        path.write_text(source.replace(old, new))
        namespace = dict(vars(module))
        exec(compile(path.read_text(), str(path), "exec"), namespace)
        monkeypatch.setattr(module, name, namespace[name])

    return put


def run(
    function: Callable, inputs: Sequence[torch.Tensor], upstream: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """The differentiable outputs of function(*inputs), then the gradients of the inputs that require one."""
    leaves = [x for x in inputs if x.requires_grad]
    outputs = function(*inputs)
    outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
    grads = torch.autograd.grad(outputs, leaves, [g.to(o.dtype) for g, o in zip(upstream, outputs)])
    return [*(o.detach() for o in outputs), *grads]


def widen(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A copy in another dtype (floats only) with x's strides and requires_grad."""
    if not x.is_floating_point():
        return x
    copy = torch.empty_strided(x.size(), x.stride(), dtype=dtype)
    copy.copy_(x.detach()) if 0 not in x.stride() else copy.set_(x.detach().to(dtype))
    return copy.requires_grad_(x.requires_grad)


def assert_agrees(
    kernel: Callable,
    reference: Callable,
    inputs: Sequence[torch.Tensor],
    upstream: Sequence[torch.Tensor],
    rounding: float = 0.0,
) -> None:
    """The error of each output and gradient, relative to float64, is at most twice that of the reference.

    The tolerance of the flash-attention papers' tests: max|kernel − ref64| ≤ 2 · max|torch − ref64| + 8 ulps, of 1
    where the result is small, because inputs are of unit size and may cancel. `rounding`: what rounding inside the kernel
    may add, relative to the largest result or 1.
    """
    ours = run(kernel, inputs, upstream)
    theirs = run(reference, inputs, upstream)
    exact = run(reference, [widen(x, torch.float64) for x in inputs], [g.double() for g in upstream])
    for i, (a, b, c) in enumerate(zip(ours, theirs, exact, strict=True)):
        assert a.dtype == b.dtype and a.shape == b.shape, (
            f"output {i}: {a.dtype} {a.shape}, {b.dtype} {b.shape}"
        )
        assert not a.isnan().any(), f"output {i} holds NaN"
        if c.numel() == 0:
            continue
        slack = 8 * torch.finfo(a.dtype).eps + rounding
        allowed = 2 * (b - c).abs().max() + slack * c.abs().max().clamp(min=1)
        error = (a - c).abs().max()
        assert error <= allowed, f"output {i} is off by {error:.3g}, allowed {allowed:.3g}"


def assert_compiles(
    function: Callable, inputs: Sequence[torch.Tensor], upstream: Sequence[torch.Tensor]
) -> None:
    """Compiled with fullgraph equals eager, and a second eager call is bitwise equal to the first."""
    once, twice = run(function, inputs, upstream), run(function, inputs, upstream)
    assert all(torch.equal(a, b) for a, b in zip(once, twice)), "two calls differ"
    compiled = run(torch.compile(function, fullgraph=True), inputs, upstream)
    for a, b in zip(once, compiled, strict=True):
        torch.testing.assert_close(a, b)
