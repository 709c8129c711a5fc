"""The command `lmfast sweep`: what it prints and rejects. Running the trials is tested in sweeps/test_running.py."""

import subprocess
import sys
from collections import Counter

import pytest
import yaml

from lmfast.sweep import main
from lmfast.sweeps.study import SweepStudy
from lmfast.train import train
from lmfast.training.run_folder import read_metrics
from tests.processes import wait_until
from tests.sweeps.stub_sweep import GRID

pytest.importorskip("optuna", reason="the extra `sweep` is not installed")


def test_a_grid_runs_every_combination_once_and_prints_the_best(stub, capsys):
    assert stub(**GRID) == 0
    assert stub.starts() == Counter(f"{i:04d}" for i in range(4))
    found = [(stub.trial(i)["learning_rate"], stub.trial(i)["seed"]) for i in range(4)]
    assert found == [(0.001, 0), (0.01, 0), (0.001, 1), (0.01, 1)]
    assert stub.trial(0)["max_iters"] == 4 and stub.trial(0)["d_model"] == 192  # of the quickstart
    printed = capsys.readouterr().out
    assert "best: learning_rate 0.01: mean val_loss 1.2500 of 2 seeds" in printed
    assert "lmfast train --config sweeps/lr/trials/0001.yaml" in printed
    # The folder's sweep.yaml describes the same sweep.
    assert yaml.safe_load((stub.folder / "sweeps/lr/sweep.yaml").read_text())["space"]["seed"] == [0, 1]
    # A finished sweep runs nothing again, a longer list only its new points.
    assert stub(**GRID) == 0
    assert "best: learning_rate 0.01: mean val_loss 1.2500 of 2 seeds" in capsys.readouterr().out
    assert len(stub.starts()) == 4
    assert stub(space={"lr": [1e-4, 1e-3, 1e-2], "seed": [0, 1]}) == 0
    assert stub.starts() == Counter(f"{i:04d}" for i in range(6))
    assert {stub.trial(i)["learning_rate"] for i in (4, 5)} == {1e-4}


def test_variants_are_named_groups_of_settings(stub, capsys):
    variants = {"plain": {}, "post": {"norm": "post"}, "file": "ablation_wsd"}
    assert stub(settings={"max_iters": 2, "learning_rate": 0.01}, variants=variants) == 0
    assert [stub.trial(i).get("norm") for i in range(3)] == [None, "post", None]
    assert stub.trial(2)["schedule"] == "wsd" and stub.trial(2)["max_iters"] == 2
    assert "variant file" in capsys.readouterr().out


def test_a_dry_run_lists_the_trials_and_writes_nothing(stub, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([stub.write(**GRID), "--dry-run"])
    printed = capsys.readouterr().out
    assert "   3  learning_rate 0.01, seed 1  (8,192 tokens)" in printed
    assert "grid of 4 trials over learning_rate, seed, 32,768 tokens" in printed
    assert not (stub.folder / "sweeps").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"space": {"lr": [1e-3], "seed": [0, 1, 2]}},
            "with 0.01 in space: learning_rate, which is now missing",
        ),
        ({**GRID, "settings": {"max_iters": 5}}, "with settings: max_iters = 4, not 5"),
        ({**GRID, "metric": "train_loss"}, "with metric = val_loss, not train_loss"),
        ({"space": {"lr": [1e-3]}}, "with space = learning_rate, seed, not learning_rate"),
        ({**GRID, "variants": {"a": {}}}, "with variants = "),
    ],
)
def test_another_sweep_in_the_same_folder_is_an_error(stub, capsys, content, message):
    assert stub(**GRID, budget={"trials": 1}) == 0
    assert stub(**content) == 2
    error = capsys.readouterr().err
    assert message in error and "choose another --out-dir" in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"space": {"num_heads": [2, 5]}}, "num_heads 5: d_model 192 is not divisible by num_heads 5"),
        ({"space": {"lr": [1e-3]}, "search": "grit"}, "unknown search 'grit'; did you mean grid?"),
        (
            {"space": {"lr": {"low": 1, "high": 2}}, "search": "cmaes", "budget": {"trials": 1}},
            "pip install cmaes",
        ),
    ],
)
def test_bad_sweeps_write_nothing(stub, capsys, content, message):
    assert stub(**content) == 2
    assert message in capsys.readouterr().err
    assert not (stub.folder / "sweeps").exists()


