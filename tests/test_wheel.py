"""The built wheel in a fresh environment, next to Hugging Face's `kernels` and transformers, in an empty folder.

Heavy dependencies (torch, transformers) come from the running interpreter's site-packages, through a .pth file; its
editable install of this project does not, because .pth files of such a folder are not read.
"""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.ci, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
SMALL = "--max-iters 3 --batch-size 2 --log-interval 1 --context-length 32 --d-model 32 --num-layers 1 --num-heads 2"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


class Environment:
    """A virtual environment in `folder` that sees the running interpreter's packages, and an empty working folder."""

    def __init__(self, folder: Path):
        self.scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        self.work = folder / "empty"
        self.work.mkdir()
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True, env=OUTSIDE)
        self.packages = Path(self.python("import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        (self.packages / "heavy.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(self, program: str, *words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [self.scripts / program, *words], cwd=self.work, env=OUTSIDE, capture_output=True, text=True
        )

    def output_of(self, program: str, *words: str) -> str:
        done = self.run(program, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def python(self, code: str) -> str:
        return self.output_of("python", "-c", code)

    def install_hugging_face_kernels(self) -> None:
        done = self.run("python", "-m", "pip", "install", "--quiet", "kernels")
        if done.returncode:
            pytest.skip(f"Hugging Face's kernels cannot be installed: {done.stderr.strip().splitlines()[-1]}")

    def install(self, wheel: Path) -> None:
        self.output_of(
            "python", "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed", str(wheel)
        )

    def files_of_hugging_face_kernels(self) -> dict[str, bytes]:
        folder = self.packages / "kernels"
        return {str(path): path.read_bytes() for path in folder.rglob("*.py")}


def test_the_wheel_has_all_that_a_checkout_uses(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"lmfast", "lmfast_kernels"}
    for folder, prefix in (
        ("lmfast", "lmfast"),
        ("kernels/lmfast_kernels", "lmfast_kernels"),
        ("configs", "lmfast/configs"),
    ):
        files = [
            path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts
        ]
        missing = {f"{prefix}/{path.relative_to(ROOT / folder).as_posix()}" for path in files} - names
        assert files and not missing
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.parametrize("ours_first", [False, True], ids=["after", "before"])
def test_next_to_hugging_face_kernels(wheel, tmp_path, ours_first):
    environment = Environment(tmp_path)
    if ours_first:
        environment.install(wheel)
    environment.install_hugging_face_kernels()
    theirs = environment.files_of_hugging_face_kernels()
    if not ours_first:
        environment.install(wheel)

    # Without data `train` prepares the built-in stories, which compiles the tokenizer (a minute), so do it once.
    if ours_first:
        data = environment.work / "ids.npy"
        np.save(data, np.arange(1000, dtype=np.uint16) % 64)
        data = ["--train-data", str(data), "--tokenizer", "none", "--vocab-size", "64"]
    else:
        data = []
    flags = [*data, *SMALL.split(), "--device", "cpu", "--out-dir", "runs/first"]
    printed = environment.output_of("lmfast", "train", *flags)
    assert (environment.work / "runs/first/checkpoints/step_00000003/COMPLETE").exists(), printed
    assert "d_model 1,600" in environment.output_of("lmfast", "flops", "--config", "gpt2_xl")
    for module in ("lmfast", "lmfast_kernels", "kernels"):
        where = environment.python(f"import {module}; print({module}.__file__)")
        assert Path(where.strip()).is_relative_to(environment.packages)
    environment.python("import transformers, transformers.integrations.hub_kernels")
    available = "from lmfast_kernels import cpu_library; print(cpu_library.available())"
    here = subprocess.run(
        [sys.executable, "-c", available], capture_output=True, text=True, check=True
    ).stdout
    assert environment.python(available) == here

    environment.output_of("python", "-m", "pip", "uninstall", "--yes", "lmfast")
    assert theirs and environment.files_of_hugging_face_kernels() == theirs
    assert not (environment.packages / "lmfast_kernels/__init__.py").exists()
    environment.python("import kernels, transformers.integrations.hub_kernels")
