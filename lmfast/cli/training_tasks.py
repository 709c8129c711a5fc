"""`--eval-tasks` of `lmfast train`, `sft` and `dpo`: evaluates the model on lm-eval's tasks while it is trained."""

import dataclasses
import os
from typing import TypeVar

from lmfast.cli.task_options import NEEDS_TOKENIZER, check_package, lm_eval_imported, wanted_tasks
from lmfast.errors import UserError
from lmfast.evaluation.task_tokenizer import check_tokenizer
from lmfast.settings import TrainSettings, replace_flat, selected_precision
from lmfast.training.parallel.ranks import SINGLE_PROCESS, Ranks
from lmfast.training.task import Task

T = TypeVar("T", bound=TrainSettings)


def with_tasks(settings: T, task: Task, ranks: Ranks = SINGLE_PROCESS) -> tuple[T, Task]:
    """(settings, task) of a run that evaluates on `eval_tasks`, if it has any, on rank 0.

    Loads and checks the tasks. Raises UserError if that is not possible."""
    log = settings.logging
    names = wanted_tasks(log)
    if not names:
        return replace_flat(settings, {"eval_tasks": None, "eval_tasks_include_path": None}), task
    if (path := log.eval_tasks_include_path) is not None:
        settings = replace_flat(settings, {"eval_tasks_include_path": os.path.abspath(path)})
    if task.tokenizer is None:
        raise UserError(NEEDS_TOKENIZER)
    check_tokenizer(task.tokenizer)
    loaded = ranks.only_first(lambda: _load(settings, task, names, ranks))
    return settings, task if loaded is None else loaded


def _load(settings: TrainSettings, task: Task, names: list[str], ranks: Ranks) -> Task:
    log = settings.logging
    check_package("--eval-tasks")
    ranks.report(f"eval_tasks: loading {', '.join(names)}")
    with lm_eval_imported("--eval-tasks"):
        from lmfast.evaluation.training_tasks import TrainingTasks
    assert task.tokenizer is not None
    evaluate = TrainingTasks(
        names,
        log.eval_tasks_include_path,
        log.eval_tasks_limit or None,
        settings.model,
        task.tokenizer,
        selected_precision(settings.run),
    )
    return dataclasses.replace(
        task, evaluate_tasks=evaluate, task_tokens=evaluate.tokens, generating_tasks=evaluate.generate
    )
