"""The options of commands that evaluate on lm-eval's tasks, checked before lm-eval is imported, which takes seconds."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from lmfast.errors import UserError
from lmfast.settings import LoggingSettings

OFF = "none"
"""value of eval_tasks that turns it off in a resumed run"""
NEEDS_TOKENIZER = "eval_tasks needs the tokenizer of the run; give --tokenizer, or remove --eval-tasks"
INSTALL = 'pip install "lm-eval>=0.4.13,<0.5"'


def task_names(text: str, setting: str) -> list[str]:
    """The names in the value of a setting, each once. Raises UserError without one."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UserError(f"{setting} is {text!r}; give names separated by commas, such as arc_easy,piqa")
    return list(dict.fromkeys(names))


def wanted_tasks(log: LoggingSettings) -> list[str]:
    """The names in eval_tasks, none if it is off. Raises UserError for bad ones, and for a missing include path."""
    if log.eval_tasks is None or log.eval_tasks == OFF:
        if log.eval_tasks is None and log.eval_tasks_include_path is not None:
            raise UserError(
                "eval_tasks_include_path is given without eval_tasks; add --eval-tasks, or remove it"
            )
        return []
    names = task_names(log.eval_tasks, "eval_tasks")
    check_include_path(log.eval_tasks_include_path, "eval_tasks_include_path")
    return names


def check_include_path(path: str | None, setting: str) -> None:
    """Raises UserError unless the directory exists."""
    if path is not None and not Path(path).is_dir():
        raise UserError(f"{setting} {path}: is not a directory; give one with task files (YAML)")


@contextlib.contextmanager
def lm_eval_imported(option: str) -> Iterator[None]:
    """For the imports of lmfast.evaluation that need lm-eval. Raises UserError if a package is missing."""
    check_package(option)
    os.environ.setdefault("TQDM_DISABLE", "1")  # lm-eval's bars; read when tqdm is imported
    try:
        yield
    except ModuleNotFoundError as error:
        raise _missing(option, str(error.name).partition(".")[0]) from None


def check_package(option: str) -> None:
    """Raises UserError if lm-eval is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise _missing(option, "lm_eval")


def _missing(option: str, package: str) -> UserError:
    return UserError(f"{option} needs the package {package}, which is not installed; run `{INSTALL}`")
