"""lmfast evaluate --tasks."""

import json
import os
import subprocess
import sys

import pytest

from lmfast.errors import UserError
from lmfast.evaluate import EvaluateSettings, evaluate_run, main
from tests.evaluation.conftest import NAMES, task_folder  # noqa: F401
from tests.interop.models import SMALL, make_run, random_model, tokenizer


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run", random_model(SMALL), tokenizer())


def settings(run, **changes) -> EvaluateSettings:
    values = {"tasks": ",".join(NAMES), "include_path": ".", "device": "cpu"}
    return EvaluateSettings(run=str(run), **(values | changes))


def test_results_are_printed_saved_and_reported(run, task_folder, tmp_path, capsys):  # noqa: F811
    (run / "metrics.jsonl").write_text('{"step": 1, "train_loss": 2.0}\n')
    found = evaluate_run(settings(run, json=str(tmp_path / "copy.json"), limit=5.0))
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].split()[:3] == ["task", "metric", "value"] and len(lines) == 8
    path = run / f"evaluations/step_00000001_{'+'.join(NAMES)}_first_5.json"
    assert str(path) in lines[-1]
    content = json.loads(path.read_text())
    assert content == json.loads((tmp_path / "copy.json").read_text())
    assert content["settings"]["tasks"] == NAMES and content["step"] == 1
    assert {f"{m['task']}/{m['metric']}": m["value"] for m in content["metrics"]} == found
    assert set(found) >= {"tiny_animals/acc", "tiny_perplexity/bits_per_byte", "tiny_completion/exact_match"}
    assert printed.err.startswith("loading lm-eval and tiny_animals, tiny_perplexity, tiny_completion …\n")
    assert "lost their beginning" in printed.err
    report = (run / "report.html").read_text()
    assert "tiny_animals" in report and f"{found['tiny_animals/acc']:.4f}" in report


def test_precision_changes_little(run, task_folder):  # noqa: F811
    plain, half = (evaluate_run(settings(run, tasks="tiny_perplexity", bf16=on)) for on in (False, True))
    name = "tiny_perplexity/bits_per_byte"
    assert plain[name] != half[name] and half[name] == pytest.approx(plain[name], rel=0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": "tiny_animals,,"}, "names separated by commas"),
        ({"include_path": "nowhere"}, "not a directory"),
        ({"num_fewshot": -1}, "num_fewshot is -1"),
        ({"limit": 1.5}, "limit is 1.5"),
        ({"limit": 0.0}, "limit is 0"),
        ({"apply_chat_template": True}, "not a chat model"),
        ({"data": "x.npy"}, "--data does not apply to --tasks"),
        ({"batch_size": 3}, "--batch-size does not apply to --tasks"),
        ({"tasks": None, "include_path": None, "limit": 3.0}, "--limit requires --tasks"),
        ({"json": "no/folder/x.json"}, "no/folder"),
    ],
)
def test_bad_input(changes, message, run, task_folder, capsys):  # noqa: F811
    with pytest.raises((UserError, OSError), match=message):
        evaluate_run(settings(run, **changes))
    assert not capsys.readouterr().out and not (run / "evaluations").exists()


@pytest.mark.parametrize(
    "changes", [{"include_path": "nowhere"}, {"apply_chat_template": True}, {"tasks": ","}]
)
def test_options_are_checked_before_lm_eval_is_imported(changes, run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError) as error:
        evaluate_run(settings(run, **changes))
    assert "lm_eval" not in str(error.value) and not capsys.readouterr().err


def test_a_run_without_tokenizer(tmp_path, task_folder):  # noqa: F811
    run = make_run(tmp_path / "bare", random_model(SMALL), None)
    with pytest.raises(UserError, match="no tokenizer"):
        evaluate_run(settings(run))


def test_without_the_package(run, monkeypatch, capsys):
    for name in [*sys.modules]:
        if name.startswith(("lm_eval.", "lmfast.evaluation.")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(SystemExit) as stop:
        main([str(run), "--tasks", "piqa", "--device", "cpu"])
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.startswith(
        "error: --tasks needs the package lm_eval, which is not installed; run `pip install"
    )


@pytest.mark.ci
def test_without_a_network(run, tmp_path):
    """One line, and nothing is written. Indexing lm-eval's tasks takes seconds."""
    pytest.importorskip("lm_eval")
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(
        [sys.executable, "-m", "lmfast", "evaluate", str(run), "--tasks", "arc_easy", "--device", "cpu"],
        env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 2 and not done.stdout
    loading, line = done.stderr.splitlines()
    assert loading.startswith("loading lm-eval and arc_easy")
    assert line.startswith("error: task arc_easy cannot be loaded") and "network" in line
    assert not (run / "evaluations").exists()
