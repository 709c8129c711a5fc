"""Which stages run, are skipped, resume or start over. The stages are written by a stand-in for the commands."""

import contextlib
import dataclasses
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from lmfast.cli.recipes.processes import Outcome
from lmfast.cli.recipes.records import read_record
from lmfast.cli.recipes.running import Options, run_recipe
from lmfast.errors import UserError
from lmfast.files import folder_lock
from tests.processes import wait_until

FOLDER = Path("runs/r")


class StandIn:
    """Writes what the commands would write, and remembers their command lines. code: exit code by command."""

    def __init__(self):
        self.called: list[list[str]] = []
        self.code: dict[str, int] = {}
        self.content: dict[str, str] = {}

    def __call__(self, words, capture):
        self.called.append(list(words))
        name = words[0] if words[0] in ("train", "export", "evaluate") else words[1]
        output = capture or next(
            Path(w.split("=", 1)[1]) for w in words if w.startswith(("--out", "--output="))
        )
        if code := self.code.get(name, 0):
            return Outcome(code, 1.0, 10)
        if name == "train" and words[0] == "train":
            step = output / "checkpoints/step_00000002"
            step.mkdir(parents=True, exist_ok=True)
            (step / "COMPLETE").write_text(self.content.get("run", "weights"))
            (output / "config.yaml").write_text("d_model: 8\n")
        elif name == "prepare":
            output.mkdir(exist_ok=True)
            for part in ("train.npy", "valid.npy"):
                (output / part).write_text(self.content.get("tokens", "ids"))
        elif name == "train":
            output.mkdir(exist_ok=True)
            (output / "vocab.json").write_text("{}")
        else:
            output.write_text("result")
        return Outcome(0, 1.0, 10)

    def names(self) -> list[str]:
        found = [
            " ".join(words[:2]) if words[0] in ("data", "tokenizer") else words[0] for words in self.called
        ]
        self.called.clear()
        return found


