"""Loads and runs lm-eval's tasks, those of its package and local ones. Needs the package lm_eval.

In: names of tasks, groups or tags, and a TaskModel. Out: lm-eval's results, without its description of the machine, which
takes seconds. Rejects (UserError) unknown names, naming the closest, tasks whose data or packages are not available, and
tasks that execute generated code or need pictures. Nothing is evaluated before all tasks are loaded.
"""

import contextlib
import io
import logging
import os
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from lm_eval.api import task as api_task
from lm_eval.evaluator import evaluate
from lm_eval.evaluator_utils import get_sample_size
from lm_eval.tasks import TaskManager

from lmfast.errors import UserError
from lmfast.evaluation.local_files import resolve_data_files
from lmfast.evaluation.task_model import TaskModel
from lmfast.suggestions import nearest

SEEDS = {"random": 0, "numpy": 1234, "torch": 1234, "fewshot": 1234}
"""those of lm-eval's command, so that few-shot examples are the same"""
RESAMPLES = 1000
"""for standard errors that are estimated by resampling, such as that of perplexity: 100,000 as in lm-eval take minutes"""


@dataclass
class Tasks:
    """Loaded tasks, by name, in the form that lm-eval's `evaluate` takes."""

    tasks: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, Any] = field(default_factory=dict)
    group_map: dict[str, list[str]] = field(default_factory=dict)


def load_tasks(
    names: Sequence[str], include_path: str | None = None, num_fewshot: int | None = None
) -> Tasks:
    """The tasks, groups and tags of these names. include_path: a directory with further task files (YAML).

    num_fewshot overrides that of the tasks, unless a task sets it to 0."""
    with _quiet():
        manager = _manager(names, include_path)
        loaded = Tasks()
        for name in names:
            if name not in manager.task_index:
                raise UserError(f"unknown task {name!r}{_closest(name, manager.all_tasks, include_path)}")
            found = _load(manager, name)
            loaded.tasks |= found["tasks"]
            loaded.groups |= found.get("groups", {})
            loaded.group_map |= found.get("group_map", {})
    for name, task in loaded.tasks.items():
        if getattr(task, "UNSAFE_CODE", False):
            raise UserError(
                f"task {name} executes code that the model writes, which lmfast does not do; remove it"
            )
        if getattr(task, "MULTIMODAL", False):
            raise UserError(f"task {name} needs a model that reads pictures; remove it")
        own = task.get_config("num_fewshot")
        if own is None or (num_fewshot is not None and own != 0):
            task.set_config(key="num_fewshot", value=num_fewshot or 0)
    return loaded


def check_requests(model: TaskModel, tasks: Tasks, limit: float | None = None) -> None:
    """Builds the requests of tasks, and hands them to a model whose answers do not matter (task_check.py).

    Raises UserError for a task whose examples do not fit its own templates, or that the model rejects."""
    with _quiet():
        for name, task in tasks.tasks.items():
            task.set_fewshot_seed(seed=SEEDS["fewshot"])
            try:
                task.build_all_requests(limit=get_sample_size(task, limit), rank=0, world_size=1)
            except Exception as error:  # of templates and of a task's own code
                raise UserError(
                    f"task {name} cannot be read ({_reason(error)}); correct it, or remove it"
                ) from None
            kinds = defaultdict(list)
            for request in task.instances:
                kinds[request.request_type].append(request)
            for kind, requests in kinds.items():
                getattr(model, kind)(requests)


def run_tasks(
    model: TaskModel,
    tasks: Tasks,
    limit: float | None = None,
    apply_chat_template: bool = False,
    log_samples: bool = False,
) -> dict[str, Any]:
    """lm-eval's results. limit: examples per task, below 1 their share. log_samples: include those of each example."""
    random.seed(SEEDS["random"])
    np.random.seed(SEEDS["numpy"])
    for task in tasks.tasks.values():  # each time, so that evaluations of the same tasks are equal
        task.set_fewshot_seed(seed=SEEDS["fewshot"])
    torch.manual_seed(SEEDS["torch"])
    os.environ["DISABLE_MULTIPROC"] = "1"  # resampling must not fork a process that runs threads
    options: dict[str, Any] = {
        "limit": limit,
        "log_samples": log_samples,
        "bootstrap_iters": RESAMPLES,
    }
    if apply_chat_template:
        model.chat_template(True)  # rejects models without one before contexts are built
        options |= {"apply_chat_template": True, "fewshot_as_multiturn": True}
    with _quiet():
        found = evaluate(
            model, {"tasks": tasks.tasks, "groups": tasks.groups, "group_map": tasks.group_map}, **options
        )
    assert found is not None  # it is None only in other processes of several
    return dict(found)


def _manager(names: Sequence[str], include_path: str | None) -> TaskManager:
    """An index of tasks. That of lm-eval's own 14,000 takes seconds, and is not built if local files have all `names`."""
    if include_path is not None:
        if not Path(include_path).is_dir():
            raise UserError(
                f"{include_path}: is not a directory; give --include-path one with task files (YAML)"
            )
        local = TaskManager(include_path=include_path, include_defaults=False)
        if set(names) <= set(local.all_subtasks):
            resolve_data_files(local, include_path)
            return local
    manager = TaskManager(include_path=include_path)
    if include_path is not None:
        resolve_data_files(manager, include_path)
    return manager


def _load(manager: TaskManager, name: str) -> Any:
    try:
        return manager.load([name])
    except ModuleNotFoundError as error:
        raise UserError(
            f"task {name} needs the package {error.name}, which is not installed; run `pip install {error.name}`"
        ) from None
    except Exception as error:  # of YAML, datasets, huggingface_hub, its HTTP client, or a task's own code
        raise UserError(
            f"task {name} cannot be loaded ({_reason(error)}); its data is downloaded on first use, "
            "which needs a network, and a local task file must be valid"
        ) from None


def _reason(error: Exception) -> str:
    """The first line of an error."""
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line[:300]}"


def _closest(name: str, known: Sequence[str], include_path: str | None) -> str:
    near = nearest(name, known)
    if near is not None:
        return f"; did you mean {near}?"
    return (
        "; give one of lm-eval's tasks"
        + (
            ""
            if include_path
            else ", or the directory of your own (include_path; in training eval_tasks_include_path)"
        )
        + " (python -m lm_eval ls tasks lists them)"
    )


def _without_bar(items: Iterable[Any], **_: Any) -> Iterable[Any]:
    return items


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what lm-eval prints, logs and shows as bars on the way, and the logs of datasets and huggingface_hub."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "huggingface_hub", "httpx")]
    levels = [logger.level for logger in loggers]
    bar, disabled = api_task.tqdm, datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    api_task.tqdm = _without_bar  # pyright: ignore[reportAttributeAccessIssue]  # its switch is not TQDM_DISABLE
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        api_task.tqdm = bar
        if not disabled:
            datasets.enable_progress_bars()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
