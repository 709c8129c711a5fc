"""argparse as all commands use it, and the options that several commands share.

`--vocab_size` is accepted for `--vocab-size`. Errors are a `UserError` of one line; an unknown option comes with the
closest known one. Does not import numpy, so that `--help` is fast.
"""

import argparse
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence

from lmfast.errors import UserError
from lmfast.sharding.workers import ENGINES
from lmfast.suggestions import remedy, stray_word_remedy

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that accepts dashes and underscores and raises UserError, with a suggestion for unknown options."""

    def __init__(self, *args, **rest):
        super().__init__(*args, **{"allow_abbrev": False, "formatter_class": HelpFormatter} | rest)
        self._option_string_actions = _DashesOrUnderscores(self._option_string_actions)
        for group in self._action_groups:
            group._option_string_actions = self._option_string_actions

    def parse_known_args(self, args=None, namespace=None):
        """Like argparse, but a subcommand reports its unknown options itself: its parent knows none to suggest."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error_unknown(unknown)
        return found, unknown

    def error_unknown(self, words: Sequence[str]):
        known = {word[2:].replace("-", "_") for action in self._actions for word in action.option_strings}
        if words[0].startswith("--"):
            name = words[0].split("=")[0]
            near = remedy(name[2:].replace("-", "_"), known)
            raise UserError(f"unknown option {name}; {near or f'see {self.prog} --help'}")
        near = stray_word_remedy(words, {name: name for name in known})
        raise UserError(f"unknown argument '{words[0]}'; {near or f'see {self.prog} --help'}")

    def error(self, message: str):
        raise UserError(f"{message}; see {self.prog} --help")


class _DashesOrUnderscores(dict):
    """{option: action} that finds --d-model under --d_model too."""

    def __contains__(self, name):
        return super().__contains__(name) or super().__contains__(self._dashed(name))

    def __getitem__(self, name):
        return super().__getitem__(name if super().__contains__(name) else self._dashed(name))

    @staticmethod
    def _dashed(name):
        return name.replace("_", "-") if isinstance(name, str) and name.startswith("--") else name


class HelpFormatter(argparse.HelpFormatter):
    """Help text of 60 to 110 columns, with the default value after each setting's description."""

    def __init__(self, prog: str, **rest):
        width = min(shutil.get_terminal_size().columns, 110) - 2
        super().__init__(prog, max_help_position=30, width=width)

    def _format_usage(self, usage, actions, groups, prefix):
        if usage is not None or prefix == "":  # an empty prefix: the name that subcommands build on
            return super()._format_usage(usage, actions, groups, prefix)
        needed = [action for action in actions if action.required or not action.option_strings]
        usage = super()._format_usage(None, needed, [], prefix).rstrip()
        return usage.removesuffix(" ...") + " [OPTIONS]\n\n"

    def _format_action(self, action):
        if isinstance(action, argparse._SubParsersAction):  # without a line for its metavar
            return "".join(self._format_action(command) for command in action._get_subactions())
        return super()._format_action(action)

    def _expand_help(self, action):
        return super()._expand_help(action) + getattr(action, "shown_default", "")

    def _format_action_invocation(self, action):
        if action.option_strings and action.nargs != 0 and action.metavar is not None:
            return f"{', '.join(action.option_strings)} {self._format_args(action, action.dest)}"
        if (switch := getattr(action, "switch", None)) is not None:
            return ", ".join(f"--[no-]{name[2:]}" for name in switch)
        return super()._format_action_invocation(action)


def parse_size(text: str) -> int:
    """ "2GB" → 2_000_000_000 (powers of 1000)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", text.strip(), re.ASCII | re.IGNORECASE)
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write for example 500MB or 2GB")
    return int(float(match[1]) * UNITS[match[2].lower()])


def positive_int(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def unescape(text: str) -> str:
    r"""Replaces the escapes \n, \r and \t typed on a command line."""
    for written, meant in {r"\n": "\n", r"\r": "\r", r"\t": "\t"}.items():
        text = text.replace(written, meant)
    return text


def special_token(text: str) -> tuple[str, int | None]:
    """ "<|x|>" → ("<|x|>", None), "<|x|>=300" → ("<|x|>", 300).

    A token may contain =, as in <|a=b|>. One that ends like <|x|>=y is rejected without an id; write <|x|>=y=300."""
    token, mark, number = text.rpartition("=")
    if mark and token.endswith(">") and not number.isdecimal():
        raise argparse.ArgumentTypeError(
            f"{text!r}: {number!r} is not an id (a whole number); if the token is spelled like this, add its id: "
            f"'{text}=300'"
        )
    return (token, int(number)) if token and mark and number.isdecimal() else (text, None)


def new_special_token(text: str) -> str:
    """A special token of a vocabulary that is about to be trained."""
    if special_token(text)[1] is not None:
        raise argparse.ArgumentTypeError(
            f"{text!r}: training assigns the ids, special tokens last; remove the = and the number"
        )
    return text


AddCommand = Callable[[str, str], Parser]
"""(name, description) → parser of a new subcommand"""


def command_parser(module: str, about: str) -> tuple[Parser, AddCommand]:
    """The parser of a module with subcommands, and the function that adds one."""
    called_by_path = sys.argv[0].endswith("__main__.py")
    parser = Parser(prog=f"python -m {module}" if called_by_path else sys.argv[0], description=about)
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> Parser:
        return commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")

    return parser, command


def add_workers(parser: Parser) -> None:
    parser.add_argument(
        "--num-workers",
        "--num-proc",
        type=positive_int,
        metavar="N",
        help="number of threads or processes (default: all CPUs)",
    )


def add_engine(
    parser: Parser,
    automatic: str = "threads, or processes for large input on many CPUs",
    shards: str = "processes, dask: input per job (default: at most 256MB)",
) -> None:
    """Adds --engine, --scheduler and --shard-size. automatic: what the engine auto, also called local, chooses."""
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        type=lambda name: "auto" if name == "local" else name,
        help=f"where to run (default: auto: {automatic}); dask: on a cluster",
    )
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="dask: tcp://host:8786 or a scheduler file (default: workers on this machine)",
    )
    parser.add_argument("--shard-size", type=parse_size, metavar="SIZE", help=shards)


def add_tokenizer(parser: Parser, many: bool = False) -> None:
    parser.add_argument(
        "--tokenizer",
        nargs="+" if many else None,
        metavar="PATH",
        help="tokenizer folder, tokenizer.json or .tiktoken file" + ("; one or more" if many else ""),
    )
    parser.add_argument("--vocab", metavar="JSON", help="vocab.json, instead of --tokenizer")
    parser.add_argument("--merges", metavar="TXT", help="merges.txt for --vocab")
    parser.add_argument(
        "--special-tokens",
        nargs="*",
        type=special_token,
        metavar="TOKEN[=ID]",
        help="special tokens missing from the tokenizer's files (default id: the published or the next one)",
    )
    parser.add_argument(
        "--pattern", metavar="NAME", help="split pattern, if the tokenizer's files do not contain it"
    )


def set_log_level() -> None:
    level = os.environ.get("LOG_LEVEL", "WARNING").upper()
    if level not in logging.getLevelNamesMapping():
        raise UserError(f"LOG_LEVEL={level}: unknown log level; use DEBUG, INFO, WARNING or ERROR")
    logging.basicConfig(level=level, format="%(message)s", force=True)
    for name in ("numba", "asyncio"):  # their DEBUG output would drown ours
        logging.getLogger(name).setLevel(logging.WARNING)
