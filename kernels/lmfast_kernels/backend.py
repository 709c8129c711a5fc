"""Chooses the implementation of an operator and launches Triton kernels.

`LMFAST_KERNELS=auto|triton|torch`, read once at import: `auto` (the default) uses Triton on CUDA and plain PyTorch
elsewhere; `triton` on a CPU requires `TRITON_INTERPRET=1`, which the tests use. Inside `torch.compile` an opaque kernel
prevents fusion with its neighbours, so `CHOICES` has a second column for compiled code.

`LMFAST_ATTENTION=auto|triton|torch|cudnn`, read once at import: `triton` is this package's kernels, `cudnn` cuDNN's
kernel, `torch` the implementation that PyTorch's scaled_dot_product_attention prefers, `auto` (the default) cuDNN on
Hopper and datacenter Blackwell in compiled code and for calls with gradients, and this package's kernels otherwise.
`cudnn` and `torch` apply to calls with equal lengths and without document ids, window and LSE; all other calls on CUDA
run this package's kernels (attention.py).

Triton is optional: without it (macOS, Windows) `jit` returns the kernels uncompiled and they are never launched.
Raises ValueError for unknown values of both variables, and for `triton` where Triton cannot run.
"""

import contextlib
import functools
import os
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from types import FunctionType, SimpleNamespace
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
R_co = TypeVar("R_co", covariant=True)

MODE = os.environ.get("LMFAST_KERNELS", "auto")
ATTENTION = os.environ.get("LMFAST_ATTENTION", "auto")
INTERPRETING = triton is not None and bool(triton.knobs.runtime.interpret)

# (eager, inside torch.compile) on CUDA. In eager code one Triton kernel replaces several ATen ones. In compiled code
# Inductor fuses swiglu and rope, which are pointwise, with their neighbours; an opaque SwiGLU was reported to be three
# times slower there. `python -m lmfast_kernels.check` times both.
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
    """Whether Triton kernels are available and enabled for a tensor like `x`."""
    if MODE not in ("auto", "triton", "torch"):
        raise ValueError(f"LMFAST_KERNELS={MODE}: use auto, triton or torch")
    if MODE == "torch":
        return False
    if MODE == "triton":
        if triton is None:
            raise ValueError("LMFAST_KERNELS=triton: Triton is not installed; use auto or torch")
        if x.device.type != "cuda" and not INTERPRETING:
            raise ValueError(
                f"LMFAST_KERNELS=triton: {x.device.type} needs TRITON_INTERPRET=1; set it, or use auto or torch"
            )
        return INTERPRETING or x.dtype in TRITON_DTYPES
    return triton is not None and x.device.type == "cuda" and x.dtype in TRITON_DTYPES


def use_triton(operator: str, x: torch.Tensor) -> bool:
    """Whether `operator` runs as Triton kernels for a tensor like `x`."""
    return triton_runs(x) and (MODE == "triton" or choice(operator) == "triton")


def choice(operator: str) -> str:
    """The implementation in `CHOICES` for eager code, or for compiled code while compiling."""
    eager, compiled = CHOICES[operator]
    return compiled if torch.compiler.is_compiling() else eager


@contextlib.contextmanager
def use_choice(operator: str, implementation: str) -> Generator[None, None, None]:
    """In this context, eager calls and code compiled there use this implementation of `operator` on CUDA."""
    before = CHOICES[operator]
    CHOICES[operator] = (implementation, implementation)
    try:
        yield
    finally:
        CHOICES[operator] = before


