"""The engines, the default number of workers, and whether they should be threads or processes."""

import os

ENGINES = ("auto", "threads", "processes", "dask")
MOST_THREADS = 32
BYTES_PER_PROCESS = (
    256 << 20
)  # what one worker encodes or counts in half a second, the time that a process takes to start


def default_workers() -> int:
    """The number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def fastest_engine(num_bytes: int, num_workers: int) -> str:
    """Which counts or encodes that much text first, "threads" or "processes" (docs/tokenizer.md, "Workers")."""
    is_large = num_bytes >= num_workers * BYTES_PER_PROCESS
    return "processes" if num_workers > MOST_THREADS and is_large else "threads"
