"""Which implementation of an operator runs where, and the road from Python to a Triton kernel.

`auto` (the default) takes Triton on CUDA and plain PyTorch elsewhere; the environment variable
`LMFAST_KERNELS=auto|triton|torch`, read once at import, overrides it. `triton` on a CPU works only under
`TRITON_INTERPRET=1`, which is how the tests run the kernels. Inside `torch.compile` an opaque kernel stops
its neighbours from fusing, so `CHOICES` has a second column for compiled code.

Attention has more implementations than the others, so `LMFAST_ATTENTION=auto|triton|torch|cudnn`, read once at
import, sets its two columns: `triton` is this package's kernels, `cudnn` cuDNN's kernel, `torch` whatever PyTorch's
scaled_dot_product_attention prefers, `auto` cuDNN on Hopper and datacenter Blackwell in compiled code and wherever
gradients are wanted, this package's kernels elsewhere. `cudnn` and `torch` apply to calls without document ids,
window and LSE and with as many queries as keys; every other call on CUDA runs this package's kernels (attention.py).

Triton is optional: without it (macOS, Windows) `jit` leaves the kernels uncompiled and nothing launches them.

Input: an operator's name and one of its tensors. Output: a decision. Rejects unknown values of both
variables, and `triton` where Triton cannot run.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

import torch

if TYPE_CHECKING:
    import triton
    import triton.language as tl
else:
    try:
        import triton
        import triton.language as tl
    except ImportError:
        triton = None
        tl = SimpleNamespace(constexpr=None)

P = ParamSpec("P")
R = TypeVar("R")

MODE = os.environ.get("LMFAST_KERNELS", "auto")
ATTENTION = os.environ.get("LMFAST_ATTENTION", "auto")
INTERPRETING = triton is not None and bool(triton.knobs.runtime.interpret)

# (eager, inside torch.compile) on CUDA. Eager columns: one Triton kernel replaces several ATen ones.
# Compiled columns: swiglu and rope are pointwise, Inductor fuses them with what stands before and after them,
# and others measured an opaque SwiGLU three times slower there; `python -m lmfast_kernels.check` times both columns.
CHOICES = {
    "rms_norm": ("triton", "triton"),
    "swiglu": ("triton", "torch"),
    "rope": ("triton", "torch"),
    "rope_append": ("triton", "triton"),
    "split_heads": ("triton", "triton"),
    "attention": (ATTENTION, ATTENTION),
    "decode_attention": ("triton", "triton"),
    "decode_linear": ("triton", "triton"),
    "linear_cross_entropy": ("triton", "triton"),
    "fp8_cast": ("triton", "triton"),
    "fp8_feed_forward": ("triton", "triton"),
}

TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)

launches: Counter[str] = Counter()  # kernel name -> launches (or traces, when compiling) in this process


def triton_runs(x: torch.Tensor) -> bool:
    """Whether Triton kernels can and may run for a tensor like `x`."""
    if MODE not in ("auto", "triton", "torch"):
        raise ValueError(f"LMFAST_KERNELS={MODE}: use auto, triton or torch")
    if MODE == "torch":
        return False
    if MODE == "triton":
        if triton is None:
            raise ValueError("LMFAST_KERNELS=triton: Triton is not installed here; use auto or torch")
        if x.device.type != "cuda" and not INTERPRETING:
            raise ValueError(
                f"LMFAST_KERNELS=triton: on {x.device.type} set TRITON_INTERPRET=1, or use auto or torch"
            )
        return INTERPRETING or x.dtype in TRITON_DTYPES
    return triton is not None and x.device.type == "cuda" and x.dtype in TRITON_DTYPES


def use_triton(operator: str, x: torch.Tensor) -> bool:
    """Whether `operator` runs as Triton kernels for a tensor like `x`."""
    return triton_runs(x) and (MODE == "triton" or choice(operator) == "triton")


def choice(operator: str) -> str:
    """What `CHOICES` says on CUDA, of code that runs eagerly or is being compiled."""
    eager, compiled = CHOICES[operator]
    return compiled if torch.compiler.is_compiling() else eager


@contextlib.contextmanager
def use_choice(operator: str, implementation: str) -> Iterator[None]:
    """Within, eager code and whatever is compiled there get this implementation of `operator` on CUDA."""
    before = CHOICES[operator]
    CHOICES[operator] = (implementation, implementation)
    try:
        yield
    finally:
        CHOICES[operator] = before


def attention_choice(q: torch.Tensor) -> str:
    """`triton`, `torch` or `cudnn`: which attention a CUDA tensor like q gets where all three could serve.

    `auto` keeps to this package's kernels where cuDNN is not PyTorch's own first choice (sdp_utils.cpp of torch 2.11:
    compute capability 9 or 10 and cuDNN above 9.15.0), under deterministic algorithms, which exclude cuDNN's there,
    too, and in eager code without gradients: cuDNN builds a plan for every new shape, and prompts come in all
    lengths.
    """
    chosen = "triton" if MODE == "triton" else choice("attention")
    if chosen not in ("auto", "triton", "torch", "cudnn"):
        raise ValueError(
            f"attention: {chosen!r} is not an implementation; set LMFAST_ATTENTION to auto, triton, torch or cudnn"
        )
    if chosen != "auto":
        return chosen
    trains = torch.compiler.is_compiling() or (torch.is_grad_enabled() and q.requires_grad)
    if not trains or torch.are_deterministic_algorithms_enabled():
        return "triton"
    return "cudnn" if cudnn_attention_preferred() else "triton"


@torch.compiler.assume_constant_result
def cudnn_attention_preferred() -> bool:
    """Whether PyTorch puts cuDNN's attention first on the current device."""
    version = torch.backends.cudnn.version()
    return torch.cuda.get_device_capability()[0] in (9, 10) and version is not None and version > 91500


