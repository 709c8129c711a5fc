"""The training processes of a sweep: one for each trial, with its share of the cores or its own GPU.

A process gets its own session, so that Ctrl-C reaches the sweep alone, which then stops each process once with SIGTERM. On
POSIX it inherits the lock of its trial: while an orphan trains, nobody else starts the same trial.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from lmfast.hardware import num_cores, num_gpus

Command = Callable[[Path, Path], Sequence[str]]
"""(settings file, run folder) → command line of a training run"""
RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def train_command(config: Path, folder: Path) -> list[str]:
    return [sys.executable, "-m", "lmfast.train", "--config", str(config), "--out-dir", str(folder)]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        names = [name.strip() for name in listed.split(",")]
        return [name for name in names if name and name != "-1"]
    return [str(i) for i in range(num_gpus())]


def worker_environment(worker: int, workers: int, gpus: Sequence[str]) -> dict[str, str]:
    """The environment of the processes of a worker: one GPU if there are any, and its share of the CPU's cores."""
    environment = {name: value for name, value in os.environ.items() if name not in RANKS}
    # Without the unbuffered output the log of a killed process would lack its last lines.
    environment["PYTHONUNBUFFERED"] = "1"
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[worker % len(gpus)]
    if workers > 1:
        threads = str(max(1, num_cores() // workers))
        environment.setdefault("OMP_NUM_THREADS", threads)
        environment.setdefault("MKL_NUM_THREADS", environment["OMP_NUM_THREADS"])
    return environment


class Process:
    """A training process whose output is appended to `log`."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path, lock: BinaryIO):
        options = {} if os.name == "nt" else {"pass_fds": (lock.fileno(),), "start_new_session": True}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                **options,  # pyright: ignore[reportArgumentType]  # of two systems
            )
        self.stopping = False

    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self.process.poll()

    def stop(self) -> None:
        """Asks the process once to save a checkpoint and end."""
        if not self.stopping and self.code() is None:
            self.process.terminate()
        self.stopping = True

    def kill(self) -> None:
        """Ends the process at once."""
        if self.code() is None:
            self.process.kill()
            self.process.wait()
