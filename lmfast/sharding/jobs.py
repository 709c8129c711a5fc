"""Jobs on shards of files, and which of them are complete.

A `Job` names the files it reads and the shared work folder its results go to. Its last step writes a completion record,
`NAME.json` in that folder: the request it answers and the result. So a job can run again, elsewhere or twice at once, and
a rerun of the whole skips what an interrupted call completed.
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
    """How jobs run; the results do not depend on it.

    engine: "local", processes of this machine, or "dask" (`scheduler`: see engines.py). shard_bytes: about the bytes of
    files that one job reads; None for the default of the work."""

    engine: str = "local"
    scheduler: str | None = None
    num_workers: int | None = None
    shard_bytes: int | None = None


LOCAL = ExecutionOptions()


@dataclass(frozen=True)
class Shard:
    """A part of a file. begin, end: bytes, or what the reader of the file counts instead (sources.py)."""

    path: str
    begin: int
    end: int
    size: int  # of the file in bytes, and its modification time in ns: whether the file changed since
    changed: int


@dataclass(frozen=True)
class Job(Generic[Request]):
    """One job, small and picklable.

    name: unique in the folder. request: a dataclass of JSON values, everything the result depends on. reads: the files
    that a worker must see. weight: bytes to read, approximately, for progress."""

    name: str
    folder: str
    request: Request
    reads: tuple[str, ...]
    weight: int

    def file(self, suffix: str) -> Path:
        """`NAME.suffix` in the work folder."""
        return Path(self.folder) / f"{self.name}.{suffix}"

    def facts(self) -> dict[str, Any]:
        """The request as JSON holds it."""
        return json.loads(json.dumps(asdict(self.request)))

    def result(self) -> dict | None:
        """The result, or None where the job is not complete or its record answers another request."""
        try:
            record = json.loads(self.file("json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record["result"] if record["request"] == self.facts() else None

    def complete(self, result: dict) -> dict:
        """Writes the completion record; the job's other files must have their final names by now. Returns `result`."""
        with atomic_write(self.file("json")) as partial:
            partial.write_text(json.dumps({"request": self.facts(), "result": result}), encoding="utf-8")
        return result


@contextlib.contextmanager
def work_folder(folder: Path) -> Iterator[None]:
    """Holds a work folder for one command at a time. Removed on success, and on failure if no job is complete.

    Raises UserError if another command holds it."""
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
    work: Callable[[Job], dict],
    jobs: Sequence[Job],
    options: ExecutionOptions,
    progress: Progress | None = None,
    sees: Sequence[str] = (),
) -> Iterator[tuple[Job, dict]]:
    """(job, result) of all jobs, those already complete first. sees: what workers must see besides the jobs' files.

    progress: called with (weight done, total weight) of the jobs that were not complete."""
    left = []
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
            running = run_here(work, left, num_workers)
        for job, result in stack.enter_context(contextlib.closing(running)):
            done += job.weight
            if progress is not None:
                progress(done, total)
            yield job, result
