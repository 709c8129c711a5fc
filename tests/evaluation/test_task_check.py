"""What a run rejects before it starts, and how many ids its evaluations read."""

import dataclasses

import pytest

pytest.importorskip("lm_eval")
from lmfast.errors import UserError
from lmfast.evaluation.task_check import TaskCheck
from lmfast.evaluation.tasks import check_requests, load_tasks
from tests.interop.models import SMALL, tokenizer


def test_ids_are_counted_without_a_model(task_folder):
    counts = []
    for names, limit in ((["tiny_animals"], None), (["tiny_animals"], 2), (["tiny_completion"], 1)):
        check = TaskCheck(SMALL.resolved(), tokenizer())
        check_requests(check, load_tasks(names, str(task_folder)), limit)
        counts.append(check.tokens)
    assert counts[0] > counts[1] > counts[2] > 6  # the last one: a context and 6 ids


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("animals", "{{question}}", "{{ 1 // ('cat' in question) }}", "task tiny_animals cannot be read"),
        ("completion", "max_gen_toks: 6", "min_p: 0.5", "sets min_p: 0.5 in its generation_kwargs"),
    ],
)
def test_tasks_that_cannot_be_evaluated(name, old, new, message, task_folder):
    path = task_folder / f"{name}.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    tasks = load_tasks([f"tiny_{name}"], str(task_folder))
    with pytest.raises(UserError, match=message):
        check_requests(TaskCheck(SMALL.resolved(), tokenizer()), tasks)


def test_answers_longer_than_the_context(task_folder):
    config = dataclasses.replace(SMALL, context_length=2).resolved()
    with pytest.raises(UserError, match="more than the context of 2"):
        check_requests(TaskCheck(config, tokenizer()), load_tasks(["tiny_animals"], str(task_folder)))
