"""A worker warms up, then answers each line with that many times; one that ends is an error."""

import io
import json

import pytest

from bench import worker
from bench.worker import Worker


def test_answers(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(worker, "set_environment", lambda: calls.append("environment"))
    monkeypatch.setattr(worker, "KINDS", {"some": lambda: lambda: calls.append("work")})
    monkeypatch.setattr("sys.argv", ["worker", "some"])
    monkeypatch.setattr("sys.stdin", io.StringIO("2\n1\n"))
    worker.main()
    ready, first, second = capsys.readouterr().out.splitlines()
    assert ready == "ready" and len(json.loads(first)) == 2 and len(json.loads(second)) == 1
    assert calls == ["environment"] + ["work"] * 6


def test_a_worker_that_ends_is_an_error(capfd):
    with pytest.raises(RuntimeError, match="the worker ended with 2"):
        Worker("no such kind")
    assert "invalid choice" in capfd.readouterr().err