class Launcher(Protocol):
    """A Triton kernel, or what stands for it: `launcher[grid](*arguments, **constants)`; a grid is (programs, …)."""

    def __getitem__(self, grid: tuple[int, ...], /) -> Callable[..., Any]: ...


class Kernel(Launcher, Protocol[P, R]):
    """A function that `jit` compiled: launched, or called by other kernels."""

    __name__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...


class Operator(Protocol[P, R]):
    """A registered operator (`torch.library.CustomOpDef`) and the function that it runs."""

    body: Callable[P, R]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def register_fake(self, fake: Callable[..., Any], /) -> Callable[..., Any]: ...
    def register_autograd(
        self, backward: Callable[..., Any], /, *, setup_context: Callable[..., Any]
    ) -> None: ...


def jit(kernel: Callable[P, R]) -> Kernel[P, R]:
    """`triton.jit`, or the function itself where there is no Triton to launch it."""
    return triton.jit(kernel) if TYPE_CHECKING or triton is not None else kernel


@dataclass
class Recording:
    """Launches that would have happened on a device of this capability: kernel, arguments, keywords."""

    capability: tuple[int, int]
    launches: list[tuple[Kernel[..., Any], tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)


_recording: Recording | None = None


class _Recorder:
    def __init__(self, kernel: Kernel[..., Any], recording: Recording) -> None:
        self.kernel, self.recording = kernel, recording

    def __getitem__(self, grid: tuple[int, ...], /) -> Callable[..., None]:
        return lambda *args, **kwargs: self.recording.launches.append((self.kernel, args, kwargs))


class _OnItsDevice:
    """A kernel that runs where its first argument lies: Triton itself launches on the current device, whose
    kernels cannot read another device's memory.
    """

    def __init__(self, kernel: Kernel[..., Any]) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int, ...], /) -> Callable[..., None]:
        def launch_there(x: torch.Tensor, *args: Any, **kwargs: Any) -> None:
            with torch.cuda.device(x.device):
                self.kernel[grid](x, *args, **kwargs)

        return launch_there


@contextlib.contextmanager
def record(capability: tuple[int, int]) -> Iterator[Recording]:
    """Within, launches are written down instead of made: aot.py compiles exactly what dispatch would
    launch.
    """
    global _recording
    _recording = Recording(capability)
    try:
        yield _recording
    finally:
        _recording = None


