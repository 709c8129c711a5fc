"""The results of lm-eval's tasks in a line of metrics, by the names TASK/METRIC, such as arc_easy/acc.

TASK/METRIC_stderr is the standard error, where lm-eval estimates one. Preference training has names with a slash, too.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

STDERR = "_stderr"
_OTHERS = ("rewards/", "val_rewards/", "logps/", "val_logps/")


class TaskValue(NamedTuple):
    task: str
    metric: str
    value: float
    stderr: float | None

    @property
    def name(self) -> str:
        """Its name in a line of metrics."""
        return f"{self.task}/{self.metric}"


def task_names(names: Iterable[str]) -> list[str]:
    """Those of `names` that are results of tasks, without standard errors."""
    return [
        name for name in names if "/" in name and not name.startswith(_OTHERS) and not name.endswith(STDERR)
    ]


def to_metrics(values: Iterable[TaskValue]) -> dict[str, float]:
    """The part of a line of metrics."""
    found: dict[str, float] = {}
    for value in values:
        found[value.name] = value.value
        if value.stderr is not None:
            found[value.name + STDERR] = value.stderr
    return found


def from_metrics(metrics: Mapping[str, float]) -> list[TaskValue]:
    """The results of tasks in a line of metrics."""
    found: list[TaskValue] = []
    for name in task_names(metrics):
        task, _, metric = name.rpartition("/")
        found.append(TaskValue(task, metric, metrics[name], metrics.get(name + STDERR)))
    return found


def task_line(metrics: Mapping[str, float]) -> str:
    """The results as text: "arc_easy acc 0.2450 ± 0.0305, acc_norm 0.2600 ± 0.0311; piqa …"."""
    tasks: dict[str, list[str]] = {}
    for task, metric, value, stderr in from_metrics(metrics):
        spread = "" if stderr is None else f" ± {stderr:.4f}"
        tasks.setdefault(task, []).append(f"{metric} {value:.4f}{spread}")
    return "; ".join(f"{task} {', '.join(shown)}" for task, shown in tasks.items())
