"""The command lines of stages, checked by the parsers of their commands."""

import pytest

from lmfast.cli.recipes.commands import COMMANDS, command_line, full_names, parsed, parser_of, plain_settings
from lmfast.errors import UserError


def line_of(name: str, **options) -> list[str]:
    return command_line(COMMANDS[name], full_names(COMMANDS[name], options))


def test_values_become_words():
    assert line_of("train", lr=1e-3, compile=True, bf16=False, wandb=False, config=None) == [
        *("train", "--learning-rate=0.001", "--compile", "--no-bf16", "--no-wandb")
    ]
    assert line_of("data prepare", input=["a", "b"], create_stats=True, output="x") == [
        *("data", "prepare", "--input", "a", "b", "--create-stats", "--output=x")
    ]
    assert line_of("export", format="gguf", run="runs/a")[:2] == ["export", "runs/a"]


@pytest.mark.parametrize("name", COMMANDS)
def test_inputs_and_outputs_are_options_of_the_command(name):
    command = COMMANDS[name]
    known = {action.dest for action in parser_of(command)._actions}
    assert {*command.inputs, *command.needs, *command.runs} <= known
    assert command.output is None or command.output in known


def test_what_the_parser_reads():
    command = COMMANDS["train"]
    settings = plain_settings(parsed(command, line_of("train", config="quickstart", lr=0.5)))
    assert (settings["learning_rate"], settings["d_model"]) == (0.5, 192)
    stories = plain_settings(parsed(COMMANDS["data stories"], line_of("data stories", vocab_size=300)))
    assert (stories["vocab_size"], stories["train_bytes"]) == (300, 20_000_000)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("train", {"max_iter": 3}, "unknown option 'max_iter'; did you mean max_iters?"),
        ("train", {"lr": 1, "learning_rate": 2}, "learning_rate is given twice"),
        ("train", {"max_iters": "many"}, "--max-iters is 'many'; expected a whole number"),
        ("train", {"max_iters": [1, 2]}, "max_iters is a list; expected one value"),
        ("train", {"config": {"a": 1}}, "{'a': 1}: is not text or a number"),
        ("train", {"config": "nowhere"}, "nowhere: no such settings file"),
        ("tokenizer train", {"input": "a", "output": "b"}, "see lmfast tokenizer train --help"),
        ("evaluate", {"run": "a", "limit": 3}, "--limit requires --tasks"),
        ("generate", {"checkpoint": "a", "max_tokens": 0}, "max_tokens is 0; it must be at least 1"),
        ("data download", {"help": True}, "unknown option 'help'"),
    ],
)
def test_the_commands_own_parser_rejects(name, options, message):
    with pytest.raises(UserError) as error:
        parsed(COMMANDS[name], line_of(name, **options))
    assert message in str(error.value)


def test_text_that_looks_like_an_option_stays_text():
    assert line_of("tokenizer train", special_tokens=["--help"]) == [
        "tokenizer",
        "train",
        "--special-tokens=--help",
    ]
    with pytest.raises(
        UserError, match="special_tokens has an item -x; one that starts with - must be alone"
    ):
        line_of("tokenizer train", special_tokens=["a", "-x"])


def test_true_is_not_a_text():
    with pytest.raises(UserError, match="prompt is true; expected a value"):
        line_of("generate", prompt=True)
