import subprocess
import sys

import pytest

from lmfast import __main__ as main_module


def call(*words):
    return subprocess.run([sys.executable, "-m", "lmfast", *words], capture_output=True, text=True)


def test_help_lists_every_command():
    out = call("--help").stdout
    assert all(f"  {name} " in out for name in main_module.COMMANDS)
    assert call().stdout == out


def test_version():
    from lmfast import __version__

    assert call("--version").stdout == f"lmfast {__version__}\n"


def test_an_unknown_command_is_one_line():
    result = call("trian")
    assert (result.returncode, result.stderr) == (2, "error: unknown command 'trian'; did you mean train?\n")


@pytest.mark.parametrize("command", main_module.COMMANDS)
def test_each_command_answers_help(command):
    result = call(command, "--help")
    assert result.returncode == 0, result.stderr
    assert f"lmfast {command}" in result.stdout


def test_arguments_reach_the_command():
    result = call("train", "--bogus", "3")
    assert result.returncode == 2 and "unknown option '--bogus'" in result.stderr