def test_storage_of_another_program_is_an_error(stub, capsys):
    import optuna

    url = f"sqlite:///{stub.folder / 'other.db'}"
    study = optuna.create_study(storage=url, study_name="lr")
    study.tell(study.ask(), 1.0)
    assert stub("--storage", url, **GRID) == 2
    assert "has a study of this name that lmfast did not create" in capsys.readouterr().err
    assert not (stub.folder / "sweeps").exists()
    (stub.folder / "text.db").write_text("not a database, but long enough to be read as one")
    assert stub("--storage", f"sqlite:///{stub.folder / 'text.db'}", **GRID) == 2
    assert "cannot be used as storage" in capsys.readouterr().err


def test_a_renamed_folder_and_one_given_as_a_dot_continue(stub, capsys, monkeypatch):
    sweep_file = str(stub.folder / "lr.yaml")
    assert stub(**GRID) == 0
    (stub.folder / "sweeps/lr").rename(stub.folder / "moved")
    assert stub("--out-dir", "moved", **GRID) == 0
    monkeypatch.chdir(stub.folder / "moved")
    with pytest.raises(SystemExit, match="0"):
        main([sweep_file, "--out-dir", "."])
    assert stub.starts() == Counter(f"{i:04d}" for i in range(4))


@pytest.mark.parametrize("table", ["studies", "study_directions", "trials"])
def test_a_damaged_storage_is_one_line(stub, capsys, table):
    import sqlite3

    assert stub(**GRID) == 0
    with sqlite3.connect(stub.folder / "sweeps/lr/study.db") as database:
        database.execute(f"DROP TABLE {table}")
        database.execute(f"CREATE TABLE {table} (other INTEGER)")
    capsys.readouterr()
    assert stub(**GRID) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: sweeps/lr") and error.count("\n") == 1, error


def test_a_missing_driver_of_a_storage_is_named(stub, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    assert stub("--storage", "postgresql+psycopg2://me:secret@nowhere/x", **GRID) == 2
    error = capsys.readouterr().err
    assert "needs the package psycopg2" in error and "secret" not in error


def test_a_foreign_folder_is_an_error(stub, capsys):
    (stub.folder / "mine").mkdir()
    (stub.folder / "mine/thesis.txt").touch()
    assert stub("--out-dir", "mine", **GRID) == 2
    assert "mine: is not the folder of a sweep" in capsys.readouterr().err


def test_a_second_command_while_the_study_is_created(stub, monkeypatch):
    """The folder already counts as that of a sweep; likewise if the first command is killed at this point."""
    codes = []

    def create(specification, folder, url):
        (folder / ".locks").mkdir(exist_ok=True)
        codes.append(stub("--dry-run", **GRID))
        return SweepStudy(specification, folder, url)

    monkeypatch.setattr("lmfast.cli.sweeping.SweepStudy", create)
    assert stub(**GRID) == 0
    assert codes == [0]


@pytest.mark.parametrize("flags", [(), ("--storage", "sqlite:///other.db"), ("--dry-run",)])
def test_trials_without_their_study_are_kept_apart(stub, capsys, flags):
    """Otherwise trials with other values would continue the old runs."""
    assert stub(**GRID) == 0
    if "--storage" not in flags:
        (stub.folder / "sweeps/lr/study.db").unlink()
    assert stub(*flags, space={"lr": [5e-3]}) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: sweeps/lr: has trials, but ") and error.count("\n") == 1
    assert stub.trial(0)["learning_rate"] == 0.001 and len(stub.starts()) == 4
    assert (stub.folder / "sweeps/lr/study.db").exists() == ("--storage" in flags)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eval_tasks": "piqa", "tokenizer": "none"}, "learning_rate 0.001: eval_tasks needs the tokenizer"),
        ({"eval_tasks": "piqa,"}, "learning_rate 0.001: eval_tasks is 'piqa,'"),
        ({"eval_tasks": "piqa", "eval_tasks_include_path": "no"}, "eval_tasks_include_path no: is not a dir"),
        ({"eval_tasks_include_path": "."}, "eval_tasks_include_path is given without eval_tasks"),
        ({"eval_tasks": "piqa"}, "eval_tasks needs the package lm_eval"),
    ],
)
def test_tasks_are_checked_before_the_first_trial(stub, capsys, corpus, monkeypatch, settings, message):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    data = {
        "train_data": str(corpus.train),
        "val_data": str(corpus.valid),
        "tokenizer": str(corpus.tokenizer),
    }
    model = {"vocab_size": 512} if settings.get("tokenizer") == "none" else {}
    settings = {"max_iters": 4, "eval_interval": 2, **data, **model, **settings}
    assert stub(settings=settings, space={"lr": [1e-3]}) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (stub.folder / "sweeps").exists()


