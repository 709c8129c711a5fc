"""When measurements are taken again, and what a failed one leaves."""

import subprocess

import pytest

from lmfast.cli.recipes import measurements as module
from lmfast.cli.recipes.jobs import TokenizerJob
from lmfast.cli.recipes.measurements import measure, measurements

JOB, OTHER = TokenizerJob("a.txt", 300, []), TokenizerJob("a.txt", 301, [])


@pytest.fixture
def calls(monkeypatch):
    calls = []
    monkeypatch.setattr(module, "measure", lambda jobs: calls.append(list(jobs)) or {"words": {"first": 1.0}})
    return calls


def test_measurements_are_kept(calls, tmp_path):
    (tmp_path / ".recipe").mkdir()
    assert measurements(tmp_path, {"words": JOB}, True) == measurements(tmp_path, {"words": JOB}, True)
    assert len(calls) == 1
    measurements(tmp_path, {"words": OTHER}, True)
    assert len(calls) == 2


def test_a_plan_alone_writes_nothing(calls, tmp_path):
    assert measurements(tmp_path, {"words": JOB}, False) == {"words": {"first": 1.0}}
    assert measurements(tmp_path, {}, True) == {} and not list(tmp_path.iterdir())


def test_a_failed_measurement(monkeypatch):
    done = subprocess.CompletedProcess([], 1, "Traceback")
    monkeypatch.setattr(module.subprocess, "run", lambda *words, **rest: done)
    assert measure({"words": JOB}) == {}
