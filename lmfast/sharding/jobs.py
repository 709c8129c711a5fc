"""Jobs on shards of files, and records of which are complete.

A `Job` names the files it reads and the shared work folder for its results. Its last step writes a completion record,
`NAME.json` in that folder, with its request and result. A job can therefore run again, elsewhere or twice at once, and
rerunning an interrupted call skips completed jobs.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from lmfast.files import atomic_write, folder_lock
from lmfast.sharding.engines import dask_client, run_here, run_on_dask
from lmfast.sharding.workers import default_workers

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Progress = Callable[[int, int], None]
Request = TypeVar("Request", bound="DataclassInstance")


@dataclass(frozen=True)
class ExecutionOptions:
    """How jobs run, which does not affect their results.

    engine: "threads" or "processes" on this machine, "auto" (processes, because jobs are mostly Python code), or "dask"
    (scheduler: see engines.py). shard_bytes: approximate number of bytes that one job reads; None for the default of the
    command."""

    engine: str = "auto"
    scheduler: str | None = None
    num_workers: int | None = None
    shard_bytes: int | None = None


LOCAL = ExecutionOptions()


@dataclass(frozen=True)
class Shard:
    """A part of a file. begin, end: in bytes, or in other units of the reader (sources.py)."""

    path: str
    begin: int
    end: int
    size: int  # of the file in bytes; with the modification time in ns, detects changes
    changed: int


@dataclass(frozen=True)
class Job(Generic[Request]):
    """One job; small and picklable.

    name: unique in the folder. request: a dataclass of JSON values with everything that the result depends on. reads:
    files that a worker must see. weight: approximate number of bytes to read, for progress."""

    name: str
    folder: str
    request: Request
    reads: tuple[str, ...]
    weight: int

    def file(self, suffix: str) -> Path:
        """`NAME.suffix` in the work folder."""
        return Path(self.folder) / f"{self.name}.{suffix}"

    def facts(self) -> dict[str, Any]:
        """The request after a round trip through JSON."""
        return json.loads(json.dumps(asdict(self.request)))

    def result(self) -> dict[str, Any] | None:
        """The result, or None if the job is not complete or its record is for another request."""
        try:
            record = json.loads(self.file("json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record["result"] if record["request"] == self.facts() else None

    def complete(self, result: dict[str, Any]) -> dict[str, Any]:
        """Writes the completion record and returns `result`. The other files of the job must be complete."""
        with atomic_write(self.file("json")) as partial:
            partial.write_text(json.dumps({"request": self.facts(), "result": result}), encoding="utf-8")
        return result


@contextlib.contextmanager
def work_folder(folder: Path) -> Iterator[None]:
    """Locks a work folder for one command. Removes it on success, and on failure if no job is complete.

    Raises UserError if another command holds the lock."""
    busy = f"{folder}: another command is writing the same output; wait for it, or choose another --output"
    with folder_lock(folder, busy):
        try:
            yield
        except BaseException:
            if not any(folder.glob("*.json")):
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def run_jobs(
    work: Callable[[Job[Request]], dict[str, Any]],
    jobs: Sequence[Job[Request]],
    options: ExecutionOptions,
    progress: Progress | None = None,
    sees: Sequence[str] = (),
) -> Iterator[tuple[Job[Request], dict[str, Any]]]:
    """Yields (job, result) for all jobs, completed ones first. sees: further files that workers must see.

    progress: called with (weight done, total weight) of the jobs that were not complete."""
    left: list[Job[Request]] = []
    for job in jobs:
        result = job.result()
        if result is None:
            left.append(job)
        else:
            yield job, result
    if not left:
        return
    total, done = sum(job.weight for job in left), 0
    num_workers = min(options.num_workers or default_workers(), len(left))
    with contextlib.ExitStack() as stack:
        if options.engine == "dask":
            paths = sorted({*sees, *(path for job in left for path in job.reads)})
            client = stack.enter_context(dask_client(options.scheduler, num_workers, paths))
            running = run_on_dask(work, left, client)
        else:
            running = run_here(work, left, num_workers, options.engine == "threads")
        for job, result in stack.enter_context(contextlib.closing(running)):
            done += job.weight
            if progress is not None:
                progress(done, total)
            yield job, result
