"""engines.py: every job's result is returned; a killed worker is replaced or reported in one line."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from lmfast.errors import UserError
from lmfast.sharding import engines
from lmfast.sharding.engines import check_workers, dask_client, run_here, sources_digest
from tests.processes import wait_until


def square(job: int) -> dict:
    return {"square": job * job, "process": os.getpid()}


def die(job: int) -> dict:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def fail(job: int) -> dict:
    raise UserError(f"job {job}: refused")


def test_one_worker_is_this_process():
    assert [(job, result["square"]) for job, result in run_here(square, [1, 2, 3], 1)] == [
        (1, 1),
        (2, 4),
        (3, 9),
    ]
    assert {result["process"] for _, result in run_here(square, [4], 8)} == {os.getpid()}


def test_many_workers_are_other_processes():
    done = dict(run_here(square, list(range(20)), 2))
    assert {job: result["square"] for job, result in done.items()} == {i: i * i for i in range(20)}
    assert os.getpid() not in {result["process"] for result in done.values()}


def test_threads_are_in_this_process():
    done = [
        (job, result["square"], result["process"]) for job, result in run_here(square, [1, 2, 3], 2, True)
    ]
    assert sorted(done) == [(i, i * i, os.getpid()) for i in (1, 2, 3)]


@pytest.mark.parametrize(
    ("work", "match"),
    [(die, "killed .out of memory.*rerun the same command to continue"), (fail, "refused")],
)
def test_a_job_that_fails_in_another_process_is_one_line(work, match):
    with pytest.raises(UserError, match=match) as caught:
        list(run_here(work, [1, 2], 2))
    assert "\n" not in str(caught.value)


def sleep(mark: Path) -> dict:
    """The first four jobs end at once; the others leave a file and take longer than the timeout of a test."""
    if int(mark.name) >= 4:
        mark.touch()
        time.sleep(600)
    return {}


def test_a_stop_ends_the_workers_at_once(tmp_path):
    """Like Ctrl-C sent to the parent alone, while both workers are busy."""

    def interrupt():
        wait_until(lambda: len(os.listdir(tmp_path)) == 2)
        os.kill(os.getpid(), signal.SIGINT)

    before = set(multiprocessing.active_children())
    interrupter = threading.Thread(target=interrupt)
    with pytest.raises(KeyboardInterrupt):
        for number, _ in enumerate(run_here(sleep, [tmp_path / str(i) for i in range(1000)], 2)):
            if number == 3:
                interrupter.start()
    interrupter.join()
    assert set(multiprocessing.active_children()) == before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_consumer_that_stops_early_ends_the_workers(tmp_path):
    before = set(multiprocessing.active_children())
    running = run_here(sleep, [tmp_path / str(i) for i in range(100)], 2)
    next(running)
    running.close()
    assert set(multiprocessing.active_children()) == before


def test_without_the_package_distributed(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match="needs the package distributed"), dask_client(None, 1):
        pass


def test_an_unreachable_scheduler(monkeypatch):
    monkeypatch.setattr(engines, "CONNECT_SECONDS", 0.5)
    rejected = pytest.raises(UserError, match=r"--scheduler tcp://127.0.0.1:9: no dask scheduler answers")
    with rejected as caught, dask_client("tcp://127.0.0.1:9", 1):
        pass
    assert "\n" not in str(caught.value)


class Workers:
    """A fake dask client, with its workers' answers."""

    def __init__(self, answers: dict):
        self.answers = answers

    class scheduler:
        address = "tcp://scheduler"

    def run(self, function, paths):
        assert function(paths) == (sources_digest(), [path for path in paths if not Path(path).exists()])
        return self.answers


def test_workers_must_see_the_files_and_run_the_same_code(tmp_path):
    path = str(tmp_path / "text.txt")
    same = sources_digest()
    check_workers(Workers({"w1": (same, []), "w2": (same, [])}), [path])
    with pytest.raises(UserError, match=f"worker w2: cannot see {path}; use a folder"):
        check_workers(Workers({"w1": (same, []), "w2": (same, [path])}), [path])
    with pytest.raises(UserError, match="worker w1: has another version of lmfast"):
        check_workers(Workers({"w1": ("0" * 64, [])}), [path])
    with pytest.raises(UserError, match="tcp://scheduler: has no workers"):
        check_workers(Workers({}), [path])
