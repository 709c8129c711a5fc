"""Running the trials of a sweep: outcomes, budgets, workers, kills. The trials are a stub (stub_train.py)."""

import json
import signal
from collections import Counter

import pytest

from tests.processes import wait_until
from tests.sweeps.stub_sweep import GRID, start

pytest.importorskip("optuna", reason="the extra `sweep` is not installed")


def test_diverged_trials_are_kept_and_the_sweep_goes_on(stub, capsys):
    assert stub(space={"lr": [10.0, 1e-2]}) == 0
    printed = capsys.readouterr().out
    assert "trial 0 diverged: loss not finite for 10 steps" in printed
    assert "1 complete, 1 diverged" in printed
    assert (stub.folder / "sweeps/lr/trials/0000/metrics.jsonl").exists()
    assert stub(space={"lr": [10.0, 1e-2]}) == 0
    assert stub.starts() == {"0000": 1, "0001": 1}


def test_failed_trials_are_reported_and_tried_again_by_the_next_start(stub, capsys):
    content = {"space": {"dropout": [0.0, 0.9]}, "settings": {"max_iters": 2, "learning_rate": 0.01}}
    for times in (1, 2):
        assert stub(**content) == 1
        assert stub.starts() == {"0000": 1, "0001": times}
        assert "trial 1 failed: dropout is 0.9; this stub does not like it" in capsys.readouterr().err


def test_it_stops_if_the_first_trials_fail_alike(stub, capsys):
    settings = {"max_iters": 2, "learning_rate": 0.01, "dropout": 0.9}
    assert stub(settings=settings, space={"seed": [0, 1, 2, 3]}) == 2
    assert "the first two trials failed: dropout is 0.9" in capsys.readouterr().err
    assert len(stub.starts()) == 2


def test_a_run_that_a_signal_killed_resumes(stub, capsys):
    content = {"settings": {"max_iters": 4, "learning_rate": 0.01}, "space": {"dropout": [0.0, 0.7]}}
    assert stub(**content) == 0
    assert stub.starts() == {"0000": 1, "0001": 2}
    assert max(stub.steps().values()) == 1  # nothing repeated
    assert "trial 1 was ended by signal 9 and resumes" in capsys.readouterr().out


def test_a_run_that_is_always_killed_fails(stub, capsys):
    content = {"settings": {"max_iters": 4, "learning_rate": 0.01}, "space": {"dropout": [0.0, 0.8]}}
    assert stub(**content) == 1
    assert "was ended 3 times by signal 9; is there enough memory?" in capsys.readouterr().err


def test_a_budget_of_trials_ends_the_sweep_and_a_larger_one_continues_it(stub):
    content = {"search": "random", "space": {"lr": {"low": 1e-4, "high": 0.1, "log": True}}}
    assert stub(**content, budget={"trials": 2}) == 0
    assert stub(**content, budget={"trials": 4}) == 0
    assert stub.starts() == Counter(f"{i:04d}" for i in range(4))
    rates = [stub.trial(i)["learning_rate"] for i in range(4)]
    assert len(set(rates)) == 4 and all(1e-4 <= rate <= 0.1 for rate in rates)


def test_a_budget_of_tokens_counts_planned_tokens(stub):
    settings = {"max_iters": 4, "batch_size": 2, "context_length": 8}  # 64 tokens
    assert stub(settings=settings, **GRID, budget={"tokens": 200}) == 0
    assert len(stub.starts()) == 3


def test_a_budget_of_minutes_starts_no_further_trials(stub):
    assert stub(**GRID, budget={"minutes": 1e-9}) == 0
    assert not stub.starts()


def test_workers_run_at_the_same_time(stub, monkeypatch):
    monkeypatch.setenv("STUB_SECONDS", "0.1")
    assert stub("--workers", "3", space={"lr": [1e-3, 1e-2, 0.1]}) == 0
    lines = (stub.folder / "starts").read_text().splitlines()
    assert sum(line.startswith("start") for line in lines[:3]) >= 2


