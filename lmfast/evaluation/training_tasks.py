"""Evaluates a model on tasks again and again while it is trained.

In: names of tasks, the shape of the model, its tokenizer. Out: metrics (lmfast/training/task_metrics.py), equal to those of
`lmfast evaluate --tasks` on the same weights in the same precision. The state of all random number generators is restored.
Rejects (UserError), before training, what tasks.py and task_check.py reject. Needs the package lm_eval.
"""

import contextlib
import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from lmfast.evaluation.task_check import TaskCheck
from lmfast.evaluation.task_model import TaskModel
from lmfast.evaluation.task_results import Metric, metrics_of
from lmfast.evaluation.tasks import Tasks, check_requests, load_tasks, run_tasks
from lmfast.model.config import ModelConfig
from lmfast.model.device import autocast
from lmfast.model.transformer import TransformerLM
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.training.task_metrics import TaskValue, to_metrics


class TrainingTasks:
    """Tasks, loaded and checked. tokens: ids that an evaluation reads. generate: names of those that generate text."""

    def __init__(
        self,
        names: Sequence[str],
        include_path: str | None,
        limit: int | None,
        config: ModelConfig,
        tokenizer: Tokenizer,
        precision: str = "fp32",
    ):
        """limit: examples per task; None: all. precision: of the matrix products (model/device.py)."""
        self.names, self.limit, self.tokenizer, self.precision = names, limit, tokenizer, precision
        with _random_state_kept(torch.device("cpu")):
            check = TaskCheck(config, tokenizer)
            self.tasks = load_tasks(names, include_path)
            check_requests(check, self.tasks, limit)
        self.tokens = check.tokens
        self.generate = [
            name for name, task in self.tasks.tasks.items() if task.OUTPUT_TYPE == "generate_until"
        ]

    def __call__(self, model: TransformerLM) -> dict[str, float]:
        """The metrics of the model as it is; leaves it in eval mode."""
        device = model.embedding.weight.device
        model.eval()
        model.restrict_to(self.tokenizer.vocab)
        with _random_state_kept(device), autocast(device, self.precision):
            found = run_tasks(TaskModel(model, self.tokenizer), self.tasks, self.limit)
        return to_metrics(
            TaskValue(metric.task, metric.metric, metric.value, metric.stderr)
            for metric in main_metrics(metrics_of(found), self.names, self.tasks)
        )


def main_metrics(metrics: Sequence[Metric], names: Sequence[str], tasks: Tasks) -> list[Metric]:
    """The results of the tasks and groups with these names; of a tag or of a group without a mean, those of its tasks."""
    found = {metric.task for metric in metrics}
    wanted = set(names)
    for name in names:
        if name not in found:
            wanted |= _members(name, tasks)
    shown = [metric for metric in metrics if metric.task in wanted]
    return shown or list(metrics)


def _members(name: str, tasks: Tasks) -> set[str]:
    """The tasks of a group, those of its groups included."""
    members = set(tasks.group_map.get(name, ()))
    return members.union(*(_members(member, tasks) for member in members if member in tasks.group_map))


@contextlib.contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    """Restores the state of Python's, NumPy's and torch's random number generators."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
