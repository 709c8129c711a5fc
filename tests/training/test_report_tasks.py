import json

import pytest

from lmfast.training.report import write_report
from lmfast.training.report_tasks import read_task_values, task_section


def save(folder, step: int, value: float, **changes) -> None:
    chosen = {"limit": None, "apply_chat_template": False, "bf16": False, "fp16": False} | changes
    metric = {"task": "piqa <b>", "metric": "acc", "value": value, "stderr": 0.125, "shots": 5}
    (folder / "evaluations").mkdir(parents=True, exist_ok=True)
    name = f"step_{step}_{'-'.join(map(str, changes.values()))}.json"
    content = {"step": step, "settings": chosen, "metrics": [metric]}
    (folder / "evaluations" / name).write_text(json.dumps(content))


def test_the_newest_step_of_each_evaluation_is_shown(tmp_path):
    save(tmp_path, 900, 0.25)
    save(tmp_path, 1000, 0.5)
    save(tmp_path, 10, 0.75, limit=100.0)
    found = read_task_values(tmp_path)
    assert {key[2]: (value.step, value.value) for key, value in found.items()} == {
        "5 shots": (1000, 0.5),
        "5 shots, first 100": (10, 0.75),
    }


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"step": 1, "settings": {}, "metrics": [{}]}'])
def test_damaged_files_are_skipped(text, tmp_path):
    (tmp_path / "evaluations").mkdir()
    (tmp_path / "evaluations/x.json").write_text(text)
    assert task_section(["run"], [tmp_path]) == ""


def test_a_column_per_run_in_the_report(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 1, "train_loss": 1.0}\n')
    save(tmp_path / "a", 1, 0.25)
    write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "piqa &lt;b&gt;" in page and "0.2500 ± 0.1250" in page and "<h2>Tasks</h2>" in page
    write_report([tmp_path / "b"], tmp_path / "page.html")
    assert "<h2>Tasks</h2>" not in (tmp_path / "page.html").read_text()
