"""Verdicts only where the noise cannot explain the ratio."""

import subprocess
import sys

import pytest

from bench import machine
from bench.compare import Change, changes, left_out, table, worktree
from lmfast.errors import UserError
from tests.bench.results import result, run


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ([2.0, 2.1, 2.0], [1.0, 1.05, 1.0], "faster"),
        ([1.0, 1.02], [1.5, 1.52], "slower"),
        ([1.0, 1.3, 1.1], [1.0, 1.2, 0.9], "within the noise (33%)"),
        ([2.0, 1.0], [1.0, 2.0], "within the noise (100%)"),
        ([2.0], [1.0], "within the noise (0%)"),  # one pair proves nothing
    ],
)
def test_verdicts(before, after, verdict):
    assert Change("x", before, after).verdict == verdict


def test_only_equal_work_in_every_run_is_compared():
    before = [run(result("a", 2.0), result("gone", 1.0), result("b", 1.0, work={"bytes": 1}))] * 2
    after = [run(result("a", 1.0), result("new", 1.0), result("b", 1.0, work={"bytes": 2}))] * 2
    found = changes(before, after)
    assert [(change.name, change.before, change.after) for change in found] == [
        ("bench/test_tokenizer.py::test_a", [2.0, 2.0], [1.0, 1.0])
    ]
    assert [name.rpartition("_")[2] for name in left_out(before, after, found)] == ["b", "gone", "new"]
    assert "2.00 (2.00-2.00)  faster" in table(found)[2]


def test_a_worktree_is_gone_afterwards_and_an_unknown_commit_is_refused():
    if machine.git("rev-parse", "HEAD") is None:
        pytest.skip("not a git checkout")
    with pytest.raises(UserError, match="knows no such commit"), worktree("no-such-revision"):
        pass
    with worktree("HEAD") as path:
        assert (path / "bench" / "compare.py").exists() or (path / "bench").exists()
    assert not path.exists()
    assert str(path) not in machine.git("worktree", "list")


def test_the_command_refuses_in_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "bench.compare", "no-such-revision"],
        cwd=machine.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert (
        done.stderr.startswith("error: no-such-revision: git knows no such commit")
        and done.stderr.count("\n") == 1
    )