@pytest.fixture
def stages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("text")
    recipe = {
        "stages": {
            "words": {"command": "tokenizer train", "input": "a.txt", "vocab_size": 300},
            "tokens": {"command": "data prepare", "input": "a.txt", "tokenizer": "$words"},
            "base": {"command": "train", "train_data": "$tokens/train.npy", "max_iters": 2, "d_model": 24},
            "score": {"command": "evaluate", "run": "$base", "samples": 2},
            "gguf": {"command": "export", "run": "$base", "format": "gguf"},
        }
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return StandIn()


ALL = ["tokenizer train", "data prepare", "train", "evaluate", "export"]


def run(stages, *changes: str, **options) -> int:
    return run_recipe(Options("r.yaml", changes, **options), stages, calibrate=False)


def test_every_stage_runs_once(stages, capsys):
    assert run(stages) == 0
    assert stages.names() == ALL
    capsys.readouterr()
    assert run(stages) == 0
    assert stages.names() == []
    out = capsys.readouterr().out
    assert out.count("reused (same inputs and settings)") == 5 and "result" in out
    assert (FOLDER / "recipe.html").is_file()


def test_a_changed_setting_runs_that_stage_and_those_that_read_it(stages, capsys):
    run(stages)
    stages.names()
    stages.content["run"] = "other weights"
    assert run(stages, "base.d_model=48") == 0
    assert stages.names() == ["train", "evaluate", "export"]
    out = capsys.readouterr().out
    assert "base: changed: d_model" in out and "the earlier one is kept in runs/r/old/base-1" in out
    assert (FOLDER / "old/base-1/checkpoints").is_dir() and (FOLDER / "base/checkpoints").is_dir()


def test_a_longer_run_continues_in_its_folder(stages, capsys):
    run(stages)
    stages.names()
    assert run(stages, "base.max_iters=5") == 0
    assert stages.names() == ["train"]  # the stand-in's weights stay the same
    assert not (FOLDER / "old").exists()


def test_equal_output_of_a_stage_does_not_run_the_next(stages):
    run(stages)
    stages.names()
    Path("a.txt").write_text("another text")
    assert run(stages) == 0
    assert stages.names() == ["tokenizer train", "data prepare"]


def test_options_that_do_not_change_the_result_run_nothing(stages):
    run(stages)
    stages.names()
    assert run(stages, "tokens.num_workers=1") == 0
    assert stages.names() == []


def test_a_deleted_output_runs_its_stage(stages, capsys):
    run(stages)
    stages.names()
    (FOLDER / "score.txt").unlink()
    (FOLDER / "gguf.gguf").write_text("resul")
    assert run(stages) == 0
    assert stages.names() == ["evaluate", "export"]
    assert (FOLDER / "gguf.gguf").read_text() == "result"


def test_an_interrupted_stage_resumes_and_nothing_before_it_is_repeated(stages, capsys):
    stages.code["train"] = 0
    stages.code["evaluate"] = 130
    assert run(stages) == 130
    assert stages.names() == ALL[:4]
    assert "score: stopped; rerun the same command to resume" in capsys.readouterr().out
    stages.code.clear()
    assert run(stages) == 0
    assert stages.names() == ["evaluate", "export"]
    record = read_record(FOLDER, "score")
    assert record is not None and record.finished and record.seconds == 2.0


def test_a_failed_stage_ends_the_recipe_with_its_code(stages, capsys):
    stages.code["prepare"] = 2
    assert run(stages) == 2
    assert stages.names() == ALL[:2]
    assert "tokens: failed" in capsys.readouterr().out


def test_a_killed_stage_is_named(stages):
    stages.code["prepare"] = -9
    with pytest.raises(UserError, match="stage tokens was ended by signal 9"):
        run(stages)


def test_stop_after_runs_only_what_the_stage_needs(stages):
    assert run(stages, stop_after="tokens") == 0
    assert stages.names() == ALL[:2]
    with pytest.raises(UserError, match="--stop-after token: no such stage; the stages are words, tokens"):
        run(stages, stop_after="token")


def test_a_dry_run_writes_nothing(stages, capsys):
    assert run(stages, dry_run=True) == 0
    assert stages.names() == [] and not Path("runs").exists()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["stage", "words", "tokens", "base", "score", "gguf"]
    assert all("run" in line and "not run yet" in line for line in lines[1:])


def test_a_dry_run_says_why_a_stage_runs(stages, capsys):
    run(stages)
    capsys.readouterr()
    run(stages, "tokens.seed=3", dry_run=True)
    out = capsys.readouterr().out
    assert "unchanged" in out and "changed: seed" in out and "reads the output of tokens" in out


def test_fresh_removes_what_the_recipe_made_and_nothing_else(stages, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/note.txt").write_text("mine")
    changes = ("words.output=mine",)
    run(stages, *changes)
    stages.names()
    (FOLDER / "base/extra").write_text("x")
    assert run(stages, *changes, fresh=True) == 0
    assert stages.names() == ALL
    assert (tmp_path / "mine/note.txt").read_text() == "mine"
    assert not (FOLDER / "base/extra").exists()


def test_a_run_that_is_still_being_written_is_waited_for(stages, capsys):
    run(stages)
    stages.names()
    released = threading.Event()

    def hold() -> None:
        with folder_lock(FOLDER / "base"):
            held.set()
            wait_until(lambda: "waiting" in "".join(printed))
        released.set()

    held, printed = threading.Event(), []
    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    with contextlib.redirect_stdout(SimpleNamespace(write=printed.append, flush=lambda: None)):  # pyright: ignore
        assert run(stages, "base.max_iters=7") == 0
    thread.join()
    assert released.is_set() and stages.names() == ["train"]


def test_a_mistake_writes_nothing(stages):
    with pytest.raises(UserError, match="unknown option 'd_modle'; did you mean d_model"):
        run(stages, "base.d_modle=3")
    assert not Path("runs").exists() and stages.names() == []


def test_changes_that_training_would_refuse_start_over(stages):
    run(stages)
    stages.names()
    assert run(stages, "base.batch_size=8") == 0
    assert stages.names()[0] == "train" and (FOLDER / "old/base-1").is_dir()
    assert run(stages, "base.batch_size=4", "base.grad_accumulation=2") == 0
    assert stages.names()[0] == "train" and not (FOLDER / "old/base-2").exists()


def test_a_longer_run_on_other_data_starts_over(stages):
    run(stages)
    stages.names()
    Path("a.txt").write_text("another text")
    stages.content["tokens"] = "other ids"
    assert run(stages, "base.max_iters=5") == 0
    assert "train" in stages.names() and (FOLDER / "old/base-1").is_dir()


def test_a_stage_that_wrote_nothing_owns_nothing(stages):
    stages.code["train"] = 2
    assert run(stages) == 2
    record = read_record(FOLDER, "words")
    assert record is not None and not record.created


def test_ctrl_c_as_a_stage_ends_stops_the_recipe(stages, capsys):
    def interrupted(words, capture):
        return dataclasses.replace(stages(words, capture), interrupted=True)

    assert run_recipe(Options("r.yaml"), interrupted, calibrate=False) == 130
    assert stages.names() == ALL[:1] and "stopped; rerun" in capsys.readouterr().out
    assert run(stages) == 0 and stages.names() == ALL[1:]


def test_torchrun_is_rejected(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="run it without torchrun"):
        run_recipe(Options("quickstart", dry_run=True))
