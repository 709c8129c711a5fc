"""The numeric tests as other machines would run them: `python -m tests.machines [--row N …] [--quick] [--here]`.

ROWS is a pairwise cover: any two levels of two factors occur together in one of the rows (tests/test_machines.py), so a
failure that needs two settings at once is seen in 16 runs rather than in 1,536. Needs uv, and root for the level
"user". Makes one environment per VERSIONS in --environments, which later runs reuse; --here uses this Python instead.
Prints a line for each row and the failed tests. Exit code 1 if a row failed.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Versions(NamedTuple):
    python: str
    torch: str
    triton: str


class Row(NamedTuple):
    """Levels of the factors; "" leaves a choice to the library."""

    versions: Versions
    blas: str  # OPENBLAS_CORETYPE, numpy's products and so those of Triton's interpreter
    load: str  # a key of LOADS
    capability: (
        str  # ATEN_CPU_CAPABILITY, PyTorch's instruction set and that of the C++ operators ("default": none)
    )
    mkl: str  # MKL_ENABLE_INSTRUCTIONS, PyTorch's products
    threads: int  # OMP_NUM_THREADS
    kernels: str  # LMFAST_KERNELS


LOADS = {
    "quiet": "in the foreground",
    "nohup": "in the background: SIGINT and SIGHUP are ignored, as after `nohup … &`",
    "busy": "next to two busy loops",
    "user": "in the background, by the user nobody",
}
OLDEST = Versions("3.11", "2.11.0", "3.6.0")
OLD = Versions("3.12", "2.13.0", "3.7.1")
NEW = Versions("3.13", "2.14.1", "3.8.0")
NEWEST = Versions("3.13", "2.15.0", "3.9.0")
ROWS = [
    Row(OLDEST, "Haswell", "quiet", "", "", 1, "auto"),
    Row(OLDEST, "Prescott", "nohup", "avx2", "AVX2", 2, "auto"),
    Row(OLDEST, "Zen", "busy", "default", "", 2, "torch"),
    Row(OLDEST, "SkylakeX", "user", "", "AVX2", 1, "torch"),
    Row(OLD, "Haswell", "nohup", "default", "AVX2", 1, "torch"),
    Row(OLD, "Prescott", "quiet", "", "", 2, "torch"),
    Row(OLD, "Zen", "user", "", "AVX2", 2, "auto"),
    Row(OLD, "SkylakeX", "busy", "avx2", "", 1, "auto"),
    Row(NEW, "Haswell", "busy", "", "AVX2", 2, "auto"),
    Row(NEW, "Prescott", "user", "default", "", 1, "auto"),
    Row(NEW, "Zen", "quiet", "avx2", "AVX2", 1, "torch"),
    Row(NEW, "SkylakeX", "nohup", "", "", 2, "torch"),
    Row(NEWEST, "Haswell", "user", "avx2", "", 2, "torch"),
    Row(NEWEST, "Prescott", "busy", "", "AVX2", 1, "torch"),
    Row(NEWEST, "Zen", "nohup", "", "", 1, "auto"),
    Row(NEWEST, "SkylakeX", "quiet", "default", "AVX2", 2, "auto"),
]

NUMERIC = [
    *"attention cpp cpu_build cpu_cross_entropy cpu_library decode_attention decode_linear feed_forward".split(),
    *"fp8_cross_entropy fp8_feed_forward fp8_linear linear linear_cross_entropy rms_norm rope rope_append".split(),
    *"grouped_linear self_attention swiglu".split(),
]
FILES = [
    *(f"tests/kernels/test_{name}.py" for name in NUMERIC),
    "tests/inference/cpu",
    *(f"tests/model/test_{name}.py" for name in ("layers", "transformer", "kv_cache")),
    *(f"tests/training/test_{name}.py" for name in ("optimizers", "objectives", "reference", "evaluation")),
]
INTERPRETED = ["tests/kernels/interpreted"]
QUICK = ("cpu_cross_entropy", "feed_forward", "linear", "self_attention", "linear_cross_entropy", "rms_norm")
QUICK_FILES = [f"tests/kernels/test_{name}.py" for name in QUICK]
ATTENTION = ("large_scores_do_not_overflow", "scale", "float16", "a_broken_kernel_fails")
QUICK_INTERPRETED = [
    *(f"tests/kernels/interpreted/test_attention.py::test_{name}" for name in ATTENTION),
    "tests/kernels/interpreted/test_swiglu.py",
]


def environment(versions: Versions, folder: Path) -> Path:
    """The Python of an environment with these versions and what the tests need, made if it is missing."""
    path = folder / "-".join(("py" + versions.python, "torch" + versions.torch, "triton" + versions.triton))
    python = path / "bin" / "python"
    if not (path / "COMPLETE").exists():
        pins = [f"torch=={versions.torch}", f"triton=={versions.triton}"]
        subprocess.run(["uv", "venv", "--clear", "--python", versions.python, str(path)], check=True)
        subprocess.run(
            ["uv", "pip", "install", "-q", "--python", python, *pins, "-r", "pyproject.toml", "--group", "dev"],
            cwd=ROOT, check=True,
        )  # fmt: skip
        (path / "COMPLETE").touch()
    return python


def variables(row: Row) -> dict[str, str]:
    """The environment of a row. A kernel of OpenBLAS that this machine prescribes, or that its CPU cannot run, is left."""
    cpu = Path("/proc/cpuinfo")
    runs = row.blas != "SkylakeX" or (cpu.exists() and "avx512f" in cpu.read_text())
    wanted = {
        "OPENBLAS_CORETYPE": row.blas if runs and "OPENBLAS_CORETYPE" not in os.environ else "",
        "ATEN_CPU_CAPABILITY": row.capability,
        "MKL_ENABLE_INSTRUCTIONS": row.mkl,
        "OMP_NUM_THREADS": str(row.threads),
        "LMFAST_KERNELS": row.kernels,
    }
    return {name: value for name, value in wanted.items() if value}


@contextlib.contextmanager
def busy_loops(number: int) -> Iterator[None]:
    """Keeps so many cores busy."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def run_tests(python: Path, row: Row, files: list[str], settings: dict[str, str]) -> tuple[int, list[str]]:
    """(tests passed, names of the others) of one pytest process; what it printed is shown if it fails."""
    user = "nobody" if row.load == "user" and os.getuid() == 0 else None
    with tempfile.TemporaryDirectory() as name, busy_loops(2 if row.load == "busy" else 0):
        home = Path(name)
        home.chmod(0o700)
        report, output = home / "report.xml", home / "output"
        output.touch()
        if user:
            for path in (home, output):
                subprocess.run(["chown", user, str(path)], check=True)
        command = [
            *(
                str(python),
                "-m",
                "pytest",
                "-n",
                "0",
                "-q",
                "-p",
                "no:cacheprovider",
                f"--basetemp={home / 'tests'}",
            ),
            *(f"--junitxml={report}", "-o", "timeout=1500", *files),
        ]
        if row.load in ("nohup", "user"):
            command = ["sh", "-c", 'nohup "$@" </dev/null & wait $!', "sh", *command]
        inherited = {
            key: value for key, value in os.environ.items() if user is None or key != "XDG_CACHE_HOME"
        }
        inherited |= {"HOME": str(home), "TMPDIR": str(home), "USER": user} if user else {}
        with open(output, "wb") as file:
            done = subprocess.run(
                command, cwd=ROOT, env=inherited | settings, stdout=file, stderr=file, user=user, group=user and "nogroup"
            )  # fmt: skip
        if done.returncode:
            print(output.read_text(errors="replace"))
        if not report.exists():
            return 0, ["pytest did not start"]
        cases = list(ElementTree.parse(report).iter("testcase"))
        failed = [case for case in cases if any(part.tag in ("failure", "error") for part in case)]
        names = [f"{case.get('classname', '').removeprefix('tests.')}.{case.get('name')}" for case in failed]
        return sum(not len(case) for case in cases), names or ["exit code " + str(done.returncode)] * bool(
            done.returncode
        )


