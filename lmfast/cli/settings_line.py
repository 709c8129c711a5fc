"""Command lines of the commands that take settings files: one option per field of a settings dataclass (settings.py).

`--d_model` and `--d-model` are the same, switches have a `--no-` form, and an `Option` in a field's annotation adds
aliases. Nested dataclasses are groups of the help page; the string literal below a field is the help text of its option.
Raises UserError for anything it cannot parse. Does not import torch.
"""

import argparse
import ast
import dataclasses
import functools
import inspect
import itertools
import re
import types
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from lmfast.cli.arguments import Parser
from lmfast.errors import UserError
from lmfast.settings import (
    field_option,
    find_config,
    flat_types,
    one_run_length,
    read_yaml,
    replace_flat,
    setting_aliases,
    to_flat,
)
from lmfast.suggestions import nearest, remedy, stray_word_remedy

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

_METAVARS = {int: "INT", float: "FLOAT", str: "TEXT"}
_EXPECTED = {int: "a whole number in digits", float: "a number"}


def parse(
    cls: type[T], argv: Sequence[str], prog: str, base: T | None = None, others: Sequence[type] = ()
) -> T:
    """Settings from a command line, which override the YAML file given by --config, which overrides `base`.

    base: defaults to the defaults of `cls`. others: further settings classes whose names the file may contain (see
    `read_yaml`); their values are ignored. On --help, prints the help and raises SystemExit(0).
    """
    parser = _parser(cls, prog)
    given = parser.parse(argv)
    settings = base if base is not None else cls()
    if (name := given.get("config")) is not None:
        settings = replace_flat(settings, read_yaml(find_config(name), cls, others))
    if given.pop("help", False):
        parser.print_settings_help(settings)
        raise SystemExit(0)
    return replace_flat(settings, one_run_length(given))


def named_settings(argv: Sequence[str], cls: type) -> set[str]:
    """The settings that a command line gives, by name; aliases and --no- forms count as the setting."""
    return _parser(cls, "lmfast").parse(argv).keys() - {"help"}


@functools.cache
def _parser(cls: type, prog: str) -> "SettingsParser":
    return SettingsParser(cls, prog)


class SettingsParser(Parser):
    """The options of one settings dataclass. Options have no default: the result contains only what was given."""

    def __init__(self, cls: type, prog: str):
        super().__init__(
            prog=prog,
            usage=f"{prog} [OPTIONS]",
            description=_summary(cls),
            argument_default=argparse.SUPPRESS,
            add_help=False,
        )
        self._cls = cls
        options = self.add_argument_group("options")
        options.add_argument("-h", "--help", action="store_true", help="show this help message and exit")
        self._add(cls, options)

    def _add(self, cls: type, group) -> None:
        texts = field_docs(cls)
        hints = typing.get_type_hints(cls, include_extras=True)
        for field in dataclasses.fields(cls):
            hint = hints[field.name]
            if isinstance(hint, type) and dataclasses.is_dataclass(hint):
                self._add(hint, self.add_argument_group(f"{field.name} options", _summary(hint)))
                continue
            option = field_option(hint)
            plain = flat_types(cls)[field.name]
            text = (option.help or texts.get(field.name, "")).replace("%", "%%")
            if option.positional:
                self.usage = f"{self.prog} [{field.name.upper()}] [OPTIONS]"
                group.add_argument(
                    field.name,
                    nargs="?",
                    metavar=field.name.upper(),
                    help=text,
                    action=_Value,
                    hint=plain,
                    option=option,
                )
                continue
            names = [f"--{name.replace('_', '-')}" for name in (field.name, *option.aliases)]
            action = _Switch if plain is bool else _Value
            group.add_argument(*names, dest=field.name, action=action, help=text, hint=plain, option=option)

    def parse(self, argv: Sequence[str]) -> dict[str, Any]:
        """{setting: value} of the settings that were given."""
        return vars(self.parse_args(list(argv)))

    def print_settings_help(self, settings: Any) -> None:
        """Prints the help, with the values of `settings` as defaults."""
        values = to_flat(settings)
        for action in self._actions:
            if not isinstance(action, _Value | _Switch):
                continue
            value = values.get(action.dest)
            if isinstance(action, _Switch):
                shown = "on" if value else "off"
            else:
                shown = "" if value is None or value == () else repr(value) if value == "" else str(value)
            action.shown_default = f" (default: {shown})" if shown and action.dest in values else ""
        self.print_help()

    def error_unknown(self, words: Sequence[str]):
        hints, aliases = flat_types(self._cls), setting_aliases(self._cls)
        if not words[0].startswith("--"):
            near = stray_word_remedy(words, {name: name for name in hints} | aliases)
            raise UserError(f"unknown argument '{words[0]}'; {near or 'see --help'}")
        flag = words[0].split("=", 1)[0]
        name = re.sub("[-.]", "_", flag[2:])
        off = "no_" if name.startswith("no_") else ""
        known = {n for n, hint in hints.items() if hint is bool} if off else hints.keys() | aliases.keys()
        meant = nearest(name.removeprefix(off), known)
        if meant is not None and any(
            action.dest == meant and not action.option_strings for action in self._actions
        ):
            raise UserError(
                f"unknown option '{flag}'; did you mean the argument {self.prog} {meant.upper()}?"
            )
        near = remedy(name.removeprefix(off), known, "--no-" if off else "--")
        raise UserError(f"unknown option '{flag}'; {near or 'see --help'}")


