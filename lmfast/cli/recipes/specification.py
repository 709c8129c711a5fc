"""Reads RECIPE.yaml: the stages of a job, each a command with its options.

    about: a small model of children's stories        # optional: shown on the page
    folder: runs/stories                              # where stages write; default runs/NAME
    stages:
      words: {command: tokenizer train, input: stories.txt, vocab_size: 4096}
      tokens: {command: data prepare, input: stories.txt, tokenizer: $words}

A stage may have a `title:`, which is printed when it starts. `$NAME` at the start of a value is the output of another
stage, `$NAME/FILE` a file in it; `$$` stands for `$`. Rejects unknown names, a stage without a known command, and --set of
an unknown stage.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lmfast.cli.recipes.commands import COMMANDS, Command
from lmfast.errors import UserError
from lmfast.settings import CONFIGS, find_config, load_yaml
from lmfast.suggestions import remedy

RECIPES = CONFIGS / "recipes"
KEYS = ("about", "folder", "stages")
OWN = {"command", "title"}
"""names in a stage that are not options of its command"""
RESERVED = ("old", "calibration")
"""FOLDER/old keeps earlier outputs, FOLDER/.recipe/calibration.json measurements"""
NAME = re.compile(r"[A-Za-z][\w-]*")
REFERENCE = re.compile(r"\$([A-Za-z][\w-]*)(?:/(.*))?", re.DOTALL)


@dataclass(frozen=True)
class Stage:
    """options: {name with underscores: value as in the file}. title: printed instead of the name and the command."""

    name: str
    command: Command
    options: dict[str, Any]
    title: str = ""


@dataclass(frozen=True)
class Recipe:
    """path: the file. text: the recipe as YAML, with the changes of --set."""

    path: Path
    folder: Path
    stages: list[Stage]
    about: str = ""
    text: str = field(default="", repr=False)


def reference(value: Any) -> tuple[str, str] | None:
    """("tokens", "train.npy") for "$tokens/train.npy"; None for other values."""
    match = REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return match and (match[1], match[2] or "")


def values_of(value: Any) -> list[Any]:
    """The items of a list, or the value alone."""
    return list(value) if isinstance(value, list | tuple) else [value]


def find_recipe(name: str) -> Path:
    """Path of a recipe, given by path or by the name of one in configs/recipes/."""
    return find_config(name, RECIPES, "recipe")


def read_recipe(name: str, changes: Sequence[str] = ()) -> Recipe:
    """The recipe in a file, with the changes "STAGE.OPTION=VALUE" or "folder=VALUE". Raises UserError as above."""
    path = find_recipe(name)
    loaded = load_yaml(path)
    for key in loaded:
        if key not in KEYS:
            near = remedy(str(key), KEYS, dashes="")
            known = f"a recipe has {', '.join(KEYS)}"
            raise UserError(f"{path}: unknown name '{key}'; {near or known}")
    stages = loaded.get("stages")
    if not isinstance(stages, dict) or not stages:
        raise UserError(f"{path}: has no stages; add `stages:` with lines of `NAME: {{command: …}}`")
    stages = loaded["stages"] = {
        name: dict(given) if isinstance(given, dict) else given for name, given in stages.items()
    }  # one anchor may stand for several stages
    for change in changes:
        _apply(change, loaded, stages, path)
    for key in ("about", "folder"):
        if not isinstance(loaded.get(key, ""), str):
            raise UserError(f"{path}: {key} is {loaded[key]!r}; expected text")
    return Recipe(
        path,
        Path(loaded.get("folder") or Path("runs") / path.stem),
        [_stage(name, given, path) for name, given in stages.items()],
        loaded.get("about", ""),
        yaml.safe_dump(loaded, sort_keys=False, allow_unicode=True, width=100),
    )


def _apply(change: str, loaded: dict[str, Any], stages: dict[str, Any], path: Path) -> None:
    target, mark, text = change.partition("=")
    stage, dot, option = target.partition(".")
    if not mark or not ((dot and option) or target == "folder"):
        raise UserError(
            f"--set {change}: is not STAGE.OPTION=VALUE; write for example --set model.max_iters=100"
        )
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: 2026-13-45
        value = text
    if target == "folder":
        loaded["folder"] = text
    elif stage not in stages or not isinstance(stages[stage], dict):
        near = difflib.get_close_matches(stage, list(map(str, stages)), n=1)
        hint = f"did you mean {near[0]}?" if near else f"the stages are {', '.join(map(str, stages))}"
        raise UserError(f"--set {change}: {path} has no stage '{stage}'; {hint}")
    else:
        given = stages[stage]
        for spelt in [name for name in given if str(name).replace("-", "_") == option.replace("-", "_")]:
            del given[spelt]
        given[option.replace("-", "_")] = value


def _stage(name: Any, given: Any, path: Path) -> Stage:
    where = f"{path}: stage {name}"
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(
            f"{where}: the name must start with a letter and contain only letters, digits, - and _"
        )
    if not isinstance(given, dict) or not isinstance(given.get("command"), str):
        raise UserError(f"{where}: has no command; write `{name}: {{command: train, …}}`")
    words = " ".join(given["command"].split())
    if words not in COMMANDS:
        near = difflib.get_close_matches(words, COMMANDS, n=1)
        near = near or [command for command in COMMANDS if words in command.split()][:1]
        hint = f"did you mean {near[0]}?" if near else f"a stage can be {', '.join(COMMANDS)}"
        raise UserError(f"{where}: unknown command '{words}'; {hint}")
    options = {str(key).replace("-", "_"): value for key, value in given.items() if key not in OWN}
    if len(options) < len(given.keys() - OWN):
        raise UserError(f"{where}: an option is given twice, with - and with _; remove one of them")
    if name in RESERVED:
        raise UserError(f"{where}: the recipe uses the name {name} itself; choose another")
    return Stage(name, COMMANDS[words], options, str(given.get("title", f"{name}: {words}")))
