"""Runs jobs in this process, in threads or processes on this machine, or on a dask.distributed cluster.

Input: a module-level function and jobs (jobs.py). Output: (job, result) pairs as jobs finish, in any order. The engine does
not affect the results.

`run_on_dask` needs the package distributed. `scheduler` is the address of a cluster ("tcp://host:8786") or its scheduler
file; without it, a temporary cluster of `num_workers` processes is started on this machine. Every worker must see the files
under the same paths and have the same version of lmfast; both are checked first.

Rejects a scheduler that does not answer, workers without the files or with other code, and jobs that kill four workers.
"""

import contextlib
import functools
import hashlib
import itertools
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from lmfast.errors import UserError

CONNECT_SECONDS = 10
WAKE_SECONDS = 0.5
Work = Callable[[Any], dict[str, Any]]


def _next_of(finished: SimpleQueue) -> Any:
    """The next item. Wakes up now and then: a signal that comes just before the wait would be noticed at its end only."""
    while True:
        with contextlib.suppress(Empty):
            return finished.get(timeout=WAKE_SECONDS)


def run_here(
    work: Work, jobs: Sequence[Any], num_workers: int, threads: bool = False
) -> Generator[tuple[Any, dict[str, Any]], None, None]:
    """Runs the jobs in this thread if one worker is enough, otherwise in `num_workers` processes or threads."""
    if num_workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield job, work(job)
        return
    num_workers = min(num_workers, len(jobs))
    finished: SimpleQueue = SimpleQueue()
    waiting = iter(jobs)
    job_of: dict[Future, Any] = {}
    before = set(multiprocessing.active_children())
    if threads:
        pool = ThreadPoolExecutor(num_workers)
    else:  # spawn, because threads of numba or of the caller do not survive a fork
        pool = ProcessPoolExecutor(
            num_workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent
        )

    def submit_one() -> None:
        for job in itertools.islice(waiting, 1):
            future = pool.submit(work, job)
            job_of[future] = job
            future.add_done_callback(finished.put)

    with _ctrl_c_into(finished):
        try:
            for _ in range(2 * num_workers):
                submit_one()
            while job_of:
                future = _next_of(finished)
                if future is None:
                    raise KeyboardInterrupt
                job = job_of.pop(future)
                submit_one()
                yield job, future.result()
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed (out of memory?); rerun the same command to continue, with a smaller "
                "--num-workers if it happens again"
            ) from None
        finally:
            if job_of:  # running jobs are useless: a shard is complete or absent
                for process in set(multiprocessing.active_children()) - before:
                    process.terminate()
            pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _ctrl_c_into(queue: SimpleQueue) -> Iterator[None]:
    """Turns Ctrl-C into a None in the queue; KeyboardInterrupt at an arbitrary point could leave the pool's locks held.

    `SimpleQueue.put` is safe in a signal handler. Does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, lambda *_: queue.put(None))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _end_with_parent() -> None:
    """Makes a worker ignore Ctrl-C, which its parent handles, and exit when its parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    parent = multiprocessing.parent_process()
    assert parent is not None, "not a worker"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def dask_client(scheduler: str | None, num_workers: int, sees: Iterable[str | Path] = ()):
    """A `distributed.Client` of the given cluster, or of a temporary one. sees: files that every worker must see."""
    try:
        import distributed
    except ImportError:
        raise UserError(
            "--engine dask needs the package distributed, which is not installed; run `pip install distributed`"
        ) from None
    quiet = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "distributed"]
    for name in quiet:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors are reported below, in one line
    with contextlib.ExitStack() as stack:
        if scheduler is None:
            cluster = stack.enter_context(
                distributed.LocalCluster(
                    n_workers=num_workers,
                    threads_per_worker=1,
                    scheduler_kwargs={"dashboard": False},
                    silence_logs=logging.CRITICAL,
                )
            )
            client = stack.enter_context(distributed.Client(cluster))
        else:
            where: dict[str, Any] = (
                {"scheduler_file": scheduler} if Path(scheduler).is_file() else {"address": scheduler}
            )
            try:
                client = stack.enter_context(distributed.Client(**where, timeout=CONNECT_SECONDS))
            except (OSError, ValueError) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise UserError(
                    f"--scheduler {scheduler}: no dask scheduler answers there ({reason}); start one with "
                    "`dask scheduler`, or remove --scheduler to use this machine"
                ) from None
        check_workers(client, [str(Path(path).absolute()) for path in sees])
        yield client


def check_workers(client, paths: list[str]) -> None:
    """Raises UserError naming the first worker with another version of lmfast or without access to a file."""
    answers = client.run(_what_a_worker_has, paths)
    if not answers:
        raise UserError(f"{client.scheduler.address}: has no workers; start some with `dask worker`")
    ours = sources_digest()
    for worker, (digest, unseen) in answers.items():
        if digest != ours:
            raise UserError(f"worker {worker}: has another version of lmfast; install the same version there")
        if unseen:
            raise UserError(
                f"worker {worker}: cannot see {unseen[0]}; use a folder that all workers share under the same path"
            )


def _what_a_worker_has(paths: list[str]) -> tuple[str, list[str]]:
    return sources_digest(), [path for path in paths if not os.path.exists(path)]


@functools.cache
def sources_digest() -> str:
    """SHA-256 of the source files that affect the result of a job."""
    digest = hashlib.sha256()
    for package in ("sharding", "tokenizer", "data"):
        for path in sorted((Path(__file__).parent.parent / package).rglob("*.py")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def run_on_dask(work: Work, jobs: Sequence[Any], client) -> Generator[tuple[Any, dict[str, Any]], None, None]:
    """Runs the jobs on a cluster. Jobs of a killed worker run on others; a job that kills four workers is an error."""
    from distributed import KilledWorker, as_completed

    job_of = {future: job for job, future in zip(jobs, client.map(work, jobs, pure=False, retries=0))}
    try:
        for future in as_completed(job_of):
            yield job_of[future], future.result()
    except KilledWorker as error:
        raise UserError(
            f"{error.task}: killed four workers (out of memory?); give the workers more memory, then rerun the same "
            "command to continue"
        ) from None
    finally:
        client.cancel(list(job_of))
