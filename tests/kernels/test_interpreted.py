"""Runs tests/kernels/interpreted in one fresh process, where Triton interprets its kernels on the CPU.

A fresh process, because `@triton.jit` decides at import; LMFAST_KERNELS=triton, because dispatch on a CPU would otherwise
compare the reference with itself. Each file there is a test here, which shows its failures in full.
"""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "interpreted"
ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.timeout(1800)  # the first test waits for all files


@pytest.fixture(scope="session")
def outcomes(tmp_path_factory) -> dict[str, tuple[int, list[str]]]:
    """File -> (tests that passed, output of the others)."""
    pytest.importorskip("triton", reason="Triton is not installed on this platform")
    report = tmp_path_factory.mktemp("interpreted") / "report.xml"
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "LMFAST_KERNELS": "triton",
        "OMP_NUM_THREADS": "1",  # a second thread slows down tensors this small
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        str(FOLDER),
        "-q",
        "-p",
        "no:cacheprovider",
        f"--junitxml={report}",
    ]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert report.exists(), done.stdout + done.stderr
    found: dict[str, tuple[int, list[str]]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.get("classname", "").rsplit(".", 1)[-1] or case.get("name", "").rsplit(".", 1)[-1]
        passed, complaints = found.get(name, (0, []))
        troubles = [part for part in case if part.tag in ("failure", "error", "skipped")]
        complaints = complaints + [f"{case.get('name')}\n{part.text}" for part in troubles]
        found[name] = (passed + (not troubles), complaints)
    return found


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("test_*.py")))
def test_kernels_in_the_interpreter(name, outcomes):
    passed, complaints = outcomes.get(name, (0, ["not one test ran"]))
    assert not complaints and passed, f"{len(complaints)} failed:\n\n" + "\n\n".join(complaints)
