"""The scripts in examples/ run unchanged, in an empty folder."""

import runpy
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).resolve().parent.parent / "examples").glob("*.py"))

EXPECTED = {
    "operators": "attention (1, 4, 16, 32)",
    "tokenizer": "b' cheese'",
    "train_and_generate": "[10, 11, 12, 13, 14, 15, 16, 17, 18, 19]",
}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_runs(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")
    assert EXPECTED[script.stem] in capsys.readouterr().out
