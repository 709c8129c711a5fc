"""Steps run after one another, each within its limit, whatever the one before did."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import gpu, machine
from bench.gpu import ON_REQUEST, STEPS, Step, main, run, run_all, summary


class Script(Step):
    """A step that runs a piece of Python instead of a module."""

    def command(self, output):
        return [sys.executable, "-c", self.module, str(output)]


@pytest.fixture(autouse=True)
def no_least(monkeypatch):
    monkeypatch.setattr(gpu, "LEAST", 0.05)


ROW = {
    "name": "MFU",
    "must": 0.45,
    "aim": 0.55,
    "value": 0.5,
    "shown": "50 %",
    "at_most": False,
    "verdict": "must",
}
GOOD = f"import json, sys; open(sys.argv[1], 'w').write(json.dumps({{'rows': [{ROW!r}]}}))"
BAD = "raise SystemExit(3)"
SLOW = "import time; time.sleep(60)"


def test_neither_failure_nor_slowness_stops_the_next(tmp_path, capsys):
    steps = {"slow": Script(SLOW, 0.3), "bad": Script(BAD, 20), "good": Script(GOOD, 20)}
    found = run_all(steps, tmp_path / "out", {"gpu": "a card"}, 60)
    assert {name: entry["ended"] for name, entry in found.items()} == {
        "slow": "stopped at its limit of 0 s",
        "bad": "failed with exit code 3",
        "good": "done",
    }
    kept = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert kept["gpu"] == "a card" and kept["steps"] == found
    assert "== bad: failed with exit code 3" in capsys.readouterr().out
    assert summary(tmp_path / "out", found)[2:] == [
        f"good: done, {found['good']['seconds']:.0f} s",
        "    must  MFU (at least 0.45, aim 0.55): 50 %",
    ]


def test_when_the_time_is_over_the_rest_is_not_begun(tmp_path):
    steps = {"first": Script(SLOW, 20), "second": Script(GOOD, 20)}
    found = run_all(steps, tmp_path, {}, 0.5)
    assert found["first"]["ended"].startswith("stopped at its limit")
    assert found["second"]["ended"] == "not begun: the time is over" and found["second"]["limit"] < 0.05
    assert not (tmp_path / "gpu_second.json").exists()


def test_a_stopped_step_leaves_no_process_behind(tmp_path):
    """Not even one that will not hear of SIGTERM, and whose parent has ended."""
    stubborn = (
        "import signal, subprocess, sys, time\n"
        "child = 'import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)'\n"
        "process = subprocess.Popen([sys.executable, '-c', child], stdout=subprocess.PIPE)\n"
        "process.stdout.read(1)\n"
        "open(sys.argv[1], 'w').write(str(process.pid))\n"
        "time.sleep(60)\n"
    )
    output = tmp_path / "pid"
    began = time.monotonic()
    assert run(Script(stubborn, 60), output, 3.0) == "stopped at its limit of 3 s"
    assert time.monotonic() - began < 10
    pid = int(output.read_text())
    time.sleep(0.2)
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


@pytest.mark.parametrize("name", [*STEPS, *ON_REQUEST])
def test_every_step_is_a_module_that_takes_its_arguments(name, monkeypatch, capsys):
    step = (STEPS | ON_REQUEST)[name]
    monkeypatch.setattr(sys, "argv", [step.module, "--help"])
    with pytest.raises(SystemExit):
        importlib.import_module(step.module).main()
    told = capsys.readouterr().out
    flags = [word for word in step.command("file.json") if word.startswith("--")]
    assert step.to in flags and all(flag in told for flag in flags)


def test_nine_minutes_are_enough_for_the_most_important(capsys):
    first = list(STEPS)[:4]
    assert first == ["correctness", "training", "run", "decoding"]
    assert sum(STEPS[name].limit for name in first) < 8.75 * 60


def test_without_a_device_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(machine, "gpu_name", lambda: None)
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("bench/gpu.sh: needs a CUDA device")


@pytest.mark.parametrize(("script", "code"), [(GOOD, 0), (BAD, 1)])
def test_command_line(script, code, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(machine, "gpu_name", lambda: "NVIDIA H100")
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setitem(STEPS, "training", Script(script, 20))
    assert main(["--only", "training", "--minutes", "1"]) == code
    told = capsys.readouterr().out
    assert "NVIDIA H100, commit" in told and f"s; {tmp_path}" in told
    assert json.loads((tmp_path / "gpu.json").read_text())["gpu"] == "NVIDIA H100"


def test_the_shell_script_passes_its_arguments_on():
    done = subprocess.run(
        ["bash", str(machine.ROOT / "bench" / "gpu.sh"), "--only", "nothing"],
        env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True, cwd="/",
    )  # fmt: skip
    assert done.returncode == 2 and "invalid choice: 'nothing'" in done.stderr
