"""The C++ kernels for CPUs (lmfast_kernels/cpp), compiled once with g++ and called through ctypes.

Used by operators in float32 on a CPU (`uses_library`). In: pointers to contiguous tensors, and sizes.
Needs Linux, g++ (like torch.compile on a CPU) and AVX-512, AVX2 or NEON, whichever PyTorch uses:
ATEN_CPU_CAPABILITY=avx2 selects AVX2. Otherwise the operators fall back to PyTorch's, and `why_not()` returns the reason.
LMFAST_KERNELS=torch disables the library.

The library shares torch's threads: it links libgomp under the name by which torch has loaded it and uses the same number of
threads. The shared object is in the user's cache directory, named by a hash of sources, compiler and CPU. It ends in a hash
of its content, so that a damaged file is recompiled. Compiling takes 2 to 3 seconds.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch.autograd import forward_ad

from lmfast_kernels import backend
from lmfast_kernels.autograd import needs_gradient

SOURCES = Path(__file__).resolve().parent / "cpp"
# Fused multiply-add is allowed, but no option that changes NaN or infinity: the training loop checks for them.
FLAGS = ("-O3", "-ffp-contract=fast", "-fopenmp", "-shared", "-fPIC", "-std=c++17")
TARGETS = {  # instruction set: flags
    "AVX-512": ("-march=native",),
    "AVX2": ("-mavx2", "-mfma", "-mtune=native"),
    "NEON": ("-mcpu=native",),
}


def compiler() -> str | None:
    """The C++ compiler's path: CXX, or g++."""
    return shutil.which(os.environ.get("CXX", "g++"))


def instruction_set() -> str | None:
    """The key of TARGETS for this CPU and PyTorch's capability setting; None if there is none."""
    if platform.machine() in ("aarch64", "arm64"):
        return "NEON"
    return {"AVX512": "AVX-512", "AVX2": "AVX2"}.get(torch.backends.cpu.get_cpu_capability())


def flags() -> tuple[str, ...]:
    """The compiler's flags on this CPU."""
    return (*FLAGS, *TARGETS.get(instruction_set() or "", ()))


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    names = ("model name", "flags", "Features", "CPU part")  # the last two on ARM
    return "\n".join(sorted({line for line in lines if line.startswith(names)}))


def build(folder: Path) -> Path:
    """The shared object in `folder`, compiled if it is missing or damaged. Raises OSError or CalledProcessError."""
    command = compiler()
    if command is None:
        raise OSError("no C++ compiler was found")
    version = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
    texts = [
        path.read_text(encoding="utf-8")
        for path in sorted(SOURCES.iterdir())
        if path.suffix in (".h", ".cpp")
    ]
    key = hashlib.sha256(
        "\0".join([*texts, version, *flags(), platform.machine(), _cpu()]).encode()
    ).hexdigest()
    path = folder / f"kernels-{key[:24]}.so"
    if not _has_valid_hash(path):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A temporary directory, because another process may be compiling too.
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            made = Path(temporary) / path.name
            source = str(SOURCES / "library.cpp")
            subprocess.run([command, *flags(), source, "-o", str(made)], capture_output=True, check=True)
            digest = hashlib.sha256(made.read_bytes()).digest()
            with open(made, "ab") as file:
                file.write(digest)  # ignored by the loader
            os.replace(made, path)
    return path


def _has_valid_hash(path: Path) -> bool:
    """Whether a file ends in the hash of its content; loading a truncated file could crash the process."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-32]).digest() == content[-32:]


def _is_ours(folder: Path) -> bool:
    """Whether only this user can write to a directory; in /tmp, other users can create directories and links."""
    owners = {folder.lstat().st_uid, folder.stat().st_uid}
    return owners == {os.getuid()} and not folder.stat().st_mode & 0o022


class _Found(NamedTuple):
    """The loaded library, or why there is none."""

    library: ctypes.CDLL | None
    why_not: str = ""


@functools.cache
def _find() -> _Found:
    if sys.platform != "linux":
        return _Found(None, "lmfast's CPU kernels need Linux")
    if instruction_set() is None:
        return _Found(None, "lmfast's CPU kernels need AVX2, AVX-512 or NEON")
    if compiler() is None:
        return _Found(None, f"no C++ compiler ({os.environ.get('CXX', 'g++')}) was found; install g++")
    temporary = Path(tempfile.gettempdir()) / f"lmfast-{os.getuid()}"
    folders = [temporary]
    with contextlib.suppress(RuntimeError):  # a user without a home directory
        folders.insert(0, Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lmfast")
    for folder in folders:
        try:
            path = build(folder)
            if _is_ours(folder):
                return _Found(ctypes.CDLL(str(path)))
        except OSError:
            continue  # the directory is not writable, or mounted noexec
        except subprocess.CalledProcessError as error:
            lines = (error.stderr or b"").decode(errors="replace").strip().splitlines()
            return _Found(
                None, f"{compiler()} failed: {lines[0] if lines else f'exit code {error.returncode}'}"
            )
    return _Found(None, f"compiled code cannot be stored in {' or '.join(map(str, folders))}")


def library() -> ctypes.CDLL | None:
    """The loaded library, or None if this machine does not support it."""
    return _find().library


def why_not() -> str:
    """The reason why `library()` is None, without a full stop; empty if there is one."""
    return _find().why_not


@backend.constant_in_compiled_code
def available() -> bool:
    """Whether the library is usable and enabled. Compiled code keeps the value at tracing."""
    return backend.MODE == "auto" and library() is not None


def uses_library(x: torch.Tensor, *weights: torch.Tensor, min_rows: int = 1) -> bool:
    """Whether an operator on x (..., K) should use the library: float32 on a CPU, and a gradient to compute or at least
    `min_rows` rows. With fewer, packing the weights for our products takes longer than they gain."""
    if any(tensor.device.type != "cpu" or tensor.dtype != torch.float32 for tensor in (x, *weights)):
        return False
    if x.shape[:-1].numel() < min_rows and not needs_gradient(x, *weights):
        return False
    # torch.func and forward-mode derivatives support only PyTorch's operators.
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return False
    return backend.autocast_dtype(x) is None and available()


def call(name: str, *arguments: "torch.Tensor | int | float | None") -> None:
    """Calls a library function, with torch's number of threads as its first argument. Tensors must be contiguous."""
    converted: list[ctypes.c_long | ctypes.c_float | ctypes.c_void_p] = [
        ctypes.c_long(torch.get_num_threads())
    ]
    for argument in arguments:
        if argument is None or isinstance(argument, torch.Tensor):
            converted.append(ctypes.c_void_p(None if argument is None else argument.data_ptr()))
        elif isinstance(argument, float):
            converted.append(ctypes.c_float(argument))
        else:
            converted.append(ctypes.c_long(argument))
    getattr(library(), name)(*converted)


def multiply_rate(seconds: float = 0.05) -> float | None:
    """FLOP/s of this CPU's multipliers in float32 with torch's number of threads, measured on registers alone: an
    upper bound for every product. None without the library."""
    if library() is None:
        return None
    rate = torch.zeros(1, dtype=torch.float64)
    call("multiply_rate", seconds, rate)
    return rate.item()
