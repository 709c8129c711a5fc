"""The stages of a recipe in the order in which they run, each with its checked command line.

A stage runs after those whose output it reads: by `$NAME`, or by a path below another stage's output. Rejects references to
unknown stages and to files that a stage does not write, cycles, two stages with one output, options that the command
rejects, and local files that do not exist. Nothing is written.
"""

import difflib
import glob
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmfast.cli.recipes.commands import (
    Command,
    command_line,
    full_names,
    parsed,
    plain_settings,
)
from lmfast.cli.recipes.specification import Recipe, Stage, reference, values_of
from lmfast.errors import UserError

NO_FILE = ("none", "-")
"""values of path options that are not paths"""


@dataclass(frozen=True)
class Source:
    """A file or folder that a stage reads. stage: the one that writes it; None for the user's own files."""

    path: Path
    stage: str | None


@dataclass(frozen=True)
class Step:
    """A stage that can run. line: the words after `lmfast`. values: what the command's parser read from them."""

    stage: Stage
    output: Path
    line: list[str]
    values: Any
    sources: dict[str, list[Source]]

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def command(self) -> Command:
        return self.stage.command

    @property
    def settings(self) -> dict[str, Any]:
        return plain_settings(self.values)

    @property
    def upstream(self) -> list[str]:
        """The stages that it reads from."""
        return list(dict.fromkeys(s.stage for each in self.sources.values() for s in each if s.stage))


def steps_in_order(recipe: Recipe) -> list[Step]:
    """The steps of a recipe. Raises UserError as above."""
    named = {}
    for stage in recipe.stages:
        with _prefixed(recipe, stage):
            named[stage.name] = full_names(stage.command, stage.options)
    outputs = {}
    for stage in recipe.stages:
        with _prefixed(recipe, stage):
            outputs[stage.name] = _output(recipe, stage, named[stage.name])
    _reject_shared_outputs(recipe, outputs)
    steps = {}
    for stage in recipe.stages:
        with _prefixed(recipe, stage):
            steps[stage.name] = _step(recipe, stage, named[stage.name], outputs)
    _check_produced(recipe, steps)
    return _sorted(recipe, steps)


class _prefixed:
    """Adds file and stage to the UserErrors of the block."""

    def __init__(self, recipe: Recipe, stage: Stage):
        self.where = f"{recipe.path}: stage {stage.name}: "

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, UserError):
            raise UserError(f"{self.where}{error}") from None


def _output(recipe: Recipe, stage: Stage, options: dict[str, Any]) -> Path:
    command = stage.command
    given = options.get(command.output) if command.output is not None else None
    if given is not None and not isinstance(given, str):
        raise UserError(f"{command.output} is {given!r}; expected a path (with quotes if it is a number)")
    if given:
        return Path(given[1:] if given.startswith("$$") else given)
    suffix = command.suffix
    if command.name == "export" and options.get("format") == "gguf":
        suffix = ".gguf"
    return recipe.folder / f"{stage.name}{suffix}"


def _reject_shared_outputs(recipe: Recipe, outputs: dict[str, Path]) -> None:
    seen: dict[str, str] = {}
    for name, path in outputs.items():
        if (other := seen.setdefault(os.path.abspath(path), name)) != name:
            raise UserError(f"{recipe.path}: stages {other} and {name} both write {path}; change one of them")


def _step(recipe: Recipe, stage: Stage, options: dict[str, Any], outputs: dict[str, Path]) -> Step:
    command = stage.command
    sources: dict[str, list[Source]] = {}
    resolved: dict[str, Any] = {}
    for name, value in options.items():
        if name in command.inputs and value in (None, ""):
            raise UserError(f"{name} is not set; give it with --set {stage.name}.{name}=PATH")
        found = [_resolve(item, outputs, stage) for item in values_of(value)]
        resolved[name] = [text for text, _ in found] if isinstance(value, list | tuple) else found[0][0]
        of_stages = [source for _, source in found if source is not None]
        if name in command.inputs:
            sources[name] = [
                source or _local(str(text), outputs, stage) for text, source in found if text not in NO_FILE
            ]
        elif of_stages:
            raise UserError(f"{name} is {value}, but it does not take the output of a stage; remove the $")
    for name in command.needs:
        if name not in options:
            raise UserError(f"{name} is not set; add `{name}:` with a file or $STAGE")
    if command.output is not None:
        resolved[command.output] = str(outputs[stage.name])
    line = command_line(command, resolved)
    return Step(stage, outputs[stage.name], line, parsed(command, line), sources)


