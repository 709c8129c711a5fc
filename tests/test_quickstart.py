"""The quickstart's steps with a tiny corpus and model; real sizes are measured and logged in docs/LOG.md."""

import functools
import re
import shutil

import pytest
import yaml

from lmfast import quickstart as quickstart_module
from lmfast.settings import CONFIGS
from tests.cli.recipes.stages import run_here

quickstart = functools.partial(quickstart_module.quickstart, start=run_here)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The quickstart in an empty folder, with a small config and corpus."""
    from lmfast.data.stories import builtin

    config = yaml.safe_load((CONFIGS / "quickstart.yaml").read_text())
    config |= {
        "vocab_size": 300,
        "context_length": 32,
        "d_model": 16,
        "num_layers": 1,
        "num_heads": 2,
        "d_ff": 24,
    }
    config |= {"max_iters": 4, "warmup_iters": 1, "compile": False, "eval_interval": 2, "log_interval": 1}
    config |= {"checkpoint_interval": 2, "sample_interval": 4}
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/quickstart.yaml").write_text(yaml.safe_dump(config))
    recipe = yaml.safe_load((CONFIGS / "recipes/quickstart.yaml").read_text().replace("4096", "300"))
    recipe["stages"]["corpus"] |= {"train_bytes": 20_000, "valid_bytes": 4_000}
    (tmp_path / "configs/recipes").mkdir()
    (tmp_path / "configs/recipes/quickstart.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    monkeypatch.setattr("lmfast.cli.recipes.specification.RECIPES", tmp_path / "configs/recipes")
    monkeypatch.setattr("lmfast.cli.recipes.measurements.measure", lambda jobs: {})
    real = builtin.prepare
    monkeypatch.setattr(
        "lmfast.cli.pretraining.prepare",
        lambda **options: real(**(options | {"train_bytes": 20_000, "valid_bytes": 4_000})),
    )
    for module in ("lmfast.settings", "lmfast.cli.pretraining"):
        monkeypatch.setattr(f"{module}.CONFIGS", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_nothing_to_a_story_and_a_second_call_reuses(small, capsys):
    assert quickstart(fresh=False) == 0
    out = capsys.readouterr().out
    assert re.search(r"bits per byte: \d+\.\d\d × the entropy of the corpus, 0\.\d{4}", out)
    assert "Once upon a time" in out and "runs/quickstart/report.html" in out
    run = small / "runs/quickstart"
    for name in (
        "config.yaml",
        "metrics.jsonl",
        "report.html",
        "samples/step_00000004.txt",
        "checkpoints/step_00000004/COMPLETE",
    ):
        assert (run / name).exists(), name
    assert "floor" in (run / "report.html").read_text()
    stamp = (run / "checkpoints/step_00000004/COMPLETE").stat().st_mtime_ns
    assert quickstart(fresh=False) == 0
    out = capsys.readouterr().out
    assert out.count("reused") == 3 and "Once upon a time" in out
    assert (run / "checkpoints/step_00000004/COMPLETE").stat().st_mtime_ns == stamp


def test_what_an_earlier_version_made_is_reused(small, capsys):
    assert quickstart(fresh=False) == 0
    shutil.rmtree(small / "runs/quickstart/.recipe")
    (small / "runs/quickstart/story.txt").unlink()
    capsys.readouterr()
    assert quickstart(fresh=False) == 0
    out = capsys.readouterr().out
    assert out.count("reused") == 5 and "already finished at step 4 of 4" in out
    assert "Once upon a time" in out


def test_fresh_starts_over(small, capsys):
    assert quickstart(fresh=False) == 0
    capsys.readouterr()
    assert quickstart(fresh=True) == 0
    out = capsys.readouterr().out
    assert "reused" not in out and "already finished" not in out


def test_train_without_data_or_config_uses_the_quickstarts_model(small, capsys):
    from lmfast.train import train
    from lmfast.training.run_folder import read_metrics

    assert train(["--max-iters", "2", "--lr-decay-iters", "4"])
    out = capsys.readouterr().out
    assert "using the built-in stories" in out
    assert read_metrics(small / "runs/train-1")[-1]["bits_per_byte"] > 0
    assert yaml.safe_load((small / "runs/train-1/config.yaml").read_text())["d_model"] == 16


def test_a_bad_command_line_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        quickstart_module.main(["--frehs"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: unknown option --frehs; did you mean --fresh?\n"
