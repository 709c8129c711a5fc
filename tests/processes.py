"""Waits for and measures other processes, independent of the load of the machine."""

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

    Raises AssertionError if `alive` returns False while the condition is false, or after the deadline.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert alive(), "the process ended first"
        assert time.monotonic() < deadline, f"nothing happened within {seconds} s"
        time.sleep(0.005)
    return value


def assert_starts_within(limit: float, *words: str, tries: int = 3) -> None:
    """`python WORDS` takes less than `limit` seconds of processor time, user and system, in one of `tries` runs."""
    import resource  # not on Windows

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    took = []
    while not took or took[-1] >= limit:
        assert len(took) < tries, f"{words} took {took} s, allowed {limit} s"
        before = used()
        subprocess.run([sys.executable, *words], capture_output=True, check=True, cwd=ROOT)
        took.append(used() - before)
