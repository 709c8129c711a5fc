"""Waiting for other processes, and measuring them, independent of what else runs on the machine."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value")
ROOT = Path(__file__).resolve().parent.parent


def wait_until(
    condition: Callable[[], Value], alive: Callable[[], bool] = lambda: True, seconds: float = 120
) -> Value:
    """The first true value of `condition`.

    AssertionError once `alive`, asked while the condition is false, is false, or after the deadline.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert alive(), "the process ended first"
        assert time.monotonic() < deadline, f"nothing happened within {seconds} s"
        time.sleep(0.005)
    return value


def cpu_seconds(*words: str, tries: int = 3) -> float:
    """The least processor time of `tries` runs of `python WORDS`, user and system, in seconds."""
    import resource  # not on Windows

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    best = float("inf")
    for _ in range(tries):
        before = used()
        subprocess.run([sys.executable, *words], capture_output=True, check=True, cwd=ROOT)
        best = min(best, used() - before)
    return best