def test_pruned_trials_end_early_and_are_kept(stub, monkeypatch, capsys):
    rates = [1e-2, 1.1e-2, 1.2e-2, 1.3e-2, 1.4e-2]  # the pruner starts after five trials
    content = {"settings": {"max_iters": 6}, "pruner": "median"}
    assert stub("--workers", "3", **content, space={"lr": rates}) == 0
    monkeypatch.setenv("STUB_SECONDS", "0.15")
    assert stub(**content, space={"lr": [*rates, 0.9]}) == 0
    assert "trial 5 pruned after" in capsys.readouterr().out
    assert stub.steps()["0005", "6"] == 0 and stub.steps()["0005", "1"] == 1


@pytest.mark.parametrize("search", ["random", "tpe", "gp", "qmc"])
def test_searches_propose_different_values(stub, search):
    space = {"lr": {"low": 1e-4, "high": 0.1, "log": True}, "num_layers": {"low": 1, "high": 8}}
    assert stub(search=search, space=space, budget={"trials": 4}, settings={"max_iters": 1}) == 0
    trials = [stub.trial(i) for i in range(4)]
    assert len({trial["learning_rate"] for trial in trials}) == 4
    assert all(isinstance(trial["num_layers"], int) for trial in trials)


def test_a_search_of_few_choices_ends_when_all_have_run(stub):
    assert stub(search="random", space={"lr": [1e-3, 1e-2]}, budget={"trials": 50}) == 0
    assert sum(stub.starts().values()) == 2


def test_two_processes_share_the_work(stub, monkeypatch):
    space = {"lr": [1e-3, 2e-3, 3e-3, 1e-2], "seed": [0, 1]}
    monkeypatch.setenv("STUB_SECONDS", "0.05")
    path = stub.write(space=space)
    both = [start(path) for _ in range(2)]
    printed = "".join(process.communicate(timeout=60)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert stub.starts() == Counter(f"{i:04d}" for i in range(8))
    assert printed.count(" started: ") == 8


def test_sigkill_of_the_sweep_loses_nothing(stub, monkeypatch):
    """Killed again and again, with its trainings left behind or killed as well: every step of every trial runs once."""
    monkeypatch.setenv("STUB_SECONDS", "0.03")
    path = stub.write(space={"lr": [1e-3, 1e-2], "seed": [0, 1]}, settings={"max_iters": 5})
    kills = 0
    while True:
        before = len(noted(stub))
        process = start(path, "--workers", "2")
        wait_until(lambda p=process, least=before + 8: p.poll() is not None or len(noted(stub)) >= least)
        if process.poll() is not None:
            break
        process.kill()
        process.communicate()
        kills += 1
        assert kills < 20
    assert process.wait() == 0 and kills >= 2
    wanted = Counter((f"{i:04d}", str(step)) for i in range(4) for step in range(1, 6))
    assert stub.steps() == wanted
    for i in range(4):
        metrics = (stub.folder / f"sweeps/lr/trials/{i:04d}/metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in metrics] == [1, 2, 3, 4, 5]


def test_ctrl_c_stops_with_checkpoints_and_the_next_start_resumes(stub, monkeypatch):
    monkeypatch.setenv("STUB_SECONDS", "0.1")
    path = stub.write(space={"lr": [1e-3, 1e-2]}, settings={"max_iters": 15})
    process = start(path, "--workers", "2")
    wait_until(
        lambda: len({line.split()[1] for line in stub_steps(stub)}) == 2, lambda: process.poll() is None
    )
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "2 trials unfinished; rerun the same command to resume" in output
    monkeypatch.setenv("STUB_SECONDS", "0")
    process = start(path, "--workers", "2")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "trial 0 resumed" in output and "trial 1 resumed" in output
    assert max(stub.steps().values()) == 1 and len(stub.steps()) == 30


def noted(stub) -> list[str]:
    path = stub.folder / "starts"
    return path.read_text().splitlines() if path.exists() else []


def stub_steps(stub) -> list[str]:
    return [line for line in noted(stub) if line.startswith("step")]


def test_a_search_skips_settings_that_do_not_work(stub):
    space = {"d_model": {"low": 12, "high": 48}}  # 3 heads
    settings = {"max_iters": 1, "learning_rate": 0.01}
    assert stub(search="random", space=space, settings=settings, budget={"trials": 3}) == 0
    assert all(stub.trial(int(number))["d_model"] % 6 == 0 for number in stub.starts())
    assert len(stub.starts()) == 3
