"""The order of stages, what they read and write, and everything that is rejected before the first one starts."""

import pytest

from lmfast.cli.recipes.graph import Step, steps_in_order, walk
from lmfast.cli.recipes.specification import read_recipe
from lmfast.errors import UserError

BASE = """
folder: out
stages:
  score: {command: evaluate, run: $base}
  base: {command: train, train_data: $tokens/train.npy, val_data: $tokens/valid.npy, max_iters: 2}
  tokens: {command: data prepare, input: [a.txt], tokenizer: $words}
  words: {command: tokenizer train, input: "*.txt", vocab_size: 300}
  gguf: {command: export, run: $base, format: gguf}
"""


@pytest.fixture
def steps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("text")

    def steps(text: str = BASE) -> list[Step]:
        (tmp_path / "r.yaml").write_text(text)
        return steps_in_order(read_recipe("r.yaml"))

    return steps


def test_each_stage_runs_after_those_it_reads_from(steps):
    found = steps()
    assert [step.name for step in found] == ["words", "tokens", "base", "score", "gguf"]
    assert [str(step.output) for step in found] == [
        *("out/words", "out/tokens", "out/base", "out/score.txt", "out/gguf.gguf")
    ]
    assert found[1].line == [
        *("data", "prepare", "--input=a.txt", "--tokenizer=out/words", "--output=out/tokens")
    ]
    assert found[2].upstream == ["tokens"]
    assert [step.name for step in walk(found, "tokens")] == ["words", "tokens"]


def test_a_path_below_an_output_is_a_reference(steps):
    text = BASE.replace("$tokens/train.npy", "out/tokens/train.npy").replace(
        "$tokens/valid", "out/tokens/valid"
    )
    assert [step.name for step in steps(text)][:3] == ["words", "tokens", "base"]


def test_a_dollar_that_is_no_reference(steps):
    text = "stages:\n  a: {command: generate, checkpoint: a.txt, prompt: $$name}\n"
    assert "--prompt=$name" in steps(text)[0].line or "$name" in steps(text)[0].line


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_iters: 2}", "d_model: 250}", "stage base: d_model 250 is not divisible by num_heads 12; use"),
        ("run: $base}", "run: $bases}", "stage score: $bases refers to no stage; did you mean $base?"),
        ("max_iters: 2", "init_from: $tokens", "init_from is $tokens, which is not a run"),
        ("$tokens/train.npy", "$tokens/trian.npy", "did you mean $tokens/train.npy?"),
        ('"*.txt"', "$base", "stages base → tokens → words → base need each other"),
        ("[a.txt]", "[b.txt]", "stage tokens: b.txt does not exist, and no stage writes it"),
        ('"*.txt"', '"*.csv"', "stage words: *.csv does not exist"),
        ("[a.txt]", "null", "input is not set; give it with --set tokens.input=PATH"),
        ("max_iters: 2", "out_dir: out/words", "stages base and words both write out/words"),
        ("vocab_size: 300", "vocab_size: $base", "vocab_size is $base, but it does not take the output of a"),
        ("run: $base}", "samples: 3}", "stage score: run is not set; add `run:`"),
        ("vocab_size: 300", "vocab_sizes: 300", "unknown option 'vocab_sizes'; did you mean vocab_size?"),
    ],
)  # fmt: skip
def test_nothing_is_written_for_a_mistake(steps, tmp_path, old, new, message):
    assert old in BASE
    with pytest.raises(UserError) as error:
        steps(BASE.replace(old, new, 1))
    assert message in str(error.value) and str(error.value).startswith("r.yaml: stage")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "r.yaml"]


ONE = "command: tokenizer train, vocab_size: 300"


@pytest.mark.parametrize(
    ("stages", "error"),
    [
        ("a: {%s, input: a.txt}\n  b: {%s, input: $a//etc/passwd}", "is not in the output of stage a"),
        ("a: {%s, input: a.txt}\n  b: {%s, input: $a/../x}", "is not in the output of stage a"),
        ("a: {%s, input: a.txt, output: x/../y}\n  b: {%s, input: a.txt, output: y}", "both write y"),
        ("a: {%s, input: a.txt, output: a.txt}\n  b: {%s, input: a.txt}", "also what the stage writes"),
        ("a: {%s, input: a.txt, output: 5}\n  b: {%s, input: a.txt}", "output is 5; expected a path"),
        ("a: {%s, input: ''}\n  b: {%s, input: a.txt}", "input is not set"),
        ('a: {%s, input: "a\\0b"}\n  b: {%s, input: a.txt}', "does not exist"),
    ],
)
def test_odd_paths_are_rejected(steps, stages, error):
    with pytest.raises(UserError, match=error):
        steps(f"stages:\n  {stages % (ONE, ONE)}\n")


def test_a_path_belongs_to_the_innermost_output(steps):
    found = steps(
        "stages:\n"
        f"  a: {{{ONE}, input: a.txt, output: x}}\n"
        f"  b: {{{ONE}, input: a.txt, output: x/y}}\n"
        "  c: {command: data prepare, input: a.txt, tokenizer: x/y}\n"
    )
    assert found[2].upstream == ["b"]


def test_walk_names_each_stage_once_however_often_it_is_needed(steps):
    stages = [f"  s0: {{{ONE}, input: a.txt}}", f"  s1: {{{ONE}, input: $s0}}"]
    stages += [f"  s{i}: {{{ONE}, input: [$s{i - 1}, $s{i - 2}]}}" for i in range(2, 40)]
    found = steps("stages:\n" + "\n".join(stages) + "\n")
    assert len(walk(found, "s39")) == 40 and len(walk(found, "s3")) == 4
