"""One process an operator; what each found so far is in one file."""

import json
import sys

import pytest

from bench.gpu_correctness import MODEL, check, command
from lmfast_kernels import check as kernels_check

WRITES = (
    "import json, sys\n"
    "operator, path, code = sys.argv[1:]\n"
    "entry = {'checks': [{'what': 'values', 'passed': code == '0'}], 'done': True}\n"
    "open(path, 'w').write(json.dumps({'operators': {operator: entry}}))\n"
    "sys.exit(int(code))\n"
)


@pytest.mark.parametrize(("code", "right"), [(0, True), (1, False)])
def test_findings_of_all_operators_are_in_one_file(tmp_path, code, right):
    def make(operator, path):
        return [sys.executable, "-c", WRITES, operator, str(path), str(code if operator == "rope" else 0)]

    output = tmp_path / "c.json"
    assert check(["rope", "swiglu"], output, {"gpu": "a card"}, make) is right
    saved = json.loads(output.read_text())
    assert saved["gpu"] == "a card" and saved["exit_codes"] == {"rope": code, "swiglu": 0}
    assert saved["operators"]["rope"]["checks"][0]["passed"] is right
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


def test_rows_of_the_whole_model_are_kept_too(tmp_path):
    write = "import sys; open(sys.argv[1], 'w').write('{\"rows\": [1]}')"
    output = tmp_path / "c.json"
    assert check([MODEL], output, {}, lambda operator, path: [sys.executable, "-c", write, str(path)])
    assert json.loads(output.read_text())["operators"] == {MODEL: {"rows": [1]}}
    assert command(MODEL, tmp_path / "x", True)[2:5] == ["bench.gpu_training", "--only", MODEL]


def test_a_process_that_breaks_is_not_right(tmp_path):
    output = tmp_path / "c.json"
    assert not check(
        ["rope"], output, {}, lambda operator, path: [sys.executable, "-c", "raise SystemExit(3)"]
    )
    assert json.loads(output.read_text()) == {"operators": {}, "exit_codes": {"rope": 3}}


def test_the_command_is_understood(tmp_path, monkeypatch, capsys):
    words = command("rope", tmp_path / "r.json")
    monkeypatch.setattr(kernels_check.torch.cuda, "is_available", lambda: False)
    assert (
        kernels_check.main(words[words.index("lmfast_kernels.check") + 1 :]) == 2
    )  # not argparse's 2: it was parsed
    assert "needs a CUDA device" in capsys.readouterr().err
