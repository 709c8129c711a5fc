"""Two task files of lm-eval with local data, and a run to evaluate."""

import shutil
from pathlib import Path

import pytest

from tests.interop.models import SMALL, make_run, random_model, tokenizer

TASKS = Path(__file__).parent / "tasks"
NAMES = ["tiny_animals", "tiny_perplexity", "tiny_completion"]


@pytest.fixture
def task_folder(tmp_path, monkeypatch) -> Path:
    """A copy of the task files, which is the working directory, because lm-eval resolves data files from there."""
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("lm_eval")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    shutil.copytree(TASKS, tmp_path / "tasks")
    monkeypatch.chdir(tmp_path / "tasks")
    return tmp_path / "tasks"


@pytest.fixture(scope="session")
def task_run(tmp_path_factory) -> Path:
    """A random model with a context of 64, shorter than some texts of the tasks."""
    return make_run(tmp_path_factory.mktemp("tasks") / "run", random_model(SMALL), tokenizer())
