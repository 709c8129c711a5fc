"""Makes the folder of bench/llama_cpp_library.py: `python -m bench.llama_cpp_folder [FOLDER]` (npm, git, pip; 46 MB).

Out: FOLDER (default data/llama_cpp, 18 MB) with llama.cpp's shared libraries as node-llama-cpp 3.21.1 publishes them
(release v0.4.0, OpenMP off), one CPU backend for AVX2 and one for each CPU with AVX-512; `include`, the headers of the same
source; `python`, the package gguf for machines without it. It needs no network afterwards.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import machine
from lmfast.errors import UserError

FOLDER = machine.ROOT / "data" / "llama_cpp"
VERSION = "3.21.1"
LIBRARIES = ("libllama.v*.so", "libggml.v*.so", "libggml-base.so")
BACKENDS = (
    "haswell", "alderlake", "skylakex", "cascadelake", "icelake", "cooperlake", "sapphirerapids", "zen4",
)  # fmt: skip
HEADERS = ("llama", "ggml", "ggml-cpu", "ggml-backend", "ggml-alloc", "ggml-opt", "gguf")


def download(folder: Path) -> None:
    """Raises UserError where a program is missing or fails."""
    (folder / "include").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        there = Path(place)
        for package in ("node-llama-cpp", "@node-llama-cpp/linux-x64"):
            run("npm", "pack", "--silent", f"{package}@{VERSION}", cwd=there)
        for archive in there.glob("*.tgz"):
            shutil.unpack_archive(archive, there)
        built, source = there / "package/bins/linux-x64", there / "source"
        for pattern in (*LIBRARIES, *(f"libggml-cpu-{name}.so" for name in BACKENDS)):
            shutil.copy(next(built.glob(pattern)), folder)
        bundle = there / "package/llama/gitRelease.bundle"
        run("git", "-c", "advice.detachedHead=false", "clone", "--quiet", str(bundle), str(source))
        for name in HEADERS:
            shutil.copy(next(source.glob(f"**/include/{name}.h")), folder / "include")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--upgrade")
    run(*pip, "--target", str(folder / "python"), "gguf>=0.17")


def run(*command: str, cwd: Path | None = None) -> None:
    try:
        subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"{' '.join(command)}: {error}; is {command[0]} installed?") from None


if __name__ == "__main__":
    try:
        download(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
    except UserError as error:
        sys.exit(str(error))
