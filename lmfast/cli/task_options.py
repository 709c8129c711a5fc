"""The options of commands that evaluate on lm-eval's tasks, checked before lm-eval is imported, which takes seconds."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from lmfast.errors import UserError

INSTALL = 'pip install "lm-eval>=0.4.13,<0.5"'


def task_names(text: str, setting: str) -> list[str]:
    """The names in the value of a setting, each once. Raises UserError without one."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UserError(f"{setting} is {text!r}; give names separated by commas, such as arc_easy,piqa")
    return list(dict.fromkeys(names))


def check_include_path(path: str | None, setting: str) -> None:
    """Raises UserError unless the directory exists."""
    if path is not None and not Path(path).is_dir():
        raise UserError(f"{setting} {path}: is not a directory; give one with task files (YAML)")


@contextlib.contextmanager
def lm_eval_imported(option: str) -> Iterator[None]:
    """For the imports of lmfast.evaluation that need lm-eval. Raises UserError if a package is missing."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # lm-eval's bars; read when tqdm is imported
    try:
        yield
    except ModuleNotFoundError as error:
        name = str(error.name).partition(".")[0]
        raise UserError(
            f"{option} needs the package {name}, which is not installed; run `{INSTALL}`"
        ) from None