def attention_choice(q: torch.Tensor) -> str:
    """`triton`, `torch` or `cudnn`: the attention for a CUDA tensor like q in calls that all three support.

    `auto` uses this package's kernels unless cuDNN is PyTorch's first choice (sdp_utils.cpp of torch 2.11:
    compute capability 9 or 10 and cuDNN above 9.15.0); also under deterministic algorithms, for which PyTorch excludes
    cuDNN as well, and in eager code without gradients, because cuDNN builds a plan for every new shape and prompts have
    many lengths.
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


def constant_in_compiled_code(function: Callable[P, R]) -> Callable[P, R]:
    """`torch.compiler.assume_constant_result`, which marks the function like this and imports torch._dynamo for it."""
    function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]  # as torch does
    return function


@constant_in_compiled_code
def cudnn_attention_preferred() -> bool:
    """Whether cuDNN's attention is PyTorch's first choice on the current device."""
    version = torch.backends.cudnn.version()
    return torch.cuda.get_device_capability()[0] in (9, 10) and version is not None and version > 91500


class Launcher(Protocol):
    """A Triton kernel, or a substitute: `launcher[grid](*arguments, **constants)`; a grid is (programs, …)."""

    def __getitem__(self, grid: tuple[int, ...], /) -> Callable[..., Any]: ...


class Kernel(Launcher, Protocol[P, R_co]):
    """A function that `jit` compiled: launched, or called by other kernels."""

    __name__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class Operator(Protocol[P, R]):
    """A registered operator (`torch.library.CustomOpDef`) and the function that it runs."""

    body: Callable[P, R]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def register_fake(self, fake: Callable[..., Any], /) -> Callable[..., Any]: ...
    def register_autograd(
        self, backward: Callable[..., Any], /, *, setup_context: Callable[..., Any]
    ) -> None: ...


def jit(kernel: Callable[P, R]) -> Kernel[P, R]:
    """`triton.jit`, or the function itself if Triton is not installed."""
    return triton.jit(kernel) if TYPE_CHECKING or triton is not None else kernel


@dataclass
class Recording:
    """The launches for a device of this capability: kernel, arguments, keyword arguments."""

    capability: tuple[int, int]
    launches: list[tuple[Kernel[..., Any], tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)


_recording: Recording | None = None


class _Recorder:
    def __init__(self, kernel: Kernel[..., Any], recording: Recording) -> None:
        self.kernel, self.recording = kernel, recording

    def __getitem__(self, grid: tuple[int, ...], /) -> Callable[..., None]:
        return lambda *args, **kwargs: self.recording.launches.append((self.kernel, args, kwargs))


class _OnArgumentDevice:
    """A kernel launched on the device of its first argument: Triton launches on the current device, whose
    kernels cannot read another device's memory.
    """

    def __init__(self, kernel: Kernel[..., Any]) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int, ...], /) -> Callable[..., None]:
        def launch_on_device(x: torch.Tensor, *args: Any, **kwargs: Any) -> None:
            with torch.cuda.device(x.device):
                self.kernel[grid](x, *args, **kwargs)

        return launch_on_device


@dataclass(frozen=True)
class _Fused:
    """Launches that may fuse a product and a sum, which Triton 3.10 stops doing by default."""

    launcher: Launcher

    def __getitem__(self, grid: tuple[int, ...], /) -> Callable[..., Any]:
        return functools.partial(self.launcher[grid], enable_fp_fusion=True)


@contextlib.contextmanager
def record(capability: tuple[int, int]) -> Generator[Recording, None, None]:
    """In this context, launches are recorded instead of executed, so that aot.py compiles what dispatch would launch."""
    global _recording
    _recording = Recording(capability)
    try:
        yield _recording
    finally:
        _recording = None


def wrap_triton(kernel: Kernel[..., Any]) -> Launcher:
    """`torch.library.wrap_triton` that counts, so that a test can see that the kernel itself ran.

    Under the interpreter kernels are launched directly. Always call it by this name: PyTorch searches the sources of
    operators for calls of `wrap_triton` to include the kernels' sources in its compile cache keys.
    """
    if INTERPRETING or _recording is not None:
        return launch(kernel)
    wrapped = torch.library.wrap_triton(kernel)
    if wrapped is kernel:  # eager: nothing is being traced
        return launch(kernel)
    launches[kernel.__name__] += 1
    return _Fused(wrapped)


def launch(kernel: Kernel[..., Any]) -> Launcher:
    """Counts and launches the kernel directly: for the bodies of opaque operators, which are never traced.

    There `torch.library.wrap_triton` would run its tracing code at every call and store one
    autotuner object per call in a table that is never cleared.
    """
    launches[kernel.__name__] += 1
    if _recording is not None:
        return _Fused(_Recorder(kernel, _recording))
    return _Fused(kernel if INTERPRETING else _OnArgumentDevice(kernel))


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n, for n >= 1. Makes a symbolic size of torch.compile a
    constant, as a kernel's constexpr arguments must be.
    """
    return triton.next_power_of_2(int(n))


