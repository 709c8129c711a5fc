import pytest

from lmfast.cli.task_options import check_include_path, lm_eval_imported, task_names
from lmfast.errors import UserError


def test_names_are_separated_by_commas():
    assert task_names("a, b,a", "tasks") == ["a", "b"]
    for text in ("", "a,,b", "a,"):
        with pytest.raises(UserError, match=r"eval_tasks is .*; give names separated by commas"):
            task_names(text, "eval_tasks")


def test_the_directory_exists(tmp_path):
    check_include_path(None, "include_path")
    check_include_path(str(tmp_path), "include_path")
    with pytest.raises(UserError, match=r"include_path .*nowhere: is not a directory"):
        check_include_path(str(tmp_path / "nowhere"), "include_path")


def test_a_missing_package_is_named_with_the_command_that_installs_it():
    with (
        pytest.raises(UserError, match=r"--x needs the package no_such, .*pip install \"lm-eval"),
        lm_eval_imported("--x"),
    ):
        import no_such.module  # noqa: F401
