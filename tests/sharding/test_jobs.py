"""jobs.py: a completion record answers one request only, and complete jobs do not run again."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from lmfast.errors import UserError
from lmfast.sharding.jobs import LOCAL, Job, Shard, run_jobs, work_folder


@dataclass(frozen=True)
class Request:
    shard: Shard
    field: str = "text"


def job(folder: Path, number: int = 0, size: int = 10) -> Job[Request]:
    shard = Shard(f"/{number}.txt", 0, size, size, 1)
    return Job(f"{number:06d}", str(folder), Request(shard), (shard.path,), size)


def test_a_record_answers_one_request_only(tmp_path):
    one = job(tmp_path)
    assert one.result() is None
    assert one.complete({"tokens": 5}) == {"tokens": 5}
    assert one.result() == {"tokens": 5}
    assert job(tmp_path, size=11).result() is None
    assert replace(one, request=replace(one.request, field="body")).result() is None
    one.file("json").write_text("{")  # half a file, as a full disk leaves it
    assert one.result() is None
    assert one.file("ids") == tmp_path / "000000.ids"


def test_complete_jobs_do_not_run_again(tmp_path):
    jobs = [job(tmp_path, number, size=number + 1) for number in range(4)]
    jobs[2].complete({"number": "before"})
    ran, reported = [], []

    def work(each: Job[Request]) -> dict:
        ran.append(each.name)
        return each.complete({"number": each.weight})

    options = replace(LOCAL, num_workers=1)
    first = {
        each.name: result for each, result in run_jobs(work, jobs, options, lambda *of: reported.append(of))
    }
    assert ran == ["000000", "000001", "000003"]
    assert reported == [(1, 7), (3, 7), (7, 7)]
    assert first == {"000002": {"number": "before"}} | {
        each.name: {"number": each.weight} for each in jobs if each.name != "000002"
    }
    assert {each.name: result for each, result in run_jobs(work, jobs, options)} == first
    assert len(ran) == 3


@pytest.mark.parametrize("complete", [False, True])
def test_a_work_folder_stays_after_a_failure_only_with_complete_jobs(tmp_path, complete):
    folder = tmp_path / "work"
    with pytest.raises(KeyboardInterrupt), work_folder(folder):
        (folder / "half.ids").touch()
        if complete:
            job(folder).complete({})
        raise KeyboardInterrupt
    assert folder.exists() == complete
    with (
        work_folder(folder),
        pytest.raises(UserError, match="another command is writing the same output"),
        work_folder(folder),
    ):
        pass
    assert not folder.exists()
