"""Verdicts only if noise cannot explain the ratio."""

import os
import signal
import subprocess
import sys

import pytest

from bench import machine
from bench.compare import NEEDED, Change, changes, table
from tests.bench.results import MACHINE, result, run
from tests.processes import wait_until


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ([2.0, 2.1, 2.0], [1.0, 1.05, 1.0], "faster"),
        ([1.0, 1.02], [1.5, 1.52], "slower"),
        ([1.0, 1.3, 1.1], [1.0, 1.2, 0.9], "within the noise (33%)"),
        ([2.0, 1.0], [1.0, 2.0], "within the noise (100%)"),
        ([2.0], [1.0], "one pair, no verdict"),
    ],
)
def test_verdicts(before, after, verdict):
    assert Change("x", before, after).verdict == verdict


def test_only_equal_work_in_every_run_is_compared():
    before = [run(result("a", 2.0), result("gone", 1.0), result("b", 1.0, work={"bytes": 1}))] * 2
    after = [run(result("a", 1.0), result("new", 1.0), result("b", 1.0, work={"bytes": 2}))] * 2
    found, others = changes(before, after)
    assert [(change.name, change.before, change.after) for change in found] == [
        ("tokenizer a", [2.0, 2.0], [1.0, 1.0])
    ]
    assert others == ["tokenizer b", "tokenizer gone", "tokenizer new"]
    assert "2.00 (2.00-2.00)  faster" in table(found)[2]


CONFTEST = f"""
def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true")

def pytest_benchmark_generate_json(benchmarks):
    rows = [
        {{"name": one.name[5:], "value": 0, "group": "pace", "work": {{"bytes": 5}},
          "times": {{"ours": list(one.stats.data)}}}}
        for one in benchmarks
    ]
    return {{"table": "suite", "machine": {MACHINE!r}, "rows": rows}}
"""
SUITE = """
import time
from pace import SECONDS

def test_sleep(benchmark):
    benchmark.pedantic(lambda: time.sleep(SECONDS), rounds=3)

def test_other(benchmark):
    benchmark.pedantic(lambda: time.sleep(0.001), rounds=3)
"""


@pytest.fixture
def checkout(tmp_path):
    """A repository of three commits: no suite, one that sleeps 300 ms, one that sleeps 100 ms; and
    uncommitted changes, with which it sleeps 50 ms."""
    root = tmp_path / "checkout"
    (root / "bench").mkdir(parents=True)

    def git(*words: str) -> None:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words]
        subprocess.run(command, cwd=root, check=True, capture_output=True)

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "nothing")
    git("tag", "empty")
    (root / "bench/conftest.py").write_text(CONFTEST)
    (root / "bench/test_pace.py").write_text(SUITE)
    (root / NEEDED).touch()
    for tag, seconds in (("slow", 0.3), ("quick", 0.1)):
        (root / "pace.py").write_text(f"SECONDS = {seconds}")
        git("add", "-A")
        git("commit", "-q", "-m", tag)
        git("tag", tag)
    (root / "pace.py").write_text("SECONDS = 0.05")
    return root


def command(root, *words: str, **options) -> subprocess.Popen:
    """`python -m bench.compare` as if `root` were its checkout; its temporary files are in root/../tmp."""
    code = (
        "import pathlib, sys; from bench import compare, machine; "
        f"machine.ROOT = pathlib.Path({str(root)!r}); sys.argv[0] = 'compare'; compare.main()"
    )
    (root.parent / "tmp").mkdir(exist_ok=True)
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    only_one_plugin = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "pytest_benchmark.plugin"}
    environment = outside | only_one_plugin | {"TMPDIR": str(root.parent / "tmp")}
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=machine.ROOT, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def left_behind(root) -> list[str]:
    """Worktrees registered with git other than the checkout, and temporary files."""
    printed = subprocess.run(
        ["git", "worktree", "list"], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    return printed.splitlines()[1:] + [str(path) for path in (root.parent / "tmp").iterdir()]


def test_each_version_runs_its_own_code_and_changes_count(checkout):
    with command(checkout, "slow", "--rounds", "2", "--select", "sleep") as child:
        out, err = child.communicate()
    assert child.returncode == 0, out + err
    assert "A = slow (" in out and "B = " in out and " with changes" in out
    assert out.count(" done") == 4
    (line,) = (line for line in out.splitlines() if line.startswith("pace sleep"))
    times = float(line.split("ms")[-1].split()[0])
    assert 4 < times < 7 and line.endswith("faster"), line  # 300 ms against the uncommitted 50 ms
    assert "pace other" not in out and not left_behind(checkout)
    assert max(len(line) for line in out.splitlines()) <= 100


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no-such"], "no-such: git knows no such commit here"),
        (["quick:pace.py"], "quick:pace.py: git knows no such commit here"),
        (["empty"], f"empty: has no {NEEDED}"),
        (["slow", "--rounds", "0"], "--rounds 0: at least 1"),
        (["slow", "--select", "nothing_of_it"], "--select 'nothing_of_it': no benchmark of A ran"),
        (["slow", "--select", "sleep and ("], "--select 'sleep and (': Wrong expression passed to '-k'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_files(checkout, words, message):
    with command(checkout, *words) as child:
        _, err = child.communicate()
    assert child.returncode == 2 and message in err and err.count("\n") == 1, err
    assert not left_behind(checkout)


def test_missing_git_is_reported(tmp_path):
    (tmp_path / "plain").mkdir()
    with command(tmp_path / "plain", "HEAD") as child:
        _, err = child.communicate()
    assert child.returncode == 2 and "not a git checkout" in err and err.count("\n") == 1


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_no_files(checkout, tmp_path, how):
    """Interrupted while a version's benches run; as from a terminal, the whole process group gets the signal."""
    started = tmp_path / "started"
    (checkout / "pace.py").write_text(f"open({str(started)!r}, 'w').close()\nSECONDS = 600")
    with command(checkout, "slow", "--select", "sleep", start_new_session=True) as child:
        wait_until(started.exists, lambda: child.poll() is None)
        os.killpg(child.pid, how)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 130 and err == "interrupted\n"
    assert not left_behind(checkout)  # communicate() did not wait for the benches' 600 s
