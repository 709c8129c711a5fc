"""--eval-tasks of lmfast train, sft and dpo."""

import json
import sys

import pytest

pytest.importorskip("lm_eval")
from lmfast.cli import training_tasks
from lmfast.evaluate import EvaluateSettings, evaluate_run
from lmfast.evaluation import training_tasks as evaluated
from lmfast.sft import sft
from lmfast.train import main
from lmfast.training import compiled
from lmfast.training.run_folder import read_metrics
from lmfast.training.task_metrics import task_names
from tests.complete_runs import differ, run
from tests.evaluation.conftest import task_folder  # noqa: F401
from tests.quick_runs import make_runs_quick
from tests.training.forked_runs import finish, start_ranks

NAMES = "tiny_animals,tiny_perplexity,tiny_completion"
FLAGS = ("--eval-tasks", NAMES, "--eval-tasks-include-path", ".", "--eval-tasks-limit", "3")
TRAINING = ("--dropout", "0.1", "--lr-decay-iters", "6")
SHARED = ("train_loss", "val_loss", "learning_rate", "grad_norm")


def on_tasks(metrics: list[dict]) -> dict[int, dict[str, float]]:
    """{step: {name: value}} of the lines with results of tasks."""
    return {
        line["step"]: {name: line[name] for name in task_names(line)} for line in metrics if task_names(line)
    }


@pytest.fixture(scope="module")
def plain(corpus, tmp_path_factory):
    """Metrics and weights of a run that is not evaluated on tasks."""
    with pytest.MonkeyPatch.context() as patch:
        make_runs_quick(patch)
        return run(corpus, tmp_path_factory.mktemp("plain") / "run", *TRAINING)


def by_evaluate(folder, **changes) -> dict[str, float]:
    values = {"tasks": NAMES, "include_path": ".", "limit": 3.0, "device": "cpu"} | changes
    return evaluate_run(EvaluateSettings(run=str(folder), **values))


