"""Files that are not from the recipe are never overwritten; an output may be the recipe's folder."""

from pathlib import Path

import pytest

from lmfast.cli.recipes.graph import steps_in_order
from lmfast.cli.recipes.outputs import move_output, output_parts, reject_other_files, remove_output
from lmfast.cli.recipes.page import write_page
from lmfast.cli.recipes.records import Record, write_record
from lmfast.cli.recipes.specification import read_recipe
from lmfast.errors import UserError

RECIPE = """
folder: out
stages:
  words: {command: tokenizer train, input: a.txt, vocab_size: 300}
  model: {command: train, tokenizer: $words, out_dir: out}
"""


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("text")
    Path("r.yaml").write_text(RECIPE)
    recipe = read_recipe("r.yaml")
    return recipe, steps_in_order(recipe)


def write(*names: str) -> None:
    for name in names:
        path = Path("out") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def test_a_file_that_is_not_from_the_recipe_is_not_overwritten(made):
    recipe, steps = made
    reject_other_files(recipe, steps)
    write("words/mine")
    with pytest.raises(UserError, match="would write out/words, which exists and is not from this recipe"):
        reject_other_files(recipe, steps)
    write_record(recipe.folder, "words", Record())
    reject_other_files(recipe, steps)


def test_a_page_that_is_not_of_a_recipe_is_not_overwritten(made):
    recipe, steps = made
    write("recipe.html")
    with pytest.raises(UserError, match=r"recipe\.html: exists and is not from a recipe"):
        reject_other_files(recipe, steps)
    write_page(recipe, steps, {step.name: None for step in steps})
    reject_other_files(recipe, steps)


def test_an_output_that_is_the_folder_of_the_recipe(made):
    recipe, (words, model) = made
    steps = [words, model]
    own = (".recipe/words.json", "recipe.html", ".lock", "words/vocab.json")
    assert output_parts(recipe, steps, model) == []
    write(*own)
    assert output_parts(recipe, steps, model) == []
    write("config.yaml", "checkpoints/COMPLETE")
    assert move_output(recipe, steps, model) == Path("out/old/model-1")
    assert Path("out/old/model-1/checkpoints/COMPLETE").is_file() and not Path("out/config.yaml").exists()
    write("config.yaml", "checkpoints/COMPLETE")
    remove_output(recipe, steps, model)
    assert not Path("out/checkpoints").exists() and Path("out/old/model-1/config.yaml").is_file()
    assert all((Path("out") / name).is_file() for name in own)


def test_of_a_symbolic_link_only_the_link_is_removed(made, tmp_path):
    recipe, (words, model) = made
    (tmp_path / "elsewhere").mkdir()
    Path("out").mkdir()
    Path("out/words").symlink_to(tmp_path / "elsewhere")
    remove_output(recipe, [words, model], words)
    assert (tmp_path / "elsewhere").is_dir() and not Path("out/words").is_symlink()
