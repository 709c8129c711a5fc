"""The commands that a stage of a recipe can be, and their command lines.

`COMMANDS` says for each command which options are files that it reads and which one is its output. `command_line` turns the
options of a stage into words; the command's own parser checks them, so that a mistake in the last stage is found before the
first one starts.
"""

import argparse
import contextlib
import dataclasses
import importlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lmfast.cli.arguments import Parser
from lmfast.cli.settings_line import SettingsParser, parse
from lmfast.errors import UserError
from lmfast.settings import to_flat
from lmfast.suggestions import remedy


@dataclass(frozen=True)
class Command:
    """name: as in a recipe. module: has main, build_parser and for commands with settings files the class `settings`.

    kind: what it makes. inputs: options that name files or folders. output: the option for what it writes; None: its
    standard output is kept in a file. needs: options that a recipe must give, because the default is another run.
    runs: inputs that must be a run. aliases: {name in a recipe: option}. suffix: of the output. keeps: refuses an output
    that exists. resumes: training, which continues in its folder.
    """

    name: str
    module: str
    kind: str
    inputs: tuple[str, ...]
    output: str | None = "output"
    settings: str | None = None
    positional: str | None = None
    needs: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    suffix: str = ""
    keeps: bool = False

    @property
    def words(self) -> list[str]:
        """Of the command line, before the options."""
        return ["import"] if self.name == "import" else self.name.split()

    @property
    def trains(self) -> bool:
        return self.output == "out_dir"


_RECORDS = ("train_data_path", "val_data_path", "init_from")
_TOKENIZER = ("tokenizer", "vocab", "merges")
_ALL = (
    Command("data download", "lmfast.data.__main__", "text", ("source",), positional="name"),
    Command("data stories", "lmfast.data.__main__", "text", ()),
    Command("data prepare", "lmfast.data.__main__", "tokens", ("input", "val_input", *_TOKENIZER)),
    Command("tokenizer train", "lmfast.tokenizer.__main__", "tokenizer", ("input",)),
    Command(
        "tokenizer encode", "lmfast.tokenizer.__main__", "tokens", ("input", *_TOKENIZER), suffix=".npy"
    ),
    Command(
        "train", "lmfast.train", "run", (*_RECORDS, "tokenizer"), "out_dir", "lmfast.settings.TrainSettings",
        runs=("init_from",),
    ),
    Command(
        "sft", "lmfast.sft", "run", _RECORDS, "out_dir",
        "lmfast.training.post_training_settings.SFTSettings",
        needs=("init_from", "train_data_path"), runs=("init_from",),
    ),
    Command(
        "dpo", "lmfast.dpo", "run", _RECORDS, "out_dir",
        "lmfast.training.post_training_settings.DPOSettings",
        needs=("init_from", "train_data_path"), runs=("init_from",),
    ),
    Command("import", "lmfast.import", "run", ("folder", "tokenizer"), positional="folder", keeps=True),
    Command(
        "evaluate", "lmfast.evaluate", "report", ("run", "data", "train_text", "include_path"), None,
        "lmfast.evaluate.EvaluateSettings", "run", needs=("run",), runs=("run",), suffix=".txt",
    ),
    Command(
        "export", "lmfast.export", "files", ("run",), positional="run", runs=("run",), keeps=True
    ),
    Command(
        "generate", "lmfast.generate", "report", ("checkpoint", "prompt_file"), None,
        "lmfast.generate.GenerateSettings", needs=("checkpoint",), runs=("checkpoint",), suffix=".txt",
    ),
)  # fmt: skip
COMMANDS = {command.name: command for command in _ALL}
WHERE_ONLY = {"num_workers", "engine", "scheduler", "shard_size", "command", "config", "resume"}
"""options that do not change the result"""


def full_names(command: Command, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options under the names that the command's parser uses for them (`lr` is learning_rate).

    Raises UserError for an unknown option, with a suggestion, and for one given twice."""
    parser = parser_of(command)
    known = {
        spelt.lstrip("-").replace("-", "_"): action.dest
        for action in parser._actions
        for spelt in action.option_strings or [action.dest]
        if spelt.startswith("--") or not action.option_strings
    }
    found: dict[str, Any] = {}
    for name, value in options.items():
        dest = known.get(name)
        if dest in (None, "help"):
            near = remedy(name, {spelt for spelt, dest in known.items() if dest != "help"}, dashes="")
            raise UserError(f"unknown option '{name}'; {near or f'see lmfast {command.name} --help'}")
        if dest in found:
            raise UserError(f"{dest} is given twice; remove one of them")
        found[dest] = value
    return found


def command_line(command: Command, options: Mapping[str, Any]) -> list[str]:
    """The words after `lmfast`. options: under their full names, with references replaced by paths."""
    flags = {action.dest: action for action in parser_of(command)._actions}
    first: list[str] = []
    rest: list[str] = []
    for dest, value in options.items():
        if value is None:
            continue
        action = flags[dest]
        values = [_word(item) for item in (value if isinstance(value, list | tuple) else [value])]
        if not action.option_strings:
            first += values
            continue
        name = next(spelt for spelt in action.option_strings if spelt.startswith("--"))
        if isinstance(value, bool):
            has_off = any(spelt.startswith("--no-") for spelt in action.option_strings)
            if value and (has_off or action.nargs in (0, "?")):
                rest.append(name)
            elif has_off:
                rest.append(f"--no-{name[2:]}")
            elif action.nargs != 0:
                raise UserError(f"{dest} is {str(value).lower()}; expected a value")
        elif action.nargs in ("*", "+") and len(values) != 1:
            if dashed := [word for word in values if word.startswith("-")]:
                raise UserError(f"{dest} has an item {dashed[0]}; one that starts with - must be alone")
            rest += [name, *values]
        else:
            if len(values) != 1:
                raise UserError(f"{dest} is a list; expected one value")
            rest.append(f"{name}={values[0]}")
    return [*command.words, *first, *rest]


def parsed(command: Command, line: list[str]) -> Any:
    """What the command reads from its command line: its settings or namespace. Raises UserError for a mistake."""
    words = line[len(command.words) :]
    if command.settings is not None:
        settings = parse(_settings_class(command), words, f"lmfast {command.name}")
        check = getattr(importlib.import_module(command.module), "check_settings", None)
        if check is not None:
            check(settings)
        return settings
    with _named(command):
        parser = importlib.import_module(command.module).build_parser()
        return parser.parse_args(words if len(command.words) == 1 else line[1:])


def plain_settings(values: Any) -> dict[str, Any]:
    """{option: value} of what `parsed` returned."""
    flat = vars(values) if isinstance(values, argparse.Namespace) else to_flat(values)
    return dict(flat)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise UserError(f"{value!r}: is not text or a number")


def _settings_class(command: Command) -> type:
    module, _, name = (command.settings or "").rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    assert dataclasses.is_dataclass(cls) and isinstance(cls, type)
    return cls


def parser_of(command: Command) -> Parser:
    """The parser of the command, or of its subcommand."""
    if command.settings is not None:
        return SettingsParser(_settings_class(command), f"lmfast {command.name}")
    with _named(command):
        parser = importlib.import_module(command.module).build_parser()
    if len(command.words) == 1:
        return parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices[command.words[1]]
    raise AssertionError(f"{command.name} is not a subcommand")


@contextlib.contextmanager
def _named(command: Command) -> Iterator[None]:
    """Parsers with subcommands take their name from the command line."""
    before = sys.argv
    sys.argv = [f"lmfast {command.words[0]}"]
    try:
        yield
    finally:
        sys.argv = before
