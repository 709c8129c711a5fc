"""cpu_library.py: when the library is available, and that training works without it."""

import ctypes
import os
import platform
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch.autograd import forward_ad

import lmfast_kernels
from lmfast_kernels import backend, cpu_library
from tests.kernels.cpu_native import needs_library


@needs_library
def test_built_once(tmp_path):
    path = cpu_library.build(tmp_path)
    before = path.stat().st_mtime_ns
    assert cpu_library.build(tmp_path) == path and path.stat().st_mtime_ns == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_without_a_compiler_pytorch_is_used(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(OSError, match="no C\\+\\+ compiler"):
        cpu_library.build(None)
    cpu_library._find.cache_clear()
    try:
        assert cpu_library.library() is None and not cpu_library.available()
        assert cpu_library.why_not() == "no C++ compiler (no-such-compiler) was found; install g++"
        x, weight = (torch.randn(4, 8, requires_grad=True) for _ in range(2))
        assert torch.equal(lmfast_kernels.linear(x, weight), torch.nn.functional.linear(x, weight))
    finally:
        cpu_library._find.cache_clear()


def test_a_failing_compiler_is_not_an_error(monkeypatch):
    def fail(*_, **__):
        raise subprocess.CalledProcessError(1, "g++", stderr=b"g++: no space left\nmore")

    monkeypatch.setattr(cpu_library, "build", fail)
    monkeypatch.setattr(cpu_library, "compiler", lambda: "g++")
    monkeypatch.setattr(cpu_library, "instruction_set", lambda: "AVX2")
    cpu_library._find.cache_clear()
    try:
        assert cpu_library.library() is None
        assert sys.platform != "linux" or cpu_library.why_not() == "g++ failed: g++: no space left"
    finally:
        cpu_library._find.cache_clear()


def test_disabled_by_mode(monkeypatch):
    monkeypatch.setattr(backend, "MODE", "torch")
    assert not cpu_library.available()
    assert not cpu_library.uses_library(torch.zeros(1, requires_grad=True))


@needs_library
def test_buffers_are_freed_with_their_thread():
    weight = torch.randn(2048, 512)  # 4 MB packed
    x = torch.randn(2, 512, requires_grad=True)

    def megabytes_after(threads: int) -> float:
        for _ in range(threads):
            thread = threading.Thread(target=lmfast_kernels.linear, args=(x, weight))
            thread.start()
            thread.join()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    before = megabytes_after(3)
    assert megabytes_after(30) - before < 60


@needs_library
def test_exp2_is_accurate_to_two_ulps(tmp_path):
    source = tmp_path / "exp2.cpp"
    source.write_text(
        f'#include "{cpu_library.SOURCES / "tiles.h"}"\n'
        'extern "C" void exp2_all(long n, const float* x, float* y) {\n'
        "  for (long i = 0; i < n; i += V) store(y + i, exp2_of(load(x + i)));\n}\n"
    )
    made = tmp_path / "exp2.so"
    subprocess.run([cpu_library.compiler(), *cpu_library.flags(), str(source), "-o", str(made)], check=True)
    function = ctypes.CDLL(str(made)).exp2_all

    def exp2(x: torch.Tensor) -> torch.Tensor:
        y = torch.empty_like(x)
        function(ctypes.c_long(len(x)), ctypes.c_void_p(x.data_ptr()), ctypes.c_void_p(y.data_ptr()))
        return y

    x = torch.linspace(-150, 127.999, 16 * 50_000)
    exact = torch.exp2(x.double())
    unit = torch.exp2(torch.log2(exact).floor().clamp(min=-126) - 23)
    assert ((exp2(x).double() - exact).abs() / unit).max() < 2
    inf, nan = float("inf"), float("nan")
    edges = torch.tensor(
        [-inf, -3e38, -151, -149, -0.0, 0.0, 1e-45, 1, 127, 128, 3e38, inf, nan, -126, -127, 3]
    )
    torch.testing.assert_close(exp2(edges), torch.exp2(edges), rtol=0, atol=0, equal_nan=True)


PROGRAM = Path(__file__).with_name("cpp") / "operators.cpp"


def compiled(command: str, folder: Path, *flags: str) -> Path:
    """The program that compares the operators with loops in double."""
    made = folder / "operators"
    shared = [flag for flag in cpu_library.FLAGS if flag not in ("-shared", "-fPIC")]
    subprocess.run(
        [command, *shared, *flags, f"-I{cpu_library.SOURCES}", str(PROGRAM), "-o", str(made)],
        check=True, capture_output=True, timeout=200,
    )  # fmt: skip
    return made


def compared(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 126, done.stdout + done.stderr
    assert all(line.startswith("ok") for line in lines)


@needs_library
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="AVX2 is x86")
def test_operators_with_avx2_against_double(tmp_path):
    """Also on a CPU with AVX-512, where no other test compiles for AVX2."""
    compared([str(compiled(cpu_library.compiler(), tmp_path, *cpu_library.TARGETS["AVX2"]))])


@pytest.mark.ci
@pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-g++") and shutil.which("qemu-aarch64")),
    reason="needs Debian's g++-aarch64-linux-gnu and qemu-user",
)
def test_operators_with_neon_against_double_in_an_emulator(tmp_path):
    compared(["qemu-aarch64", str(compiled("aarch64-linux-gnu-g++", tmp_path, "-static"))])


