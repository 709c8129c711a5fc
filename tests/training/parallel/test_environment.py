"""What torchrun sets, and mistakes in it."""

import subprocess
import sys

import pytest

from lmfast.errors import UserError
from lmfast.training.parallel.environment import number_of_ranks


@pytest.mark.parametrize(
    ("values", "number"), [({}, 1), ({"WORLD_SIZE": ""}, 1), ({"WORLD_SIZE": "3", "RANK": "2"}, 3)]
)
def test_the_number_of_ranks(monkeypatch, values, number):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert number_of_ranks() == number


@pytest.mark.parametrize(
    ("size", "rank", "message"),
    [
        ("abc", "0", "WORLD_SIZE is 'abc'"),
        ("2", "-1", "RANK is '-1'"),
        ("2", "5", "RANK is 5; it must be below WORLD_SIZE 2"),
    ],
)
def test_mistakes(monkeypatch, size, rank, message):
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(UserError, match=message):
        number_of_ranks()


def test_torch_is_not_imported():
    code = "import sys, lmfast.training.parallel.environment; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
