"""Processes with a time limit, run together, whose output goes to one log.

In: a Step, which is one or more Jobs (`python -m MODULE ARGUMENTS`) that run at the same time. Out: how each ended, as
text: "done", or the error. Every line that a job prints is written to the log as it comes, with the job's name in
front; a job that runs alone is also shown on stdout. A step leaves no processes behind: each runs in its own
process group, which is stopped at the limit, and which the kernel kills when this process dies.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from bench import machine

REHEARSAL_LIMIT = 1200.0
GRACE = 3.0  # seconds that a job has to end after SIGTERM
AT_ONCE = max(
    2, machine.num_cores() * 3 // 2
)  # jobs wait for the device, for imports and for the compiler in turns
LIBC, PR_SET_PDEATHSIG = ctypes.CDLL(None), 1


@dataclass(frozen=True)
class Job:
    """`python -m module arguments`, with `to` and the path of `output` where it writes a file.

    essential: a failure of this job makes the step fail. Jobs that only fill caches are not."""

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    output: str | None = None
    to: str = "--output"
    essential: bool = True

    def command(self, folder: Path) -> list[str]:
        words = [sys.executable, "-m", self.module, *self.arguments]
        return words if self.output is None else [*words, self.to, str(folder / self.output)]


@dataclass(frozen=True)
class Step:
    """Jobs that run at the same time, for at most `limit` seconds."""

    limit: float
    jobs: tuple[Job, ...]

    def rehearsed(self) -> "Step":
        """The step without a device, and with limits that a slow host does not reach."""
        jobs = (replace(job, arguments=(*job.arguments, "--rehearse")) for job in self.jobs)
        return Step(REHEARSAL_LIMIT, tuple(jobs))


class Log:
    """A file that several threads append whole lines to; what is written by `write` is shown on stdout too."""

    def __init__(self, path: Path):
        self.file, self.lock = path.open("a", encoding="utf-8"), threading.Lock()

    def write(self, text: str, prefix: str = "", show: bool = True) -> None:
        with self.lock:
            self.file.write(f"{prefix}{text}\n")
            self.file.flush()
            if show:
                print(text, flush=True)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_) -> None:
        self.file.close()


def run_step(
    step: Step,
    folder: Path,
    limit: float,
    log: Log,
    clock: Callable[[], float] = time.monotonic,
    at_once: int = AT_ONCE,
) -> dict[str, str]:
    """{job: how it ended}. At most `at_once` jobs run at the same time; after `limit` seconds all are stopped."""
    end = clock() + limit
    waiting = list(step.jobs)
    running: dict[str, _Running] = {}
    late: set[str] = set()
    try:
        while True:
            busy = sum(job.child.poll() is None for job in running.values())
            for job in waiting[: max(0, at_once - busy)]:
                running[job.name] = _Running(job, folder, log, alone=len(step.jobs) == 1)
                waiting.remove(job)
                busy += 1
            if not busy or clock() >= end:
                break
            time.sleep(0.05)
    finally:
        late = {name for name, job in running.items() if job.child.poll() is None}
        stop([job.child for job in running.values()])
    ended = {}
    for job in step.jobs:
        how = "not started: no time left"
        if job.name in running:
            running[job.name].reader.join(GRACE)
            code = running[job.name].child.returncode
            how = "done" if code == 0 else f"failed with exit code {code}"
            if job.name in late:
                how = f"stopped at its limit of {limit:.0f} s"
        if how != "done":
            log.write(f"{job.name}: {how}", show=len(step.jobs) > 1)
        ended[job.name] = how if job.essential else "done"
    return ended


class _Running:
    """A started job and the thread that copies what it prints to the log."""

    def __init__(self, job: Job, folder: Path, log: Log, alone: bool):
        self.job = job
        self.child = subprocess.Popen(
            job.command(folder), cwd=machine.ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", process_group=0, preexec_fn=_die_with_parent,
        )  # fmt: skip
        self.reader = threading.Thread(target=self._copy, args=(log, alone), daemon=True)
        self.reader.start()

    def _copy(self, log: Log, alone: bool) -> None:
        for text in self.child.stdout:
            log.write(text.rstrip("\n"), f"[{self.job.name}] ", show=alone)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def stop(children: list[subprocess.Popen]) -> None:
    """Ends the process group of each child: SIGTERM first, SIGKILL after GRACE."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        alive = [child for child in children if _signal_group(child, number)]
        end = time.monotonic() + GRACE
        while any(child.poll() is None for child in alive) and time.monotonic() < end:
            time.sleep(0.02)


def _signal_group(child: subprocess.Popen, number: int) -> bool:
    """Whether there was anything in the child's group to signal."""
    try:
        os.killpg(child.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