class _Value(argparse.Action):
    """An option with a value, checked against the type of its field."""

    def __init__(self, option_strings, dest, hint, option, **rest):
        self.hint, self.option, self.shown_default = hint, option, ""
        self.off = [f"--no-{name[2:]}" for name in option_strings] if option.negated else []
        if option.bare:
            rest["nargs"], rest["const"] = "?", option.bare
        elif typing.get_origin(hint) is tuple:
            rest["nargs"] = "*"
        rest.setdefault("metavar", _metavar(hint))
        super().__init__([*option_strings, *self.off], dest, **rest)

    def __call__(self, parser, namespace, value, option_string=None):
        if option_string and option_string.replace("_", "-") in self.off:
            if value != self.option.bare:
                parser.error_unknown([value])
            value = self.option.negated
        elif isinstance(value, list):
            value = tuple(value)
        elif value is not None:
            value = _convert(value, self.hint, option_string or self.dest)
        setattr(namespace, self.dest, value)


class _Switch(argparse.Action):
    """A boolean option: --x and --no-x."""

    def __init__(self, option_strings, dest, hint, option, **rest):
        self.switch, self.shown_default = option_strings, ""
        names = [*option_strings, *(f"--no-{name[2:]}" for name in option_strings)]
        super().__init__(names, dest, nargs=0, **rest)

    def __call__(self, parser, namespace, value, option_string=None):
        setattr(namespace, self.dest, not str(option_string).startswith(("--no-", "--no_")))


def _convert(text: str, hint: Any, name: str) -> Any:
    """Converts a command-line argument to the type of its field."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        if text == "None":
            return None
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
    if typing.get_origin(hint) is Literal:
        if text in typing.get_args(hint):
            return text
        raise UserError(f"{name} is {text!r}; expected one of {', '.join(typing.get_args(hint))}")
    try:
        return hint(text)
    except ValueError:
        raise UserError(f"{name} is {text!r}; expected {_EXPECTED[hint]}") from None


def _metavar(hint: Any) -> str:
    args = [a for a in typing.get_args(hint) if a is not type(None)]
    if typing.get_origin(hint) is Literal:
        return "{" + ",".join(args) + "}"
    if args:
        return _metavar(args[0])
    return _METAVARS[hint]


def _summary(cls: type) -> str:
    return inspect.getdoc(cls) or ""


@functools.cache
def field_docs(cls: type) -> dict[str, str]:
    """{field: help text}: the string literal below each field of a dataclass, on one line."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        (definition,) = ast.parse(inspect.getsource(base)).body
        assert isinstance(definition, ast.ClassDef)
        for field, text in itertools.pairwise(definition.body):
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            if isinstance(text, ast.Expr):
                texts[field.target.id] = " ".join(ast.literal_eval(text.value).split())
    return texts
