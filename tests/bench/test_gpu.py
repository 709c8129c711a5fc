"""Steps run one after another, each within its limit, whatever the previous one did."""

import importlib
import os
import subprocess
import sys

import pytest

from bench import gpu, machine, results
from bench.gpu import MINUTES, SMOKE_MINUTES, main, run_all, summary
from bench.gpu_jobs import Step
from bench.gpu_smoke import CHECKS
from bench.gpu_steps import ON_REQUEST, STEPS, smoke_steps
from bench.results import Row
from tests.bench.results import MACHINE, target_table
from tests.bench.test_gpu_jobs import SLOW, Clock, Script

SAVED = target_table(Row("MFU", 0.5, "50 %", 0.45, 0.55, predicted="43 %")).as_dict()
GOOD = f"import json, sys; open(sys.argv[1], 'w').write(json.dumps({SAVED!r}))"
BAD = "raise SystemExit(3)"
SMOKE = smoke_steps()
JOBS = [job for steps in (STEPS, ON_REQUEST, SMOKE) for step in steps.values() for job in step.jobs]


def alone(script: str, limit: float, output: str = "x.json") -> Step:
    return Step(limit, (Script("job", script, output=output),))


def test_a_failed_or_slow_step_does_not_stop_the_next(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu, "LEAST", 0.1)
    steps = {"slow": alone(SLOW, 0.4), "bad": alone(BAD, 60), "good": alone(GOOD, 60, "good.json")}
    found = run_all(steps, tmp_path / "out", MACHINE, 600)
    assert {row.name: row.shown for row in found} == {
        "slow": "job: stopped at its limit of 0 s",
        "bad": "job: failed with exit code 3",
        "good": "done",
    }
    assert [row.verdict for row in found] == ["FAILED", "FAILED", "-"]
    assert results.read(tmp_path / "out" / "gpu.json").rows == found
    assert "== bad: job: failed with exit code 3" in capsys.readouterr().out
    assert "== slow: job: stopped" in (tmp_path / "out" / "gpu.log").read_text()


def test_the_summary_shows_rows_with_their_predictions(tmp_path):
    steps = {"good": alone(GOOD, 60)}
    found = run_all(steps, tmp_path, MACHINE, 600)
    assert summary(tmp_path, steps, found) == [
        f"good: done, {found[0].value:.0f} s",
        "    must  MFU (at least 0.45, aim 0.55): 50 % [predicted 43 %]",
    ]


def test_steps_after_the_time_limit_are_not_started(tmp_path):
    steps = {"first": alone(SLOW, 500), "second": alone(GOOD, 20, "second.json")}
    first, second = run_all(steps, tmp_path, MACHINE, 60, Clock(11.0))
    assert first.shown.startswith("job: stopped at its limit")
    assert second.shown == "not started: no time left"
    assert not (tmp_path / "second.json").exists()


@pytest.mark.parametrize("module", sorted({job.module for job in JOBS}))
def test_every_job_is_a_module_that_takes_its_arguments(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit):
        importlib.import_module(module).main()
    printed = capsys.readouterr().out
    for job in JOBS:
        if job.module == module:
            flags = [*job.arguments, "--rehearse", *([job.to] if job.output else [])]
            assert all(flag in printed for flag in flags if flag.startswith("--"))


def test_limits_add_up():
    assert sum(step.limit for step in STEPS.values()) <= 60 * MINUTES
    assert sum(step.limit for step in SMOKE.values()) <= 60 * SMOKE_MINUTES


def test_eight_files_come_back():
    """A device machine returns at most eight files."""
    for steps in (STEPS, SMOKE):
        outputs = [job.output for step in steps.values() for job in step.jobs if job.output]
        assert len(set(outputs)) == len(outputs) and len(outputs) + len(("gpu.json", "gpu.log")) <= 8


def test_a_missing_device_is_reported(monkeypatch, capsys):
    monkeypatch.setattr(machine, "gpu_name", lambda: None)
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("bench/gpu.sh: needs a CUDA device; without one, --rehearse")


@pytest.mark.parametrize(("script", "code"), [(GOOD, 0), (BAD, 1)])
def test_command_line(script, code, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(machine, "gpu_name", lambda: "NVIDIA H100")
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setitem(STEPS, "training", alone(script, 60))
    assert main(["--only", "training", "--minutes", "2"]) == code
    printed = capsys.readouterr().out
    assert "NVIDIA H100, commit" in printed and f"s; {tmp_path}" in printed
    assert results.read(tmp_path / "gpu.json").machine["gpu"] == "NVIDIA H100"


def test_a_rehearsal_needs_no_device(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "gpu_name", lambda: None)
    monkeypatch.setitem(STEPS, "training", alone(GOOD, 60))
    assert main(["--rehearse", "--only", "training", "--output", str(tmp_path)]) == 0


def test_the_shell_script_forwards_its_arguments():
    done = subprocess.run(
        ["bash", str(machine.ROOT / "bench" / "gpu.sh"), "--only", "nothing"],
        env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True, cwd="/",
    )  # fmt: skip
    assert done.returncode == 2 and "invalid choice: 'nothing'" in done.stderr


def test_selected_smoke_checks():
    (step,) = smoke_steps(["agreement", "train"]).values()
    assert [job.arguments for job in step.jobs] == [("agreement",), ("train",)]
    assert len(smoke_steps()["smoke"].jobs) == len(CHECKS)
