"""Compiles the C++ libraries for CPUs (lmfast_kernels/cpp), once, with g++. Does not import torch.

Two libraries: "operators", called by cpu_library.py, which shares torch's OpenMP threads, and "decoder", called by
lmfast/inference/cpu, with threads of its own. Both need Linux, g++ (like torch.compile on a CPU) and AVX-512, AVX2 or NEON,
whichever PyTorch uses: ATEN_CPU_CAPABILITY=avx2 selects AVX2. Otherwise `why_not` returns the reason.

A shared object is in the user's cache directory, named by a hash of sources, compiler and CPU. It ends in a hash of its
content, so that a damaged file is recompiled. Compiling takes 2 to 4 seconds.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal, NamedTuple

SOURCES = Path(__file__).resolve().parent / "cpp"
# Fused multiply-add is allowed, but no option that changes NaN or infinity: the training loop checks for them.
FLAGS = ("-O3", "-ffp-contract=fast", "-shared", "-fPIC", "-std=c++17")
OPENMP: dict[str, tuple[str, ...]] = {"operators": ("-fopenmp",), "decoder": ()}
TARGETS = {  # instruction set: flags
    "AVX-512": ("-march=native",),
    "AVX2": ("-mavx2", "-mfma", "-mtune=native"),
    "NEON": ("-mcpu=native",),
}
Name = Literal["operators", "decoder"]


def compiler() -> list[str] | None:
    """The C++ compiler's command: CXX, which may have options, or g++. None if there is no such program."""
    try:
        program, *options = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    except ValueError:  # a quotation without an end
        return None
    path = shutil.which(program)
    return None if path is None else [path, *options]


@functools.cache
def _cpu_lines() -> tuple[str, ...]:
    """What distinguishes this CPU, of /proc/cpuinfo."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    names = ("model name", "flags", "Features", "CPU part")  # the last two on ARM
    return tuple(sorted({line for line in lines if line.startswith(names)}))


def cpu_flags() -> set[str]:
    """The instruction set extensions that /proc/cpuinfo names; empty on other systems."""
    return {word for line in _cpu_lines() for word in line.partition(":")[2].split()}


def instruction_set() -> str | None:
    """The key of TARGETS for this CPU and PyTorch's capability setting; None if there is none."""
    if platform.machine() in ("aarch64", "arm64"):
        return "NEON"
    if platform.machine() not in ("x86_64", "AMD64"):
        return None
    found, wanted = cpu_flags(), os.environ.get("ATEN_CPU_CAPABILITY", "")
    if wanted == "default" or not found >= {"avx2", "fma"}:
        return None
    wide = found >= {"avx512f", "avx512vl", "avx512bw", "avx512dq"}  # PyTorch's condition
    return "AVX-512" if wide and wanted != "avx2" else "AVX2"


def flags(name: Name) -> tuple[str, ...]:
    """The compiler's flags for a library on this CPU."""
    return (*FLAGS, *OPENMP[name], *TARGETS.get(instruction_set() or "", ()), *dot_products())


def dot_products() -> tuple[str, ...]:
    """The flag for AVX2's 8-bit dot products, where this CPU has them; AVX-512's are in its target."""
    return ("-mavxvnni",) if instruction_set() == "AVX2" and "avx_vnni" in cpu_flags() else ()


def _run(*command: str) -> bytes:
    """The output of a command. Raises CalledProcessError, also if it cannot be run."""
    try:
        return subprocess.run(command, capture_output=True, check=True).stdout
    except OSError as error:
        raise subprocess.CalledProcessError(1, command, stderr=str(error).encode()) from None


def build(folder: Path, name: Name) -> Path:
    """The shared object in `folder`, compiled if it is missing or damaged. Raises OSError or CalledProcessError."""
    command = compiler()
    if command is None:
        raise OSError("no C++ compiler was found")
    version = _run(*command, "--version").decode(errors="replace")
    texts = [
        path.read_text(encoding="utf-8")
        for path in sorted(SOURCES.iterdir())
        if path.suffix in (".h", ".cpp")
    ]
    key = hashlib.sha256(
        "\0".join([*texts, version, *flags(name), platform.machine(), *_cpu_lines()]).encode()
    ).hexdigest()
    path = folder / f"{name}-{key[:24]}.so"
    if not _has_valid_hash(path):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A temporary directory, because another process may be compiling too.
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            made = Path(temporary) / path.name
            source = str(SOURCES / f"{name}.cpp")
            try:
                _run(*command, *flags(name), source, "-o", str(made))
            except subprocess.CalledProcessError:
                if not dot_products():
                    raise
                known = [flag for flag in flags(name) if flag not in dot_products()]  # before GCC 11
                _run(*command, *known, source, "-o", str(made))
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


class Found(NamedTuple):
    """The loaded library, or why there is none."""

    library: ctypes.CDLL | None
    why_not: str = ""


@functools.cache
def find(name: Name) -> Found:
    """The loaded library, or why there is none."""
    if sys.platform != "linux":
        return Found(None, "lmfast's CPU kernels need Linux")
    if (mode := os.environ.get("LMFAST_KERNELS", "auto")) != "auto" and name == "decoder":
        return Found(None, f"LMFAST_KERNELS is {mode}")
    if instruction_set() is None:
        return Found(None, "lmfast's CPU kernels need AVX2, AVX-512 or NEON")
    command = compiler()
    if command is None:
        return Found(
            None, f"no C++ compiler ({os.environ.get('CXX') or 'g++'}) was found; install g++, or correct CXX"
        )
    folders: list[Path] = []
    with contextlib.suppress(RuntimeError):  # a user without a home directory
        folders.append(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lmfast")
    with contextlib.suppress(OSError):  # no temporary directory is writable
        folders.append(Path(tempfile.gettempdir()) / f"lmfast-{os.getuid()}")
    for folder in folders:
        try:
            path = build(folder, name)
            if _is_ours(folder):
                return Found(ctypes.CDLL(str(path)))
        except OSError:
            continue  # the directory is not writable, or mounted noexec
        except subprocess.CalledProcessError as error:
            lines = (error.stderr or b"").decode(errors="replace").strip().splitlines()
            return Found(
                None, f"{command[0]} failed: {lines[0] if lines else f'exit code {error.returncode}'}"
            )
    return Found(None, f"compiled code cannot be stored in {' or '.join(map(str, folders)) or 'any folder'}")


def library(name: Name) -> ctypes.CDLL | None:
    """The loaded library, or None if this machine does not support it."""
    return find(name).library


def why_not(name: Name) -> str:
    """The reason why `library(name)` is None, without a full stop; empty if there is one."""
    return find(name).why_not
