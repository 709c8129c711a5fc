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
    assert {key[1]: (value.step, value.value) for key, value in found.items()} == {
        "all examples, 5 shots": (1000, 0.5),
        "first 100 at most, 5 shots": (10, 0.75),
    }


def test_a_task_is_named_once_and_so_is_each_way_of_evaluating_it(tmp_path):
    save(tmp_path, 1000, 0.5)
    save(tmp_path, 1000, 0.75, limit=0.5)
    lines = [{"step": 10 * n, "train_loss": 1.0, "piqa <b>/acc": n / 8, "piqa <b>/f1": 0.25} for n in (1, 2)]
    lines += [{"step": 30, "rewards/accuracies": 0.5}, {"step": 40, "piqa <b>/acc": "text"}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "config.yaml").write_text("eval_tasks_limit: 200\nbf16: true\n")
    section = task_section(["run"], [tmp_path])
    assert section.count('<th rowspan="4">piqa &lt;b&gt;</th>') == section.count("piqa") == 1
    for how, rows in (
        ("all examples, 5 shots", 1),
        ("first 50%, 5 shots", 1),
        ("first 200 at most, bf16, while training", 2),
    ):
        assert section.count(f'<td rowspan="{rows}">{how}</td>') == 1, how
    assert "0.2500 <span class" in section and "step 20<" in section and "accuracies" not in section


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
