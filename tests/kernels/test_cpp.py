"""Programs that test the C++ code without Python: compiled for this CPU, for AVX2, and for ARM in an emulator."""

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from lmfast_kernels import cpu_build
from tests.kernels.cpu_native import needs_library

PROGRAMS = Path(__file__).with_name("cpp")


def compiled(command: list[str], name: str, folder: Path, *flags: str) -> Path:
    made = folder / name
    shared = [flag for flag in cpu_build.FLAGS if flag not in ("-shared", "-fPIC")]
    subprocess.run(
        [*command, *shared, *flags, f"-I{cpu_build.SOURCES}", str(PROGRAMS / f"test_{name}.cpp"), "-o", str(made)],
        check=True, capture_output=True, timeout=200,
    )  # fmt: skip
    return made


def compared(command: list[str], count: int) -> None:
    """Runs a program that prints a line for each of `count` comparisons."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == count, done.stdout + done.stderr
    assert all(line.startswith("ok") for line in lines)


AVX2 = pytest.param(("-mavx2", "-mfma"), id="AVX2")
THIS_CPU = pytest.param(
    ("-march=native",), id="native"
)  # AVX-512 and its 8-bit products, where the CPU has them


@needs_library
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="AVX2 is x86")
def test_operators_with_avx2_against_double(tmp_path):
    """Also on a CPU with AVX-512, where no other test compiles for AVX2."""
    compared([str(compiled(cpu_build.compiler(), "operators", tmp_path, "-fopenmp", "-mavx2", "-mfma"))], 126)


@needs_library
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="AVX2 is x86")
@pytest.mark.parametrize("flags", [AVX2, THIS_CPU])
def test_panels_against_double(tmp_path, flags):
    compared([str(compiled(cpu_build.compiler(), "panels", tmp_path, *flags))], 480)


@needs_library
def test_team(tmp_path):
    program = compiled(cpu_build.compiler(), "team", tmp_path)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.ci
@pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-g++") and shutil.which("qemu-aarch64")),
    reason="needs Debian's g++-aarch64-linux-gnu and qemu-user",
)
@pytest.mark.parametrize(
    ("name", "flags", "count"),
    [
        ("operators", ("-fopenmp",), 126),
        ("panels", (), 480),
        ("panels", ("-march=armv8.2-a+dotprod",), 480),
    ],
)
def test_programs_with_neon_in_an_emulator(tmp_path, name, flags, count):
    program = compiled(["aarch64-linux-gnu-g++"], name, tmp_path, "-static", *flags)
    compared(["qemu-aarch64", str(program)], count)


@needs_library
def test_exp2_is_accurate_to_two_ulps(tmp_path):
    source = tmp_path / "exp2.cpp"
    source.write_text(
        f'#include "{cpu_build.SOURCES / "tiles.h"}"\n'
        'extern "C" void exp2_all(long n, const float* x, float* y) {\n'
        "  for (long i = 0; i < n; i += V) store(y + i, exp2_of(load(x + i)));\n}\n"
    )
    made = tmp_path / "exp2.so"
    subprocess.run(
        [*cpu_build.compiler(), *cpu_build.flags("operators"), str(source), "-o", str(made)], check=True
    )
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
