"""The command line of the data commands: fast help, and separators as typed."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from lmfast.data.__main__ import separator, share
from tests.processes import assert_starts_within

ROOT = Path(__file__).resolve().parents[2]


def test_shares():
    assert [share(text) for text in ("0", "0.05", "5e-3")] == [0.0, 0.05, 0.005]
    for text in ("1", "-0.1", "nan", "half"):
        with pytest.raises(argparse.ArgumentTypeError, match="is not a fraction"):
            share(text)


def test_separators_as_typed():
    assert separator(r"\n\n") == "\n\n" and separator(r"--\t") == "--\t" and separator("żółw") == "żółw"


@pytest.mark.parametrize("command", [["-m", "lmfast.data"], ["-m", "lmfast", "data"]])
def test_help_is_fast(command):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command, "prepare", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert "--create-stats" in done.stdout
    assert not {"numba", "numpy", "huggingface_hub", "distributed"} & {
        line.split("|")[-1].strip() for line in done.stderr.splitlines()
    }
    assert_starts_within(0.6, *command, "prepare", "--help")
