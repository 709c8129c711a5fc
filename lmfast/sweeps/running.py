"""Runs the trials of a sweep: takes the next one, starts its training process, records how it ended, until nothing is left.

Everything happens in one thread, which looks at the processes several times a second. Killed at any moment and started
again, it continues: finished trials are in the storage, and running ones resume from their checkpoints.
"""

import contextlib
import os
import signal
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import yaml

from lmfast.errors import UserError
from lmfast.files import atomic_write, try_lock
from lmfast.sweeps.choosing import Chooser
from lmfast.sweeps.outcome import outcome, reported
from lmfast.sweeps.processes import Command, Process, worker_environment
from lmfast.sweeps.specification import Specification
from lmfast.sweeps.study import Outcome, Record, SweepStudy
from lmfast.training.stop_signals import StopSignals

POLL_SECONDS = 0.1
LOOK_SECONDS = 2.0
"""interval at which a worker without a trial looks for one that another process left behind"""
SAVE_SECONDS = 10.0
"""interval at which the running time is saved"""
MOST_RESTARTS = 2
"""how often a run is resumed that a signal ended, such as that of a system without memory"""
STOPPED = {130, 143}
"""exit codes of a run that SIGTERM or Ctrl-C stopped"""


@dataclass
class Events:
    """Called when something happens to a trial; for the console and the page."""

    started: Callable[[Record, bool], None] = lambda record, resumed: None
    ended: Callable[[Record, Outcome, float], None] = lambda record, outcome, seconds: None
    restarted: Callable[[Record, str], None] = lambda record, why: None
    waiting: Callable[[Record], None] = lambda record: None


@dataclass
class Active:
    """A trial that this process runs. owner: its lock against other sweeps; child: the one its process inherits."""

    record: Record
    owner: BinaryIO
    child: BinaryIO | None = None
    process: Process | None = None
    began: float = field(default_factory=time.monotonic)
    reported: int = -1
    size: int = 0
    orphaned: bool = False
    pruning: bool = False
    restarts: int = 0