def test_training_is_unchanged_and_the_values_are_those_of_evaluate(
    corpus,
    plain,
    tmp_path,
    task_folder,  # noqa: F811
    capsys,
):
    metrics, last = run(corpus, tmp_path / "run", *TRAINING, *FLAGS, "--eval-tasks-interval", 4)
    printed = capsys.readouterr().out
    found = on_tasks(metrics)
    assert [*found] == [4, 6] and found[4] != found[6]
    assert "tiny_perplexity/bits_per_byte" in found[4]
    assert "tasks at step 4: tiny_animals acc 0." in printed and "\nstep 4/6  loss" in printed
    assert not differ(last, plain[1])
    lines = {line["step"]: line for line in metrics}
    for line in plain[0]:
        assert [lines[line["step"]].get(name) for name in SHARED] == [line.get(name) for name in SHARED]
    assert by_evaluate(tmp_path / "run") == found[6]
    # Resumed from step 3, without what a killed process had logged after it.
    run(corpus, tmp_path / "resumed", *TRAINING, *FLAGS, "--max-iters", 3, "--eval-tasks-interval", 0)
    assert [*on_tasks(read_metrics(tmp_path / "resumed"))] == [3]
    with open(tmp_path / "resumed/metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 5, "tiny_animals/acc": 9.0}) + "\n")
    monitored = ("--max-iters", 6, "--eval-tasks-interval", 4)
    metrics, again = run(corpus, tmp_path / "resumed", *TRAINING, *monitored)
    assert not differ(again, last)
    assert {step: values for step, values in on_tasks(metrics).items() if step > 3} == found
    # Turned off.
    run(corpus, tmp_path / "resumed", *TRAINING, "--eval-tasks", "none", "--max-iters", 7)
    assert 7 not in on_tasks(read_metrics(tmp_path / "resumed"))


def test_a_compiled_step_is_not_compiled_again_and_bf16_is_used(corpus, tmp_path, task_folder, monkeypatch):  # noqa: F811
    monkeypatch.setattr(compiled, "inductor", lambda graph, inputs: graph.forward)
    metrics, _ = run(corpus, tmp_path / "run", *FLAGS, "--compile", "--bf16", "--eval-tasks-interval", 2)
    assert [line["recompiles"] for line in metrics] == [0] * 6
    found = on_tasks(metrics)
    assert [*found] == [2, 4, 6]
    assert by_evaluate(tmp_path / "run", bf16=True) == found[6] != by_evaluate(tmp_path / "run")


def test_a_failure_ends_only_the_evaluation(corpus, plain, tmp_path, task_folder, monkeypatch, capsys):  # noqa: F811
    def fails(model, *_):
        model.model.eval()
        raise ValueError("a task's\nown code")

    monkeypatch.setattr(evaluated, "run_tasks", fails)
    metrics, last = run(corpus, tmp_path / "run", *TRAINING, *FLAGS, "--eval-tasks-interval", 4)
    assert not differ(last, plain[1]) and not on_tasks(metrics)
    printed = capsys.readouterr().out
    line = "tasks could not be evaluated (ValueError: a task's own code); the run continues"
    assert printed.count(line) == 2 and "tasks at step" not in printed


def test_fine_tuning(trained_run, tmp_path, task_folder, monkeypatch):  # noqa: F811
    make_runs_quick(monkeypatch)
    (tmp_path / "x.json").write_text(json.dumps([{"instruction": f"a{i}", "output": "b"} for i in range(8)]))
    files = ["--train-data", str(tmp_path / "x.json"), "--init-from", str(trained_run), "--device", "cpu"]
    short = ["--held-out", "2", "--warmup-iters", "1", "--max-iters", "2", "--batch-size", "2"]
    assert sft([*files, *short, *FLAGS, "--out-dir", str(tmp_path / "run")])
    found = on_tasks(read_metrics(tmp_path / "run"))
    assert [*found] == [2] and by_evaluate(tmp_path / "run") == found[2]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        # ci: indexing lm-eval's own tasks takes seconds.
        pytest.param(["--eval-tasks", "tiny_animal"], "did you mean tiny_animals?", marks=pytest.mark.ci),
        (["--eval-tasks", "tiny_animals,,"], "names separated by commas"),
        (["--eval-tasks-include-path", "nowhere"], "eval_tasks_include_path nowhere: is not a directory"),
        (["--eval-tasks-interval", "-1"], "eval_tasks_interval is -1"),
        (["--eval-tasks-limit", "-1"], "eval_tasks_limit is -1"),
        (["--tokenizer", "none"], "eval_tasks needs the tokenizer of the run"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_files(flags, message, corpus, tmp_path, task_folder, capsys):  # noqa: F811
    with pytest.raises(SystemExit) as stop:
        main([*corpus.flags(), *FLAGS, *flags, "--out-dir", str(tmp_path / "run")])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
    assert not (tmp_path / "run").exists()


def test_a_directory_without_tasks(corpus, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*corpus.flags(), "--eval-tasks-include-path", ".", "--out-dir", str(tmp_path / "run")])
    assert stop.value.code == 2 and not (tmp_path / "run").exists()
    assert "eval_tasks_include_path is given without eval_tasks" in capsys.readouterr().err


def test_without_the_package(corpus, tmp_path, monkeypatch, capsys):
    for name in [*sys.modules]:
        if name.startswith(("lm_eval.", "lmfast.evaluation.")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(SystemExit) as stop:
        main([*corpus.flags(), "--eval-tasks", "piqa", "--out-dir", str(tmp_path / "run")])
    assert stop.value.code == 2 and not (tmp_path / "run").exists()
    assert "--eval-tasks needs the package lm_eval, which is not installed" in capsys.readouterr().err


@pytest.mark.ci
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_the_first_of_two_ranks_evaluates(corpus, tmp_path, task_folder, parallel):  # noqa: F811
    flags = [*FLAGS, "--eval-tasks-include-path", str(task_folder), "--eval-tasks-interval", "4"]
    _, one = run(corpus, tmp_path / "one", *flags)
    flags += ["--parallel", parallel]
    words = [*corpus.flags(), "--tokenizer", corpus.tokenizer, "--out-dir", tmp_path / "two", *flags]
    if parallel == "fsdp":
        texts = finish(start_ranks(words, tmp_path / "log"), tmp_path / "log", (2, 2))
        assert "eval_tasks: tiny_completion generate text" in texts[0] and not texts[1]
        words += ["--eval-tasks", "tiny_animals,tiny_perplexity"]
    both = start_ranks(words, tmp_path / "log")
    texts = finish(both, tmp_path / "log")
    assert "tasks at step 4: tiny_animals acc" in texts[0] and not texts[1]
    assert [*on_tasks(read_metrics(tmp_path / "two"))] == [4, 6] and one


def test_it_is_off_by_default():
    settings = training_tasks.TrainSettings()
    task = object()
    assert training_tasks.with_tasks(settings, task) == (settings, task)  # pyright: ignore[reportArgumentType]
