"""Data files of local tasks, by paths relative to the task file. Needs the package lm_eval.

lm-eval resolves `data_files` and `data_dir` in a task file from the working directory. Here a relative path next to the task
file has precedence, so that a folder of tasks works from anywhere.
"""

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml


def resolve_data_files(manager: TaskManager, include_path: str) -> None:
    """Changes the local tasks in the index of `manager` that name data files relative to their own file."""
    root = Path(include_path).resolve()
    for name, entry in manager.task_index.items():
        if entry.yaml_path is None or not entry.yaml_path.resolve().is_relative_to(root):
            continue
        folder = entry.yaml_path.resolve().parent
        with contextlib.suppress(
            Exception
        ):  # lm-eval reports a task file that is not valid when it is loaded
            plain = load_yaml(entry.yaml_path, resolve_func=False)
            resolved = _resolved(plain.get("dataset_kwargs"), folder)
            if resolved != plain.get("dataset_kwargs"):
                cfg = load_yaml(entry.yaml_path) | {"dataset_kwargs": resolved}
                manager.task_index[name] = dataclasses.replace(entry, yaml_path=None, cfg=cfg)


def _resolved(options: Any, folder: Path) -> Any:
    """dataset_kwargs with absolute paths of the files in `folder`."""
    if not isinstance(options, Mapping):
        return options
    names = ("data_files", "data_dir")
    return {name: _absolute(value, folder) if name in names else value for name, value in options.items()}


def _absolute(value: Any, folder: Path) -> Any:
    """A path or pattern, or a list or mapping of them."""
    if isinstance(value, Mapping):
        return {name: _absolute(one, folder) for name, one in value.items()}
    if isinstance(value, list):
        return [_absolute(one, folder) for one in value]
    if not isinstance(value, str) or "://" in value or Path(value).is_absolute():
        return value
    return str(folder / value) if (folder / value).exists() or any(folder.glob(value)) else value
