"""One process per operator; the findings so far are in one file."""

import json
import sys

import pytest

from bench import results
from bench.gpu_correctness import MODEL, check, command
from bench.results import Row
from lmfast_kernels import check as kernels_check
from tests.bench.results import MACHINE, target_table


def process(saved: dict, code: int = 0) -> list[str]:
    write = f"import json, sys; json.dump({saved!r}, open(sys.argv[1], 'w')); sys.exit({code})"
    return [sys.executable, "-c", write]


@pytest.mark.parametrize(("code", "right"), [(0, True), (1, False)])
def test_findings_of_all_operators_are_in_one_file(tmp_path, code, right):
    def make(operator, path):
        wrong = code and operator == "rope"
        outcome = {"checks": [{"what": "values", "passed": not wrong}], "timings": [], "done": True}
        saved = {"gpu": "a card", "commit": "abc", "operators": {operator: outcome}}
        return [*process(saved, code if wrong else 0), str(path)]

    output = tmp_path / "c.json"
    assert check(["rope", "swiglu"], output, MACHINE, make) is right
    rope, swiglu, *failures = results.read(output).rows
    assert (rope.name, rope.verdict) == ("rope: right at real sizes", "-" if right else "WRONG")
    assert swiglu.shown == "1 of 1 comparisons"
    assert failures == ([] if right else [Row("rope", 1, wrong="FAILED: exit code 1")])
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


def test_rows_of_the_whole_model_are_saved(tmp_path):
    output, row = tmp_path / "c.json", Row("agreement", 1e-4)
    saved = target_table(row).as_dict()
    assert check([MODEL], output, MACHINE, lambda operator, path: [*process(saved), str(path)])
    assert results.read(output).rows == [row]
    assert command(MODEL, tmp_path / "x", True)[2:5] == ["bench.gpu_training", "--only", MODEL]


def test_the_command_line_is_parsed(tmp_path, monkeypatch, capsys):
    words = command("rope", tmp_path / "r.json")
    monkeypatch.setattr(kernels_check.torch.cuda, "is_available", lambda: False)
    assert (
        kernels_check.main(words[words.index("lmfast_kernels.check") + 1 :]) == 2
    )  # not argparse's 2: it was parsed
    assert "needs a CUDA device" in capsys.readouterr().err


def test_a_crashed_process_is_not_correct(tmp_path):
    output = tmp_path / "c.json"
    assert not check(["rope"], output, MACHINE, lambda *_: [sys.executable, "-c", "raise SystemExit(3)"])
    assert json.loads(output.read_text())["rows"] == [
        {"name": "rope", "value": 3, "wrong": "FAILED: exit code 3"}
    ]
