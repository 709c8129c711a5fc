"""The pictures of text statistics and tasks; tests/training/test_report.py has the others."""

import json

import pytest

from lmfast.training.report_plots import TASKS, TEXT, plots
from lmfast.training.run_metrics import RunMetrics


@pytest.fixture
def make_run(tmp_path):
    def make(name: str, tasks: int = 2) -> RunMetrics:
        (tmp_path / name).mkdir()
        values = {f"task_{i}/acc": i / 10 for i in range(tasks)} | {"task_0/perplexity": 3.0}
        lines = [
            {"step": step, **dict.fromkeys(TEXT, 0.5), **values, "task_0/acc_stderr": 0.1}
            for step in (10, 20)
        ]
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return RunMetrics(tmp_path / name)

    return make


def test_of_one_run_a_line_per_statistic_and_task(make_run):
    page = plots([make_run("one")])
    assert page.count("<svg") == 3
    for title in ("Text of the samples", "Tasks: acc", "Tasks: perplexity"):
        assert f'aria-label="{title}"' in page
    for name in ("distinct 2", "repetition", "known words", "task_1"):
        assert page.count(f">{name}</text>") == 1, name
    assert page.count(">task_0</text>") == 2 and "stderr" not in page


def test_of_several_runs_a_picture_per_statistic_and_task(make_run):
    page = plots([make_run("a"), make_run("b")])
    assert page.count("<svg") == len(TEXT) + 3
    for title in ("Samples: repetition", "task_0: acc", "task_1: acc", "task_0: perplexity"):
        assert f'aria-label="{title}"' in page
    assert page.count(">b</text>") == len(TEXT) + 3


def test_many_tasks_are_split(make_run):
    page = plots([make_run("one", TASKS + 1)])
    assert 'aria-label="Tasks: acc (1)"' in page and 'aria-label="Tasks: acc (2)"' in page
