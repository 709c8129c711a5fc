"""The sweep on the CPU, where launch parameters change nothing: every group runs, and a different result is detected."""

import contextlib
import sys

import pytest
import torch

from bench import gpu_tiles, results
from bench.gpu_tiles import Group, groups, main, sweep

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", list(groups()))
def test_every_group_has_a_call_and_candidates(name):
    group = groups()[name]
    row = sweep(name, group, CPU, tiny=True)
    assert len(row.data["ms"]) == len(group.candidates) >= 2 and not row.wrong
    assert row.value == pytest.approx(next(iter(row.data["ms"].values())) / min(row.data["ms"].values()))


def test_a_candidate_with_a_different_result_is_wrong_and_one_that_raises_is_excluded(capsys):
    chosen = []

    @contextlib.contextmanager
    def using(candidate):
        chosen.append(candidate["n"])
        yield

    def make(device, tiny):
        def call():
            if chosen[-1] == 3:
                raise RuntimeError("out of shared memory")
            return (torch.full((4,), 2.0 if chosen[-1] == 2 else 1.0),)

        return call

    row = sweep("x", Group([{"n": 1}, {"n": 2}, {"n": 3}], using, make), CPU, True)
    assert row.wrong == "2 differs from the default" and set(row.data["ms"]) == {"1", "2"}
    assert "x, 3: RuntimeError: out of shared memory" in capsys.readouterr().out


def test_command_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    compiled = []
    monkeypatch.setattr(gpu_tiles, "compile_all", lambda *arguments: compiled.append(arguments))
    output = tmp_path / "t.json"
    name = "attention-dq-d64"
    monkeypatch.setattr(sys, "argv", ["x", "--rehearse", "--only", name, "--output", str(output)])
    assert main() == 0 and compiled == [([name], True, 2)] and results.read(output).rows[0].name == name
    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(SystemExit):
        main()
    assert "needs a CUDA device, or --rehearse" in capsys.readouterr().err
