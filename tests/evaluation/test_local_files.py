"""Data files next to the task file are found from any working directory."""

import pytest

pytest.importorskip("lm_eval")
from lmfast.errors import UserError
from lmfast.evaluation.tasks import load_tasks
from tests.evaluation.conftest import NAMES


def count(loaded, name: str = "tiny_animals") -> int:
    return len(loaded.tasks[name].dataset["test"])


def test_tasks_groups_and_tags_work_from_anywhere(task_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (task_folder / "group.yaml").write_text("group: tiny\ntask:\n  - tiny_animals\n  - tiny_completion\n")
    text = (task_folder / "animals.yaml").read_text().replace("tiny_animals", "tagged") + "tag: some\n"
    (task_folder / "tagged.yaml").write_text(text.replace("animals.json", '["anim*.json"]'))
    assert [*load_tasks(NAMES, "tasks").tasks] == NAMES
    assert count(load_tasks(["tiny"], "tasks")) == 8
    assert count(load_tasks(["some"], str(task_folder)), "tagged") == 8


def test_other_paths_are_relative_to_the_working_directory(task_folder, tmp_path, monkeypatch):
    """The file next to the task file has precedence."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "animals.json").write_text("[]")
    assert count(load_tasks(["tiny_animals"], "tasks")) == 8
    (task_folder / "animals.json").rename(tmp_path / "animals.json")
    assert count(load_tasks(["tiny_animals"], "tasks")) == 8
    (tmp_path / "animals.json").unlink()
    with pytest.raises(UserError, match="tiny_animals cannot be loaded"):
        load_tasks(["tiny_animals"], "tasks")
