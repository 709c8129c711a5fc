"""Jobs of a step run together, end within its limit with all their processes, and leave every line in one log."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench import gpu_jobs
from bench.gpu_jobs import Job, Log, Step, run_step, stop
from tests.processes import wait_until

SLOW = "import time; time.sleep(60)"


class Script(Job):
    """A job that runs a piece of Python instead of a module."""

    def command(self, folder):
        return [sys.executable, "-c", self.module, str(folder / (self.output or "none"))]


class Clock:
    """A clock that advances only when it is read."""

    def __init__(self, step: float):
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def log(tmp_path):
    with Log(tmp_path / "log") as log:
        yield log


def gone(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rsplit(")")[1].split()[0] == "Z"


def test_job_outcomes(tmp_path, log):
    jobs = Script("good", "print(1)"), Script("bad", "raise SystemExit(3)")
    assert run_step(Step(60, jobs), tmp_path, 60, log) == {"good": "done", "bad": "failed with exit code 3"}


def test_jobs_run_at_the_same_time(tmp_path, log):
    """Each waits for the other's file."""
    script = (
        "import pathlib, sys, time\n"
        "mine = pathlib.Path(sys.argv[1]); mine.touch()\n"
        "while len(list(mine.parent.glob('*.there'))) < 2: time.sleep(0.02)\n"
    )
    jobs = Script("a", script, output="a.there"), Script("b", script, output="b.there")
    assert set(run_step(Step(60, jobs), tmp_path, 60, log).values()) == {"done"}


def test_at_most_the_requested_number_runs_at_once(tmp_path, log):
    """No job finds another's marker."""
    script = (
        "import pathlib, sys, time\n"
        "mine = pathlib.Path(sys.argv[1]); others = list(mine.parent.glob('*.busy')); mine.touch()\n"
        "time.sleep(0.2); mine.unlink(); sys.exit(len(others))\n"
    )
    jobs = tuple(Script(name, script, output=f"{name}.busy") for name in "abc")
    assert set(run_step(Step(60, jobs), tmp_path, 60, log, at_once=1).values()) == {"done"}


def test_jobs_that_never_started_are_reported(tmp_path, log):
    jobs = Script("slow", SLOW), Script("next", "print(1)")
    ended = run_step(Step(60, jobs), tmp_path, 45.0, log, Clock(10.0), at_once=1)
    assert ended == {"slow": "stopped at its limit of 45 s", "next": "not started: no time left"}


def test_a_job_that_only_fills_caches_may_fail(tmp_path, log, capsys):
    jobs = Script("good", "print(1)"), Script("warm", "raise SystemExit(3)", essential=False)
    assert run_step(Step(60, jobs), tmp_path, 60, log) == {"good": "done", "warm": "done"}
    assert "warm: failed with exit code 3" in capsys.readouterr().out


def test_jobs_are_stopped_at_the_time_limit(tmp_path, log):
    ended = run_step(Step(60, (Script("slow", SLOW),)), tmp_path, 45.0, log, Clock(10.0))
    assert ended == {"slow": "stopped at its limit of 45 s"}


def test_every_line_of_every_job_is_in_the_log(tmp_path, capsys):
    traceback = "import sys; print('out'); print('err', file=sys.stderr); raise ValueError('x' * 20000)"
    with Log(tmp_path / "log") as log:
        run_step(Step(60, (Script("a", traceback), Script("b", "print('hello')"))), tmp_path, 60, log)
    kept = (tmp_path / "log").read_text()
    assert "[a] out\n" in kept and "[a] err\n" in kept and "[b] hello\n" in kept
    assert "[a] ValueError: " + "x" * 20000 in kept
    assert "hello" not in capsys.readouterr().out  # lines of simultaneous jobs are only in the log


def test_output_of_a_job_that_runs_alone_is_printed(tmp_path, log, capsys):
    run_step(Step(60, (Script("a", "print('hello')"),)), tmp_path, 60, log)
    assert "hello" in capsys.readouterr().out


def test_a_stopped_job_leaves_no_process(tmp_path, monkeypatch):
    """Including one that ignores SIGTERM and whose parent has ended."""
    monkeypatch.setattr(gpu_jobs, "GRACE", 0.2)
    script = (
        "import signal, subprocess, sys, time\n"
        "child = 'import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(600)'\n"
        "process = subprocess.Popen([sys.executable, '-c', child], stdout=subprocess.PIPE)\n"
        "process.stdout.read(1)\n"
        "open(sys.argv[1], 'w').write(str(process.pid))\n"
        "time.sleep(600)\n"
    )
    output = tmp_path / "pid"
    child = subprocess.Popen([sys.executable, "-c", script, str(output)], process_group=0)
    wait_until(lambda: output.exists() and output.read_text())
    stop([child])
    assert child.poll() is not None
    wait_until(lambda: gone(int(output.read_text())))


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_killing_the_parent_ends_the_job_and_keeps_its_measurements(tmp_path):
    job = (
        "import os, pathlib, sys, time\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "path.with_suffix('.tmp').write_text(str(os.getpid())); os.replace(path.with_suffix('.tmp'), path)\n"
        "print('measured', flush=True); time.sleep(600)\n"
    )
    parent = (
        "import sys\nfrom pathlib import Path\n"
        "from bench.gpu_jobs import Job, Log, Step, run_step\n"
        "class Script(Job):\n"
        "    def command(self, folder): return [sys.executable, '-c', self.module, str(folder / self.output)]\n"
        f"folder = Path({str(tmp_path)!r})\n"
        f"step = Step(600, (Script('a', {job!r}, output='a.json'),))\n"
        "with Log(folder / 'gpu.log') as log: run_step(step, folder, 600, log)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent], cwd=gpu_jobs.machine.ROOT, stdout=subprocess.DEVNULL
    )
    try:
        wait_until((tmp_path / "a.json").exists)
        wait_until(lambda: "[a] measured" in (tmp_path / "gpu.log").read_text())
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    wait_until(lambda: gone(int((tmp_path / "a.json").read_text())))