@pytest.mark.parametrize(
    ("machine", "capability", "want"),
    [
        ("x86_64", "AVX512", "AVX-512"),
        ("x86_64", "AVX2", "AVX2"),
        ("x86_64", "DEFAULT", None),
        ("aarch64", "DEFAULT", "NEON"),
        ("arm64", "SVE256", "NEON"),
        ("ppc64le", "VSX", None),
    ],
)
def test_the_instruction_set_is_pytorch_s(monkeypatch, machine, capability, want):
    monkeypatch.setattr(cpu_library.platform, "machine", lambda: machine)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    assert cpu_library.instruction_set() == want


@needs_library
def test_torch_func_uses_pytorch_operators():
    x, weight, tangent = torch.randn(3, 4, 8), torch.randn(6, 8, requires_grad=True), torch.randn(3, 4, 8)
    grads = torch.func.vmap(torch.func.grad(lambda x: lmfast_kernels.linear(x, weight).square().sum()))(x)
    torch.testing.assert_close(grads, 2 * (x @ weight.t()) @ weight)
    _, out = torch.func.jvp(lambda x: lmfast_kernels.linear(x, weight), (x,), (tangent,))
    torch.testing.assert_close(out, tangent @ weight.t())
    with forward_ad.dual_level():
        y = lmfast_kernels.linear(forward_ad.make_dual(x, tangent), weight)
        torch.testing.assert_close(forward_ad.unpack_dual(y).tangent, tangent @ weight.t())


@pytest.mark.skipif(sys.platform != "linux" or cpu_library.compiler() is None, reason="needs Linux and g++")
def test_an_unusable_home_falls_back_to_the_temporary_directory(tmp_path, monkeypatch):
    """A home directory that is not writable, or writable by others; the other directory is checked the same way."""
    (tmp_path / "library.cpp").write_text("int answer() { return 42; }\n")
    monkeypatch.setattr(cpu_library, "SOURCES", tmp_path)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX512")
    home = tmp_path / "home" / "lmfast"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home.parent))
    monkeypatch.setattr(cpu_library.tempfile, "gettempdir", lambda: str(tmp_path))
    made = cpu_library.build(tmp_path / f"lmfast-{os.getuid()}")

    def loaded() -> str | None:
        cpu_library._find.cache_clear()
        library = cpu_library.library()
        return library and library._name

    try:
        home.parent.write_text("a file where the folder would be")
        assert loaded() == str(made)
        made.parent.chmod(0o777)
        assert loaded() is None
        made.parent.chmod(0o700)
        home.parent.unlink()
        home.mkdir(parents=True)
        shutil.copy(made, home)
        home.chmod(0o777)
        assert loaded() == str(made)
        home.chmod(0o700)
        assert loaded() == str(home / made.name)
    finally:
        cpu_library._find.cache_clear()


def test_a_damaged_library_is_built_again(tmp_path, monkeypatch):
    """Loading a truncated library would end the process with a bus error."""
    built = []

    def run(command, **_):
        if "-o" in command:
            built.append(command)
            Path(command[-1]).write_bytes(b"\x7fELF and so on")
        return subprocess.CompletedProcess(command, 0, "g++ 99")

    monkeypatch.setattr(cpu_library, "compiler", lambda: "g++")
    monkeypatch.setattr(cpu_library.subprocess, "run", run)
    path = cpu_library.build(tmp_path)
    whole = path.read_bytes()
    assert whole.startswith(b"\x7fELF")
    for number, damaged in enumerate((b"", whole[:-1], whole[:20], b"\0" + whole[1:], b"\0" * len(whole)), 2):
        path.write_bytes(damaged)
        assert cpu_library.build(tmp_path) == path and path.read_bytes() == whole and len(built) == number


@needs_library
def test_other_files_next_to_the_sources_are_ignored(tmp_path, monkeypatch):
    sources = shutil.copytree(cpu_library.SOURCES, tmp_path / "cpp")
    built = cpu_library.build(tmp_path)
    (sources / ".tiles.h.swp").write_bytes(b"\xff\x00")
    (sources / "__pycache__").mkdir()
    monkeypatch.setattr(cpu_library, "SOURCES", sources)
    assert cpu_library.build(tmp_path) == built
