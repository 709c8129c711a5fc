"""Shared by all command lines: values are checked, and wrong names are reported with the closest right one."""

import argparse
import sys

import pytest

from lmfast.cli.arguments import (
    Parser,
    add_engine,
    add_workers,
    command_parser,
    new_special_token,
    parse_size,
    positive_int,
    set_log_level,
    special_token,
)
from lmfast.errors import UserError


def test_amounts_of_memory():
    assert [parse_size(text) for text in ("7", "2GB", "1.5 k", "500MB")] == [
        7,
        2 * 10**9,
        1500,
        5 * 10**8,
    ]
    kelvin = "2\N{KELVIN SIGN}"  # whose small letter is k
    for wrong in ("0", "2XB", "-1", "", kelvin):
        with pytest.raises(argparse.ArgumentTypeError, match="is not a size"):
            parse_size(wrong)


def test_whole_numbers_from_one():
    assert positive_int("12") == 12
    for wrong in ("0", "-3", "1.5", "x"):
        with pytest.raises(argparse.ArgumentTypeError, match="not a positive whole number"):
            positive_int(wrong)


def test_underscores_in_names_and_not_in_values():
    parser = Parser()
    parser.add_argument("--num-workers")
    parser.add_argument_group("files").add_argument("--out-put")
    found = parser.parse_args(["--num_workers", "a_b", "--out_put=x_y"])
    assert (found.num_workers, found.out_put) == ("a_b", "x_y")


def test_commands_of_a_module_and_the_nearest_option(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/x/lmfast/tool/__main__.py"])
    parser, command = command_parser("lmfast.tool", "About.")
    one = command("one", "does one thing")
    add_workers(one)
    add_engine(one)
    assert parser.prog == "python -m lmfast.tool"
    arguments = parser.parse_args(["one", "--num-proc", "3", "--shard-size", "1k"])
    assert (arguments.command, arguments.num_workers, arguments.engine, arguments.shard_size) == (
        "one", 3, "auto", 1000,
    )  # fmt: skip
    assert parser.parse_args(["one", "--engine", "local"]).engine == "auto"
    with pytest.raises(UserError, match=r"unknown option --num-worker; did you mean --num-workers\?"):
        parser.parse_args(["one", "--num-worker", "3"])
    other = command("other", "does another")
    other.add_argument("--limit")
    with pytest.raises(UserError, match=r"unknown option --limit; see .* one --help"):  # it is the other's
        parser.parse_args(["one", "--limit=3"])
    with pytest.raises(UserError, match=r"unknown argument 'stray'; see .* one --help"):
        parser.parse_args(["one", "stray"])


def test_a_level_that_does_not_exist(monkeypatch):
    monkeypatch.setenv("LOG_LEVEL", "loud")
    with pytest.raises(UserError, match="LOG_LEVEL=LOUD: unknown log level"):
        set_log_level()


def test_special_tokens_with_ids():
    assert special_token("<|x|>") == ("<|x|>", None)
    assert special_token("<|x|>=300") == ("<|x|>", 300)
    assert special_token("<|a=b|>") == ("<|a=b|>", None)
    assert special_token("a=b=5") == ("a=b", 5)
    assert special_token("<|x|>=y=300") == ("<|x|>=y", 300)
    for word in ("<|x|>=y", "<|x|>="):
        with pytest.raises(argparse.ArgumentTypeError, match=r"is not an id.* add its id: '<\|x\|>="):
            special_token(word)
    assert special_token("=5") == ("=5", None)
    assert new_special_token("<|a=b|>") == "<|a=b|>"
    with pytest.raises(argparse.ArgumentTypeError, match="training assigns the ids"):
        new_special_token("<|x|>=300")
