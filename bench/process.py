"""Measures whole commands from outside: the time of a process and the peak memory of its process tree.

In: a command line. Out: seconds; peak bytes of anonymous and shared memory, summed over the process and all below it,
each shared page counted once (PSS). Pages of mapped files are left out: the system takes those back when it needs
them. Linux only; memory is read from /proc every 5 ms, so a shorter peak can be missed.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

PERIOD = 0.005


@dataclass(frozen=True)
class Finished:
    """A command that succeeded."""

    seconds: float
    peak_bytes: int
    output: str


def held(process: psutil.Process) -> int:
    """Bytes of anonymous and shared memory that a process and those below it hold now."""
    total = 0
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for member in family:
        try:
            text = Path(f"/proc/{member.pid}/smaps_rollup").read_text()
        except OSError:
            continue  # it has ended meanwhile
        for line in text.splitlines():
            if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                total += 1024 * int(line.split()[1])
    return total


def run(command: Sequence[str], cwd: Path, env: dict[str, str], watch_memory: bool = True) -> Finished:
    """Runs a command to its end. Raises CalledProcessError with its output where it fails; an interrupt ends it and all
    that it started."""
    began = time.perf_counter()
    with subprocess.Popen(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as child:  # fmt: skip
        peak = 0
        try:
            if watch_memory:
                process = psutil.Process(child.pid)
                while child.poll() is None:
                    peak = max(peak, held(process))
                    time.sleep(PERIOD)
            output, _ = child.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            raise
    seconds = time.perf_counter() - began
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command, output)
    return Finished(seconds, peak, output)
