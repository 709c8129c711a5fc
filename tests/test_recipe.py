"""The command line of `lmfast recipe`, and the recipes that come with lmfast."""

import pytest

from lmfast.cli.recipes.graph import steps_in_order
from lmfast.cli.recipes.specification import RECIPES, read_recipe
from lmfast.recipe import main

PLACEHOLDERS = {
    "fine-tune-an-imported-model": ["model.folder=folder", "chat.train_data=data.json"],
}


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_built_in_recipe_passes_every_check_without_network(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "data.json").write_text("[]")
    steps = steps_in_order(read_recipe(path.stem, PLACEHOLDERS.get(path.stem, [])))
    assert len(steps) >= 3


def test_a_missing_placeholder_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["fine-tune-an-imported-model"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert "stage model: folder is not set; give it with --set model.folder=PATH" in error
    assert not list(tmp_path.iterdir())


def test_exit_codes(monkeypatch, capsys):
    monkeypatch.setattr("lmfast.recipe.run_recipe", lambda options: 130)
    with pytest.raises(SystemExit) as stop:
        main(["quickstart"])
    assert stop.value.code == 130
    with pytest.raises(SystemExit) as stop:
        main(["quickstart", "--drry-run"])
    assert stop.value.code == 2 and "did you mean --dry-run?" in capsys.readouterr().err


def test_options_reach_the_recipe(monkeypatch):
    seen = []
    monkeypatch.setattr("lmfast.recipe.run_recipe", lambda options: seen.append(options) or 0)
    main(["r.yaml", "--set", "a.b=1", "--set", "c.d=2", "--stop-after", "a", "--dry-run", "--fresh"])
    (options,) = seen
    assert (options.recipe, options.changes) == ("r.yaml", ["a.b=1", "c.d=2"])
    assert (options.stop_after, options.dry_run, options.fresh) == ("a", True, True)
