"""python -m lmfast.completion SHELL: prints a shell script that completes commands, options, values and file names.

shtab generates the script from the parsers of all commands. It is static, so completing does not start Python.
"""

import argparse
import importlib
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import shtab

from lmfast.__main__ import COMMANDS
from lmfast.cli.arguments import Parser
from lmfast.cli.exit_codes import exit_on_user_error
from lmfast.cli.recipes.specification import RECIPES
from lmfast.settings import CONFIGS

SHELLS = ("bash", "zsh", "fish")
FOLDERS = {"out_dir", "include_path", "eval_tasks_include_path"}
FILES = {
    *(
        "input",
        "output",
        "tokenizer",
        "vocab",
        "merges",
        "html",
        "source",
        "val_input",
        "runs",
        "run",
        "checkpoint",
    ),
    *(
        "train_data_path",
        "val_data_path",
        "data",
        "init_from",
        "reference_cache",
        "train_text",
        "prompt_file",
        "plot",
        "json",
    ),
}
"""names of options and positional arguments whose value is a file"""


def build_parser() -> Parser:
    parser = Parser(
        prog="lmfast completion",
        description="Print a shell script that completes commands, options and file names.",
        epilog="In bash, write it to ~/.local/share/bash-completion/completions/lmfast",
    )
    parser.add_argument("shell", choices=SHELLS, help="your shell")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    with exit_on_user_error():
        arguments = build_parser().parse_args(sys.argv[1:] if argv is None else argv)
        print(shtab.complete(_all_commands(), arguments.shell))


def _all_commands() -> argparse.ArgumentParser:
    """A parser with all commands and their options."""
    root = argparse.ArgumentParser(prog="lmfast")
    root.add_argument("--version", action="store_true", help="print the version")
    commands = root.add_subparsers(metavar="COMMAND")
    for name, (module, text) in COMMANDS.items():
        parser = importlib.import_module(module).build_parser()
        commands.add_parser(name, help=text, description=text, parents=[parser], add_help=False)
        _add_values(parser)
    return root


def _add_values(parser: argparse.ArgumentParser) -> None:
    """Adds the possible values of the options of a parser, for shtab."""
    actions: list[Any] = parser._actions  # shtab reads an attribute that argparse's class does not declare
    for action in actions:
        if isinstance(action.choices, dict):
            for subcommand in action.choices.values():
                _add_values(subcommand)
        elif action.dest == "config":
            action.complete = _named_files("config", CONFIGS)
        elif action.dest == "recipe":
            action.complete = _named_files("recipe", RECIPES)
        elif action.dest == "sweep":
            action.complete = _named_files("sweep", CONFIGS / "sweeps")
        elif action.dest in FILES:
            action.complete = shtab.FILE
        elif action.dest in FOLDERS:
            action.complete = shtab.DIRECTORY
        else:
            action.choices = action.choices or _literals(getattr(action, "hint", None))


def _literals(hint: object) -> tuple[str, ...] | None:
    """The values of a Literal type, or of Literal | None."""
    for each in (hint, *typing.get_args(hint)):
        if typing.get_origin(each) is Literal:
            return typing.get_args(each)
    return None


def _named_files(kind: str, folder: Path) -> dict[str, Any]:
    """Completes the names in a folder of configs/, YAML files and directories."""
    names = " ".join(sorted(path.stem for path in folder.glob("*.yaml")))
    files: Any = shtab.glob("*.yaml", "*.yml")
    return {
        "bash": f"_lmfast_{kind}_files",
        "zsh": f"_lmfast_{kind}_files",
        "fish": f"(_lmfast_{kind}_files)",
        "preamble": {
            "bash": files["preamble"]["bash"]
            + f"""
_lmfast_{kind}_files() {{
  compgen -W '{names}' -- "$1"
  {files["bash"]} "$1"
}}""",
            "zsh": f"""
_lmfast_{kind}_files() {{
  _alternative 'names:name in {folder.name}:({names})' "files:file:{files["zsh"]}"
}}""",
            "fish": files["preamble"]["fish"]
            + f"""
function _lmfast_{kind}_files
  string split ' ' '{names}'
  {files["fish"].strip("()")}
end""",
        },
    }


if __name__ == "__main__":
    main()