class Runner:
    def __init__(
        self,
        study: SweepStudy,
        specification: Specification,
        folder: Path,
        workers: int,
        gpus: list[str],
        command: Command,
        events: Events,
    ):
        self.study, self.specification, self.folder = study, specification, folder
        self.gpus, self.command, self.events = gpus, command, events
        self.workers: list[Active | None] = [None] * workers
        self.session, self.began = uuid.uuid4().hex[:8], time.monotonic()
        self.saved = self.began
        self.chooser = Chooser(study, specification)
        self.failures: list[str] = []
        self.completed = any(record.state in ("complete", "pruned", "diverged") for record in study.records())

    def run(self) -> bool:
        """Runs trials until the sweep is finished or its budget is spent; False if a signal stopped it."""
        with self.study.claiming():
            self.study.enqueue()
        stop, look = StopSignals(), 0.0
        try:
            with stop, _hangup_stops():
                while True:
                    self._save_seconds()
                    for worker, active in enumerate(self.workers):
                        if active is not None and self._step(active, worker, stop.seen):
                            self._release(active)
                            self.workers[worker] = None
                            look = 0.0
                    if not stop.seen and time.monotonic() >= look:
                        self._fill()
                        look = time.monotonic() + LOOK_SECONDS
                    if not any(self.workers):
                        self._save_seconds(last=True)
                        return not stop.seen
                    time.sleep(POLL_SECONDS)
        finally:  # an error, or a second Ctrl-C
            for active in self.workers:
                if active is not None:
                    if active.process is not None:
                        active.process.kill()
                    self._release(active)

    # Choosing

    def _fill(self) -> None:
        """Gives every free worker a trial, as far as there are any."""
        for worker, active in enumerate(self.workers):
            if active is None and (found := self._adopt() or self._next()) is not None:
                self.workers[worker] = found

    def _adopt(self) -> Active | None:
        """A trial that a killed process left behind."""
        mine = {active.record.trial_id for active in self.workers if active is not None}
        with self.study.claiming():
            for record in self.study.abandoned():
                if record.trial_id in mine:
                    continue
                if (owner := self._lock(record, "owner")) is not None:
                    return Active(record, owner)
        return None

    def _next(self) -> Active | None:
        """The next trial of the grid or of the search, if the budget allows one."""
        if self.chooser.exhausted:
            return None
        with self.study.claiming():
            record = self.chooser.take()
            if record is None:
                return None
            # Another process may hold it for a moment longer, after it recorded that the trial failed.
            while (owner := self._lock(record, "owner")) is None:
                time.sleep(POLL_SECONDS)
            return Active(record, owner)

    # Running

    def _step(self, active: Active, worker: int, stopping: bool) -> bool:
        """Looks at a trial; returns whether this process is done with it."""
        process = active.process
        if process is None:
            return stopping or self._start(active, worker)
        code = process.code()
        if code is None:
            if stopping:
                process.stop()
            elif self.specification.pruner != "none" and not active.pruning and self._pruned(active):
                active.pruning = True
                process.stop()
            return False
        if active.pruning and code != 0:
            return self._finish(active, Outcome("pruned", self._last_value(active)))
        if code in STOPPED or code < 0:
            if stopping:
                return True
            why = f"signal {-code}" if code < 0 else "SIGTERM"
            if active.restarts == MOST_RESTARTS:
                message = f"was ended {MOST_RESTARTS + 1} times by {why}; is there enough memory?"
                return self._finish(active, Outcome("failed", message=message))
            active.restarts += 1
            self.events.restarted(active.record, why)
            self._begin(active, worker)
            return False
        return self._finish(
            active,
            outcome(
                code,
                self._path(active.record, ".log"),
                self.run_folder(active.record),
                self.specification.metric,
            ),
        )

    def _start(self, active: Active, worker: int) -> bool:
        """Starts the process of a trial, when no orphan trains it any more; returns whether the trial is over."""
        if active.child is None:
            active.child = self._lock(active.record, "run")
            if active.child is None:
                if not active.orphaned:
                    self.events.waiting(active.record)
                active.orphaned = True
                return False
            active.reported = self.study.reported_step(active.record)
        if self.specification.pruner != "none" and self.study.should_prune(active.record):
            return self._finish(active, Outcome("pruned", self._last_value(active)))
        resumed = any(self.run_folder(active.record).glob("checkpoints/step_*/COMPLETE"))
        self._begin(active, worker)
        self.events.started(active.record, resumed)
        return False

    def _begin(self, active: Active, worker: int) -> None:
        assert active.child is not None
        config = self._path(active.record, ".yaml")
        text = yaml.safe_dump(
            self.specification.flat(active.record.point), sort_keys=False, allow_unicode=True
        )
        with atomic_write(config) as temporary:
            temporary.write_text(text, encoding="utf-8")
        environment = worker_environment(worker, len(self.workers), self.gpus)
        command = self.command(config, self.run_folder(active.record))
        active.process = Process(command, environment, self._path(active.record, ".log"), active.child)

    def _pruned(self, active: Active) -> bool:
        """Records new values of the metric; returns whether the trial is to end early."""
        metrics = self.run_folder(active.record) / "metrics.jsonl"
        size = metrics.stat().st_size if metrics.exists() else 0
        if size == active.size:
            return False
        active.size = size
        return self._report(active) and self.study.should_prune(active.record)

    def _report(self, active: Active) -> bool:
        """Records the values of the metric since the last call; returns whether there are any."""
        new = reported(self.run_folder(active.record), self.specification.metric, active.reported)
        for step, value in new:
            self.study.report(active.record, step, value)
            active.reported = step
        return bool(new)

    def _last_value(self, active: Active) -> float | None:
        values = reported(self.run_folder(active.record), self.specification.metric, -1)
        return values[-1][1] if values else None

    def _finish(self, active: Active, result: Outcome) -> bool:
        if self.specification.pruner != "none":
            self._report(active)
        self.study.finish(active.record, result)
        self.events.ended(active.record, result, time.monotonic() - active.began)
        if result.state == "failed":
            self.failures.append(result.message.replace(str(self._path(active.record, "")), "…"))
            if not self.completed and len(self.failures) == 2 and self.failures[0] == self.failures[1]:
                raise UserError(f"{self.folder}: the first two trials failed: {result.message}")
        else:
            self.completed = True
        return True

    # Files

    def run_folder(self, record: Record) -> Path:
        return self._path(record, "")

    def _path(self, record: Record, suffix: str) -> Path:
        return self.folder / "trials" / f"{record.number:04d}{suffix}"

    def _lock(self, record: Record, name: str) -> BinaryIO | None:
        return try_lock(self.folder / ".locks" / f"{record.number:04d}.{name}")

    def _release(self, active: Active) -> None:
        for lock in (active.child, active.owner):
            if lock is not None:
                lock.close()

    def _save_seconds(self, last: bool = False) -> None:
        now = time.monotonic()
        if last or now - self.saved >= SAVE_SECONDS:
            self.saved = now
            self.study.add_seconds(self.session, now - self.began)


@contextlib.contextmanager
def _hangup_stops():
    """A closed terminal stops the sweep as SIGTERM does: its processes have sessions of their own and would not notice."""
    if os.name == "nt" or signal.getsignal(signal.SIGHUP) != signal.SIG_DFL:  # nohup
        yield
        return
    before = signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
