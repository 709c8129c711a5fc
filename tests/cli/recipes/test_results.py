"""The numbers of each kind of output."""

import shutil

from lmfast.cli.recipes.graph import Step, steps_in_order
from lmfast.cli.recipes.results import Result, result
from lmfast.cli.recipes.specification import read_recipe


def step_of(folder, **options) -> Step:
    (folder / "r.yaml").write_text(f"folder: {folder}\nstages:\n  a: {options!r}\n")
    return steps_in_order(read_recipe(str(folder / "r.yaml")))[0]


def test_of_a_run(trained_run, tmp_path):
    step = step_of(tmp_path, command="train", out_dir=str(trained_run))
    numbers = dict(result(step).numbers)
    assert numbers["steps"] == "6" and float(numbers["bits per byte"]) > 0 and "parameters" in numbers
    assert result(step).link == trained_run / "report.html"


def test_of_text_tokenizer_tokens_and_files(corpus, tmp_path):
    words = step_of(tmp_path, command="tokenizer train", input=str(corpus.text), vocab_size=300)
    shutil.copytree(corpus.tokenizer, tmp_path / "a")
    assert result(words) == Result([("ids", "300")])
    encoded = step_of(tmp_path, command="tokenizer encode", input=str(corpus.text), output=str(corpus.train))
    assert "bytes per token" in dict(result(encoded).numbers)["tokens"]
    exported = step_of(tmp_path, command="export", run=str(corpus.folder), format="gguf")
    (tmp_path / "a.gguf").write_bytes(b"1234")
    assert result(exported) == Result([("size", "4 bytes")])
    sample = step_of(tmp_path, command="generate", checkpoint=str(corpus.folder))
    (tmp_path / "a.txt").write_text("Once\n")
    assert result(sample).text == "Once"


def test_of_the_built_in_stories(tmp_path):
    from lmfast.data.stories.builtin import prepare

    step = step_of(tmp_path, command="data stories", vocab_size=300, output=str(tmp_path / "stories"))
    assert result(step) == Result([])
    prepare(tmp_path / "stories", 20_000, 3_000, 300, report=lambda line: None)
    names = dict(result(step).numbers)
    assert names.keys() == {"train tokens", "valid tokens", "entropy, bits per byte"}
