"""The thread that decodes: takes jobs from a fair queue into a running batch and reports progress to the event loop.

In: Jobs, submitted and cancelled from the event loop. Out: their sequences' ids, which grow in place. `Job.changed` is set
at the first id of a streamed job, then every EVENT_SECONDS at most, because a step waits for the event loop otherwise, and
when a job ends. A job whose client has left is cancelled before the next step.

A decoder that fails ends the running jobs with `Job.failed`; the queued ones are served after that.
"""

import asyncio
import contextlib
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field

from lmfast.inference.batching import Batch, Sequence
from lmfast.inference.slots import SlotDecoder
from lmfast.serving.fair_queue import FairQueue

EVENT_SECONDS = 0.02


@dataclass(eq=False)
class Job:
    """The sequences of one request. All fields but `sequences` and `client` are the scheduler's."""

    sequences: SequenceOf[Sequence]
    client: str
    streamed: bool
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    failed: bool = False
    submitted: float = field(default_factory=time.monotonic)  # the event loop's clock
    first_id: float | None = None
    """when the first id was chosen, on the clock of `submitted`"""

    @property
    def finished(self) -> bool:
        return self.failed or all(sequence.finish is not None for sequence in self.sequences)


class QueueFull(Exception):
    """As many sequences as allowed are waiting."""


class Scheduler:
    """Decodes the sequences of jobs, at most `decoder.slots` at a time and `max_queue` waiting."""

    def __init__(self, decoder: SlotDecoder, max_queue: int):
        self.decoder, self.max_queue = decoder, max_queue
        self.batch = Batch(decoder)
        self.queue: FairQueue[Sequence] = FairQueue()
        self.jobs: dict[Sequence, Job] = {}  # of sequences that are queued or running
        self.orders: deque[tuple[Job, bool]] = deque()  # (job, whether to cancel it), not yet carried out
        self.ordered = threading.Condition()
        self.closing = False
        self.changed: set[Job] = set()  # to be reported
        self.last_report = 0.0
        self.decoding_seconds = 0.0
        self.waiting = 0  # sequences that are not in the batch yet, those of orders included
        self.thread = threading.Thread(target=self._work, name="scheduler", daemon=True)

    @property
    def capacity(self) -> int:
        """The most sequences of one job."""
        return self.decoder.slots + self.max_queue

    def start(self) -> None:
        """Starts the thread. Called from the event loop, as all other methods are but `close`."""
        self.loop = asyncio.get_running_loop()
        self.thread.start()

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return self.decoder.slots - self.batch.free

    @property
    def tokens_per_second(self) -> float:
        """Generated ids per second in which there was something to do."""
        return self.batch.new_tokens / self.decoding_seconds if self.decoding_seconds else 0.0

    def submit(self, job: Job) -> None:
        """Queues a job's sequences. Raises QueueFull."""
        with self.ordered:
            if self.waiting + len(job.sequences) - self.batch.free > self.max_queue:
                raise QueueFull
            self.waiting += len(job.sequences)
            self.orders.append((job, False))
            self.ordered.notify()
        # The thread takes Python's lock now, and not when the event loop has nothing else to do: 0.2 ms.
        time.sleep(0)

    def cancel(self, job: Job) -> None:
        """Ends a job before the next step; its sequences then have finish "cancelled", unless they ended before."""
        with self.ordered:
            self.orders.append((job, True))
            self.ordered.notify()

    def close(self) -> None:
        """Ends the thread, and the jobs that are left, and closes the decoder."""
        with self.ordered:
            self.closing = True
            self.ordered.notify()
        if self.thread.ident is not None:  # it is not started if a signal ends the server first
            self.thread.join()
        self.decoder.close()

    def _work(self) -> None:
        while not self.closing:
            try:
                self._take_orders()
                self._advance()
            except Exception:
                traceback.print_exc(file=sys.stderr)
                self._fail_running()
        for job in {*self.jobs.values(), *(job for job, _ in self.orders)}:
            job.failed = True
            self.changed.add(job)
        self._report(at_once=True)

    def _advance(self) -> None:
        """Fills the batch from the queue, takes a step, and reports what it changed."""
        while self.queue and self.batch.free:
            self._count_waiting(-1)
            self.batch.add(self.queue.pop())
        began = time.monotonic()
        self._note(self.batch.advance())
        self.decoding_seconds += time.monotonic() - began
        self._report(at_once=self.batch.idle)

    def _take_orders(self) -> None:
        """Queues and cancels as ordered, waiting if there is nothing else to do."""
        with self.ordered:
            if not self.orders and not self.queue and self.batch.idle and not self.closing:
                self.ordered.wait_for(lambda: self.orders or self.closing)
            orders, self.orders = self.orders, deque()
        for job, cancelled in orders:
            for sequence in job.sequences:
                if not cancelled:
                    self.jobs[sequence] = job
                    self.queue.push(job.client, sequence)
                elif self.queue.remove(job.client, sequence):
                    sequence.finish = "cancelled"
                    self._count_waiting(-1)
                else:
                    self.batch.cancel(sequence)
                if cancelled:
                    self.jobs.pop(sequence, None)
            if cancelled:
                self.changed.add(job)
        self._report(at_once=any(cancelled for _, cancelled in orders))

    def _count_waiting(self, change: int) -> None:
        with self.ordered:
            self.waiting += change

    def _note(self, changed: list[Sequence]) -> None:
        """Notes the jobs of sequences that got ids or ended."""
        now = time.monotonic()
        for sequence in changed:
            job = self.jobs[sequence]
            if job.first_id is None:
                job.first_id = now
                if job.streamed:
                    self.last_report = 0.0
            if job.streamed:
                self.changed.add(job)
            if sequence.finish is None:
                continue
            del self.jobs[sequence]
            if job.finished or job.streamed:
                self.changed.add(job)
                self.last_report = 0.0

    def _report(self, at_once: bool = False) -> None:
        """Wakes those who wait for jobs that have changed, if it is time."""
        now = time.monotonic()
        if not self.changed or (not at_once and now - self.last_report < EVENT_SECONDS):
            return
        changed, self.changed, self.last_report = self.changed, set(), now
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
            self.loop.call_soon_threadsafe(_wake, changed)

    def _fail_running(self) -> None:
        """Ends the jobs in the batch, and what of them is queued."""
        self.batch.clear()
        # Also those of sequences that ended in the step that failed.
        failed = {job for sequence, job in self.jobs.items() if sequence.finish is not None}
        for job in failed:
            job.failed = True
            for sequence in job.sequences:
                if self.queue.remove(job.client, sequence):
                    self._count_waiting(-1)
                self.jobs.pop(sequence, None)
            self.changed.add(job)
        self._report(at_once=True)


def _wake(jobs: set[Job]) -> None:
    for job in jobs:
        job.changed.set()
