import random

import numpy as np
import pytest
import torch

pytest.importorskip("lm_eval")
from lmfast.evaluation.task_results import Metric
from lmfast.evaluation.tasks import Tasks
from lmfast.evaluation.training_tasks import TrainingTasks, main_metrics
from tests.evaluation.conftest import NAMES
from tests.interop.models import SMALL, random_model, tokenizer


def states() -> tuple[object, bytes, list[int]]:
    return random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist()


def test_evaluations_repeat_and_leave_the_generators_as_they_were(task_folder):
    """Few-shot examples are drawn anew, and equally, each time."""
    path = task_folder / "animals.yaml"
    path.write_text(path.read_text() + "num_fewshot: 2\n")
    model = random_model(SMALL).train()
    before = states()
    tasks = TrainingTasks(NAMES, str(task_folder), 4, model.config, tokenizer())
    assert tasks.tokens > 100
    first, second = tasks(model), tasks(model)
    assert first == second and set(first) >= {"tiny_animals/acc", "tiny_animals/acc_stderr"}
    assert states() == before
    with torch.no_grad():
        model.embedding.weight.mul_(-1)
    assert tasks(model) != first  # of the weights as they are


def metric(task: str) -> Metric:
    return Metric(task, "acc", 0.5, None, 0, 8, True)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["mmlu"], ["mmlu"]),
        (["mmlu", "mmlu_a"], ["mmlu_a", "mmlu"]),
        (["tag"], ["mmlu_b", "piqa"]),
        (["outer"], ["mmlu_a", "mmlu_b"]),
    ],
)
def test_groups_are_logged_by_their_mean_if_they_have_one(names, expected):
    found = [metric(task) for task in ("mmlu_a", "mmlu_b", "piqa", "mmlu")]
    tasks = Tasks(group_map={"mmlu": ["mmlu_a", "mmlu_b"], "tag": ["mmlu_b", "piqa"], "outer": ["inner"]})
    tasks.group_map["inner"] = ["mmlu_a", "mmlu_b"]
    assert [m.task for m in main_metrics(found, names, tasks)] == expected
