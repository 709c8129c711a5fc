"""The process of a stage is the command itself."""

import subprocess
import sys


def test_it_runs_the_command(tmp_path):
    words = [sys.executable, "-m", "lmfast.cli.recipes.stage", str(tmp_path / "facts.json")]
    done = subprocess.run([*words, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("lmfast ") and not (tmp_path / "facts.json").exists()
    done = subprocess.run([*words, "trian"], capture_output=True, text=True)
    assert done.returncode == 2 and "unknown command 'trian'" in done.stderr
