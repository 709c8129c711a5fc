"""The suite's frame from the outside: runs save themselves by host, device and mode, and say what changed."""

import json
import os
import subprocess
import sys

import pytest

from bench.machine import ROOT

SUITE = """
import time
from bench.measuring import Work

def test_sleep(measure):
    measure(lambda: time.sleep(0.001), Work(bytes=1000), {"peer": lambda: time.sleep(0.003)})
"""


@pytest.fixture
def suite(tmp_path):
    """Runs a suite of one benchmark with the real conftest and a folder of results of its own."""
    (tmp_path / "test_one.py").write_text(SUITE)
    (tmp_path / "conftest.py").write_text(
        "from pathlib import Path\n"
        "from bench import storage\n"
        f"storage.FOLDER = Path({str(tmp_path / 'saved')!r})\n"
        "from bench.conftest import *\n"
        "import bench.ceilings\n"
        "bench.ceilings.measured = lambda device, tries: {'read': 1e9}\n"
    )

    def run(*flags: str) -> str:
        command = [sys.executable, "-m", "pytest", "-q", str(tmp_path), "-p", "no:cacheprovider", *flags]
        # The benchmark plugin measures nothing where it believes itself in a worker of xdist.
        outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
        done = subprocess.run(
            command, cwd=tmp_path, env={**outside, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout + done.stderr

    return run


def test_runs_are_saved_and_compared_within_their_mode(suite, tmp_path):
    first = suite("--quick", "--benchmark-compare")
    assert "1 passed" in first and "Nothing to compare with yet" in first
    assert "x peer" in first and "measured ceilings: read 1 GB/s" in first
    second = suite("--quick", "--benchmark-compare")
    assert "change: how many times as fast as in 0001_" in second
    assert "Nothing to compare with yet" in suite("--benchmark-compare")
    files = sorted((tmp_path / "saved").rglob("*.json"))
    assert len(files) == 3 and len({path.parent for path in files}) == 2
    saved = json.loads(files[0].read_text())
    assert {"host", "cpu", "gpu", "versions", "commit", "dirty", "mode", "ceilings"} <= saved[
        "machine_info"
    ].keys()
    assert saved["benchmarks"][0]["extra_info"]["peers"]["peer"]["ratio"]["median"] > 1.5


def test_quick_and_full_exclude_each_other(suite):
    assert "--quick and --full contradict each other" in suite("--quick", "--full")