def test_optuna_is_named_if_it_is_missing(stub, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert stub(**GRID) == 2
    assert (
        "lmfast sweep needs the package optuna, which is not installed; run `pip install"
        in capsys.readouterr().err
    )


def test_a_storage_that_fails_ends_the_sweep_in_one_line(stub, capsys, monkeypatch):
    from sqlalchemy.exc import OperationalError

    def fails(*_):
        raise OperationalError("UPDATE", {}, Exception("disk I/O error"))

    monkeypatch.setattr("lmfast.sweeps.study.SweepStudy.finish", fails)
    assert stub(**GRID) == 2
    message = "sweeps/lr: the storage of the sweep failed (disk I/O error); rerun the same command"
    assert message in capsys.readouterr().err
    monkeypatch.undo()


@pytest.mark.ci
def test_real_trainings_killed_with_sigkill_resume_and_divergence_is_kept(corpus, tmp_path):
    """Two trainings and the sweep are killed; the losses are then those of a run that was never interrupted."""
    psutil = pytest.importorskip("psutil")
    settings = {
        **{
            "train_data": str(corpus.train),
            "val_data": str(corpus.valid),
            "tokenizer": str(corpus.tokenizer),
        },
        **{"context_length": 16, "d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 24, "batch_size": 4},
        **{
            "max_iters": 150,
            "warmup_iters": 2,
            "log_interval": 1,
            "eval_interval": 50,
            "checkpoint_interval": 1,
        },
        **{"device": "cpu"},
    }
    content = {"settings": settings, "space": {"lr": [1e-2, 1e38]}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "lmfast.sweep", "s.yaml", "--workers", "2"]
    with subprocess.Popen(command, cwd=tmp_path) as sweep:
        trial = tmp_path / "sweeps/s/trials/0000"
        wait_until(
            lambda: len(list(trial.glob("checkpoints/step_*/COMPLETE"))) > 2, lambda: sweep.poll() is None
        )
        children = psutil.Process(sweep.pid).children(recursive=True)
        for process in (psutil.Process(sweep.pid), *children):
            process.kill()
    killed_at = read_metrics(trial)[-1]["step"]
    assert killed_at < 150
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "trial 0 resumed" in done.stdout and "trial 1 diverged: " in done.stdout
    assert "best: learning_rate 0.01: val_loss" in done.stdout
    assert (tmp_path / "sweeps/s/sweep.html").stat().st_size > 10_000
    assert train(["--config", f"{trial}.yaml", "--out-dir", str(tmp_path / "whole")])
    resumed, whole = ([m.get("train_loss") for m in read_metrics(f)] for f in (trial, tmp_path / "whole"))
    assert resumed == whole and len(whole) == 150
