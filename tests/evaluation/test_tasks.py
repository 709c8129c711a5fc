import pytest

pytest.importorskip("lm_eval")
from lmfast import load_run
from lmfast.errors import UserError
from lmfast.evaluation.task_model import TaskModel
from lmfast.evaluation.tasks import load_tasks, run_tasks
from tests.evaluation.conftest import NAMES


@pytest.fixture
def model(task_run) -> TaskModel:
    return TaskModel(*load_run(task_run)[:2])


def test_local_tasks_run_quietly(model, task_folder, capfd):
    found = run_tasks(model, load_tasks(NAMES, str(task_folder)))
    assert list(found["results"]) == NAMES
    assert found["n-samples"]["tiny_animals"] == {"original": 8, "effective": 8}
    assert "samples" not in found
    printed = capfd.readouterr()
    assert not printed.out and not printed.err


def test_limit_and_few_shot_examples(model, task_folder):
    for limit, expected in ((3, 3), (0.5, 4)):
        tasks = load_tasks(["tiny_animals"], str(task_folder), 2)
        found = run_tasks(model, tasks, limit, log_samples=True)
        assert found["n-samples"]["tiny_animals"]["effective"] == expected
        assert found["n-shot"]["tiny_animals"] == 2
        context = found["samples"]["tiny_animals"][0]["arguments"][0][0]
        assert context.count("\n\n") == 2 and context.endswith("The cat sat on the")


def test_results_are_reproducible(model, task_folder):
    first, second = (run_tasks(model, load_tasks(NAMES, str(task_folder), 1))["results"] for _ in range(2))
    assert first == second


def test_unknown_tasks(task_folder):
    with pytest.raises(UserError, match=r"unknown task 'tiny_animal'; did you mean tiny_animals\?"):
        load_tasks(["tiny_animal"], str(task_folder))


def test_missing_folders(task_folder):
    with pytest.raises(UserError, match="nowhere: is not a directory"):
        load_tasks(["tiny_animals"], str(task_folder / "nowhere"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("animals.json", "nothing.json", "tiny_animals cannot be loaded"),
        ("output_type: multiple_choice", "output_type: guessing", "tiny_animals cannot be loaded"),
        (
            "metric_list:",
            "process_docs: !function helper.f\nmetric_list:",
            "package no_such_package_of_a_task",
        ),
        ("metric_list:", "unsafe_code: true\nmetric_list:", "executes code"),
    ],
)
def test_tasks_that_cannot_run(old, new, message, task_folder):
    path = task_folder / "animals.yaml"
    path.write_text(path.read_text().replace(old, new))
    (task_folder / "helper.py").write_text(
        "import no_such_package_of_a_task\ndef f(docs):\n    return docs\n"
    )
    with pytest.raises(UserError, match=message) as caught:
        load_tasks(["tiny_animals"], str(task_folder))
    assert "\n" not in str(caught.value)
