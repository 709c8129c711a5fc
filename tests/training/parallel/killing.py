"""Kills a rank of a run and checks that the others end in time."""

import os
import signal
import time
from pathlib import Path

from lmfast.training.parallel import lost_ranks
from lmfast.training.run_folder import read_metrics
from tests.processes import wait_until
from tests.training.forked_runs import start_ranks


def impatient() -> None:
    lost_ranks.PATIENCE = 3.0


def kill_rank(
    argv: list[str], folder: Path, number: int, victim: int, at_step: int, delay: float = 0.0
) -> list[str]:
    """Kills a rank of a run of `number` ranks, `delay` seconds after a step; returns the output of each.

    All others must end within 60 s with exit code 2."""
    log = folder.parent / f"log-{folder.name}"
    processes = start_ranks(argv, log, number, impatient)
    wait_until(
        lambda: any(m["step"] >= at_step for m in read_metrics(folder)),
        lambda: all(process.is_alive() for process in processes),
    )
    time.sleep(delay)
    os.kill(processes[victim].pid, signal.SIGKILL)
    killed = time.monotonic()
    for process in processes:
        process.join(max(0.0, killed + 60 - time.monotonic()))
        if process.is_alive():
            process.kill()
    texts = [Path(f"{log}.{rank}").read_text() for rank in range(number)]
    codes = [process.exitcode for process in processes]
    assert codes == [-9 if rank == victim else 2 for rank in range(number)], texts
    return texts
