"""Links in the top-level Markdown files lead to existing files; the documentation builds in strict mode."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = {link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link}
    assert targets and not [target for target in targets if target and not (ROOT / target).exists()]


@pytest.mark.ci
def test_the_documentation_builds(tmp_path):
    pytest.importorskip("mkdocs", reason="the dependency group docs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "train_bpe" in (tmp_path / "api/lmfast/index.html").read_text(encoding="utf-8")