def run_row(number: int, row: Row, python: Path, quick: bool) -> bool:
    """Runs a row, prints its line, and returns whether all passed."""
    settings = variables(row)
    interpreting = settings | {"TRITON_INTERPRET": "1", "LMFAST_KERNELS": "triton"}
    passed, failed = run_tests(python, row, QUICK_FILES if quick else FILES, settings)
    more, others = run_tests(python, row, QUICK_INTERPRETED if quick else INTERPRETED, interpreting)
    failed = failed + others
    what = " ".join(f"{name}={value}" for name, value in settings.items())
    print(
        f"row {number}: {python} {row.load} {what}: {passed + more} passed, {len(failed)} failed", flush=True
    )
    for name in failed:
        print(f"  {name}", flush=True)
    return not failed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.machines", description=str(__doc__).split("\n")[0])
    parser.add_argument(
        "--row", type=int, action="append", choices=range(len(ROWS)), help="default: all rows"
    )
    parser.add_argument("--quick", action="store_true", help="a few files, less than a minute")
    parser.add_argument("--here", action="store_true", help="with this Python instead of the row's versions")
    parser.add_argument(
        "--environments",
        type=Path,
        default=Path(tempfile.gettempdir()) / "lmfast-machines",
        help="default: %(default)s",
    )
    options = parser.parse_args(arguments)
    good = True
    for number in options.row or range(len(ROWS)):
        row = ROWS[number]
        python = Path(sys.executable) if options.here else environment(row.versions, options.environments)
        good = run_row(number, row, python, options.quick) and good
    return not good


if __name__ == "__main__":
    sys.exit(main())