def _resolve(value: Any, outputs: dict[str, Path], stage: Stage) -> tuple[Any, Source | None]:
    """(value with references replaced, what it refers to)."""
    if isinstance(value, str) and value.startswith("$$"):
        return value[1:], None
    named = reference(value)
    if named is None:
        return value, None
    name, rest = named
    if name not in outputs:
        near = difflib.get_close_matches(name, outputs, n=1)
        hint = f"did you mean ${near[0]}?" if near else f"the stages are {', '.join(outputs)}"
        raise UserError(f"{value} refers to no stage; {hint} ($$ stands for $)")
    if rest.startswith("/") or ".." in Path(rest).parts:
        raise UserError(
            f"{value} is not in the output of stage {name}; write $STAGE/FILE, or a path without $"
        )
    path = outputs[name] / rest if rest else outputs[name]
    return str(path), Source(path, name)


def _local(text: str, outputs: dict[str, Path], stage: Stage) -> Source:
    """A path in the recipe: below another stage's output, or the user's own."""
    path = Path(text)
    if os.path.abspath(path) == os.path.abspath(outputs[stage.name]):
        raise UserError(f"{text} is also what the stage writes; choose another output")
    around = [
        name
        for name, output in outputs.items()
        if name != stage.name and path.absolute().is_relative_to(output.absolute())
    ]
    if around:  # the innermost
        return Source(path, max(around, key=lambda name: len(outputs[name].absolute().parts)))
    if not path.exists() and not (glob.has_magic(text) and glob.glob(text, recursive=True)):
        raise UserError(
            f"{text} does not exist, and no stage writes it; correct the path, or add the stage that does"
        )
    return Source(path, None)


def _check_produced(recipe: Recipe, steps: dict[str, Step]) -> None:
    """Raises UserError for an input that its stage does not write, and for a run that is not one."""
    for step in steps.values():
        for option, sources in step.sources.items():
            for source in sources:
                if source.stage is None:
                    continue
                where = f"{recipe.path}: stage {step.name}: {option}"
                other = steps[source.stage]
                if option in step.command.runs and other.command.kind != "run":
                    raise UserError(
                        f"{where} is ${other.name}, which is not a run; give a stage of train, sft, dpo or import"
                    )
                written = files_written(other)
                inside = source.path.absolute().relative_to(other.output.absolute()).as_posix()
                if written is not None and inside != "." and inside not in written:
                    near = difflib.get_close_matches(inside, written, n=1, cutoff=0.4)
                    hint = f"did you mean ${other.name}/{near[0]}?" if near else "remove it"
                    raise UserError(
                        f"{where} is ${other.name}/{inside}, which stage {other.name} ({other.command.name}) does not "
                        f"write; {hint}"
                    )


def files_written(step: Step) -> list[str] | None:
    """The files and folders in a stage's output; None if they are not known beforehand."""
    settings = step.settings
    if step.command.name == "data stories":
        size = settings["vocab_size"]
        names = ("train.npy", "valid.npy", "tokenizer")
        return ["train.txt", "valid.txt", str(size), *(f"{size}/{name}" for name in names)]
    if step.command.name == "data prepare":
        return ["train.npy", "valid.npy", "token_counts.json"]
    if step.command.name == "data download" and settings["name"] is not None:
        return _corpus_files(settings["name"])
    return None


def _corpus_files(name: str) -> list[str] | None:
    from lmfast.data.corpora import CORPORA
    from lmfast.data.corpus_forms import form_suffix

    corpus = CORPORA.get(name)
    if corpus is None or corpus.form == "parquet":
        return None
    return [f"{part}{form_suffix(corpus.form)}" for part in sorted({*corpus.parts, "valid"})]


def _sorted(recipe: Recipe, steps: dict[str, Step]) -> list[Step]:
    """Each step after those it reads from, otherwise in the order of the file."""
    order: list[Step] = []
    done: set[str] = set()

    def visit(step: Step, path: tuple[str, ...]) -> None:
        if step.name in done:
            return
        if step.name in path:
            loop = " → ".join([*path[path.index(step.name) :], step.name])
            raise UserError(f"{recipe.path}: stages {loop} need each other; remove one of the references")
        for name in step.upstream:
            visit(steps[name], (*path, step.name))
        done.add(step.name)
        order.append(step)

    for step in steps.values():
        visit(step, ())
    return order


def walk(steps: list[Step], name: str) -> list[Step]:
    """The steps that a stage builds on, and itself, each once. steps: in the order in which they run."""
    wanted = {name}
    for step in reversed(steps):
        if step.name in wanted:
            wanted.update(step.upstream)
    return [step for step in steps if step.name in wanted]