def register(
    name: str, opaque: bool = False, mutates: Sequence[str] = ()
) -> Callable[[Callable[P, R]], Operator[P, R]]:
    """Decorator: an operator `lmfast::name` whose body launches kernels; it writes to its arguments `mutates` only.

    On a GPU it is a `triton_op`, whose body Inductor traces; under the interpreter, or with `opaque`, a `custom_op`, whose
    registered fake is used while tracing. The undecorated body is available as `operator.body`, for `record`.
    """
    traced = not INTERPRETING and not opaque
    library_decorator = torch.library.triton_op if traced else torch.library.custom_op
    no_gpu = torch.cuda.device_count() == 0

    def decorate(body: Callable[P, R]) -> Operator[P, R]:
        function = _without_source(body) if traced and no_gpu else body
        operator: Any = library_decorator(f"lmfast::{name}", mutates_args=mutates)(function)
        operator.body = body
        return operator

    return decorate


def _without_source(body: Any) -> FunctionType:
    """A copy of a function whose source `inspect` does not find.

    `triton_op` imports torch._inductor to search the source for kernels, for the keys of compiled code, which a machine
    without a GPU does not make. That import took half of the time until a CPU's first token.
    """
    code = body.__code__.replace(co_filename="<not searched for kernels>")
    copy = FunctionType(code, body.__globals__, body.__name__, body.__defaults__, body.__closure__)
    copy.__annotations__, copy.__kwdefaults__ = body.__annotations__, body.__kwdefaults__
    copy.__module__ = body.__module__
    return copy


def capability(device: torch.device) -> tuple[int, int]:
    """The compute capability whose tiles to use; (9, 0) for Hopper and under the interpreter.

    Consumer Blackwell (12.x) has no tcgen05 and 99 KiB of shared memory per block, less than Hopper: it uses the tiles
    of 8.0, which all fit there and on 8.6 and 8.9.
    """
    if _recording is not None:
        found = _recording.capability
    else:
        found = torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)
    return (8, 0) if found[0] >= 12 else found


def num_sms(device: torch.device) -> int:
    """The number of multiprocessors of a CUDA device; while recording, that of the data centre GPU of the architecture
    (A100, H100, B200); 4 under the interpreter, so that each program has several rows.
    """
    if _recording is not None:
        return {8: 108, 9: 132, 10: 148}.get(_recording.capability[0], 128)
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


def dense_rows(x: torch.Tensor) -> torch.Tensor:
    """x (..., N) as (rows, N) with a dense last dimension: a view if its strides allow one, otherwise a copy."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(-1) == 1 or rows.shape[-1] == 1 else rows.contiguous()


def dense_last(x: torch.Tensor) -> torch.Tensor:
    """x itself if its last dimension is dense, otherwise a contiguous copy."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


@constant_in_compiled_code
def dot_precision() -> str:
    """The precision of `tl.dot` for float32: tf32 if `torch.set_float32_matmul_precision` allows it, else three
    tf32 products, which have float32's accuracy. Compiled code keeps the value at tracing.
    """
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums: float32, or float64 for float64 input."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def autocast_dtype(x: torch.Tensor) -> torch.dtype | None:
    """The dtype of matrix products under `torch.autocast` on x's device; None without autocast or for float64."""
    kind = x.device.type
    if x.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def no_autocast(x: torch.Tensor) -> contextlib.AbstractContextManager[Any]:
    """Disables autocast on x's device: for bodies that choose their dtypes themselves."""
    return contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
