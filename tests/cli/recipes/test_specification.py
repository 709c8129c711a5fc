"""What a recipe file may contain, and its mistakes."""

import pytest

from lmfast.cli.recipes.specification import Recipe, find_recipe, read_recipe, reference
from lmfast.errors import UserError


@pytest.fixture
def read(tmp_path):
    def read(text: str, *changes: str) -> Recipe:
        (tmp_path / "r.yaml").write_text(text)
        return read_recipe(str(tmp_path / "r.yaml"), changes)

    return read


STORY = "stages:\n  words: {command: tokenizer train, input: a.txt, vocab-size: 300, title: learn}\n"


def test_stages_with_their_options(read, tmp_path):
    recipe = read("about: words\nfolder: here\n" + STORY)
    (stage,) = recipe.stages
    assert (stage.name, stage.command.name, stage.title) == ("words", "tokenizer train", "learn")
    assert stage.options == {"input": "a.txt", "vocab_size": 300}
    assert (recipe.about, str(recipe.folder)) == ("words", "here")


def test_the_default_folder_has_the_name_of_the_file(read):
    assert read(STORY).folder.as_posix() == "runs/r"


def test_set_replaces_and_adds_options(read):
    recipe = read(STORY, "words.vocab_size=400", "words.num-workers=1", "folder=there")
    assert recipe.stages[0].options == {"input": "a.txt", "vocab_size": 400, "num_workers": 1}
    assert str(recipe.folder) == "there" and "vocab_size: 400" in recipe.text


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("$tokens/train.npy", ("tokens", "train.npy")),
        ("$base", ("base", "")),
        ("$5", None),
        ("a$b", None),
        (3, None),
    ],
)
def test_references(value, parts):
    assert reference(value) == parts


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        ("stages: {}", (), "has no stages; add"),
        ("stage: {}", (), "unknown name 'stage'; did you mean stages?"),
        ("folder: 3\n" + STORY, (), "folder is 3; expected text"),
        ("stages:\n  a: {command: trian}", (), "stage a: unknown command 'trian'; did you mean train?"),
        ("stages:\n  a: {command: prepare}", (), "did you mean data prepare?"),
        ("stages:\n  a: {input: x}", (), "stage a: has no command"),
        ("stages:\n  1: {command: train}", (), "stage 1: the name must start with a letter"),
        ("stages:\n  a: {command: train, d-model: 1, d_model: 2}", (), "given twice, with - and with _"),
        (STORY, ("words",), "--set words: is not STAGE.OPTION=VALUE"),
        (STORY, ("word.input=b",), "has no stage 'word'; did you mean words?"),
    ],
)
def test_mistakes_are_one_line(read, text, changes, message):
    with pytest.raises(UserError) as error:
        read(text, *changes)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_recipe_is_found_by_name_like_a_config():
    assert find_recipe("quickstart").name == "quickstart.yaml"
    with pytest.raises(UserError, match=r"quikstart: no such recipe; did you mean quickstart\?"):
        find_recipe("quikstart")


@pytest.mark.parametrize("text", ["2026-13-45", "[" * 2000])
def test_set_takes_what_is_not_yaml_as_text(read, text):
    assert read(STORY, f"words.pattern={text}").stages[0].options["pattern"] == text


def test_set_changes_one_of_two_stages_that_share_an_anchor(read):
    text = "stages:\n  a: &x {command: tokenizer train, input: a.txt}\n  b: *x\n"
    a, b = read(text, "a.vocab_size=400").stages
    assert "vocab_size" in a.options and "vocab_size" not in b.options


@pytest.mark.parametrize("name", ["old", "calibration"])
def test_names_that_the_recipe_uses_itself(read, name):
    with pytest.raises(UserError, match=f"uses the name {name} itself"):
        read(STORY.replace("words", name))