def wrap_triton(kernel: Kernel[..., Any]) -> Launcher:
    """`torch.library.wrap_triton` that counts, so that a test can see that the kernel itself ran.

    The interpreter's functions are launched directly. Call it by this very name: PyTorch reads the sources of
    operators for calls of `wrap_triton` to put the kernels' text into its compile cache keys.
    """
    if INTERPRETING or _recording is not None:
        return launch(kernel)
    wrapped = torch.library.wrap_triton(kernel)
    if wrapped is kernel:  # eager: nothing is being traced
        return launch(kernel)
    launches[kernel.__name__] += 1
    return wrapped


def launch(kernel: Kernel[..., Any]) -> Launcher:
    """The kernel, counted and launched directly: for the bodies of opaque operators, which nothing traces.

    There `torch.library.wrap_triton` would go through its tracing machinery at every call and keep one
    autotuner object for each in a table that is never emptied.
    """
    launches[kernel.__name__] += 1
    if _recording is not None:
        return _Recorder(kernel, _recording)
    return kernel if INTERPRETING else _OnItsDevice(kernel)


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n, for n of at least 1. A size that torch.compile holds
    symbolic becomes a constant, as whatever is a kernel's constexpr must.
    """
    return triton.next_power_of_2(int(n))


def register(
    name: str, opaque: bool = False, mutates: Sequence[str] = ()
) -> Callable[[Callable[P, R]], Operator[P, R]]:
    """Decorator: an operator `lmfast::name` whose body launches kernels; it writes to its arguments `mutates` only.

    On a GPU a `triton_op`, which Inductor sees through; under the interpreter a `custom_op`, because there is
    nothing to see: the fake that the operator's file registers stands in for it while tracing. `opaque`
    keeps a body whole on a GPU too. The undecorated body stays reachable as `operator.body`, for `record`.
    """
    library_decorator = torch.library.custom_op if INTERPRETING or opaque else torch.library.triton_op

    def decorate(body: Callable[P, R]) -> Operator[P, R]:
        operator: Any = library_decorator(f"lmfast::{name}", mutates_args=mutates)(body)
        operator.body = body
        return operator

    return decorate


def capability(device: torch.device) -> tuple[int, int]:
    """The compute capability whose tiles to use, (9, 0) on Hopper; also what the interpreter pretends to be.

    Consumer Blackwell (12.x) has neither tcgen05 nor Hopper's shared memory, 99 KiB a block: it gets the tiles
    of 8.0, which all fit there and on 8.6 and 8.9.
    """
    if _recording is not None:
        found = _recording.capability
    else:
        found = torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)
    return (8, 0) if found[0] >= 12 else found


def num_sms(device: torch.device) -> int:
    """Multiprocessors of a CUDA device, while recording those of its data centre GPU (A100, H100, B200); 4 under
    the interpreter, so that programs there have several rows each.
    """
    if _recording is not None:
        return {8: 108, 9: 132, 10: 148}.get(_recording.capability[0], 128)
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


def dense_rows(x: torch.Tensor) -> torch.Tensor:
    """x (..., N) as (rows, N) with a dense last dimension: a view where its strides allow one, otherwise a
    copy.
    """
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(-1) == 1 or rows.shape[-1] == 1 else rows.contiguous()


def dense_last(x: torch.Tensor) -> torch.Tensor:
    """x itself where its last dimension is dense, otherwise a contiguous copy."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


@torch.compiler.assume_constant_result
def dot_precision() -> str:
    """What `tl.dot` makes of float32: tf32 where `torch.set_float32_matmul_precision` allows it, else three
    of those products, which keep float32's accuracy. Compiled code keeps what it found when it was traced.
    """
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype sums are kept in: float32, or float64 for float64 input."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def autocast_dtype(x: torch.Tensor) -> torch.dtype | None:
    """The dtype matrix products use under `torch.autocast` on x's device, None outside of it or for
    float64.
    """
    kind = x.device.type
    if x.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def no_autocast(x: torch.Tensor) -> contextlib.AbstractContextManager:
    """Switches autocast off on x's device: for bodies that chose their dtypes themselves."""
    return contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
