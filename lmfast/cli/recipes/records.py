"""What a recipe remembers: FOLDER/.recipe/STAGE.json, and whether a stage must run.

A record holds the settings of a stage, the fingerprints of its inputs and the sizes of its outputs. It is written when the
stage starts and again when it has finished. `created`: the output did not exist before, so the recipe may move it away.
"""

import contextlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lmfast.cli.recipes.commands import WHERE_ONLY
from lmfast.cli.recipes.fingerprints import damaged, fingerprint, sizes
from lmfast.cli.recipes.graph import Step
from lmfast.cli.recipes.specification import reference, values_of
from lmfast.files import atomic_write
from lmfast.training.resume import refused_change

RECORDS = ".recipe"
Action = Literal["run", "resume", "continue", "skip"]


@dataclass
class Record:
    """seconds, memory: of all its runs together, and their peak in bytes. predicted: of both, before the first one."""

    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    inputs: dict[str, str | None] = field(default_factory=dict[str, Any])
    output: str = ""
    created: bool = False
    finished: bool = False
    outputs: dict[str, int] = field(default_factory=dict[str, int])
    seconds: float = 0.0
    memory: int | None = None
    device_memory: int | None = None
    predicted_seconds: float | None = None
    predicted_memory: float | None = None
    known: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Decision:
    """What to do with a stage, and why. clear: move its old output away first."""

    action: Action
    why: str
    clear: bool = False


def record_path(folder: Path, name: str) -> Path:
    return folder / RECORDS / f"{name}.json"


def read_record(folder: Path, name: str) -> Record | None:
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Record(**json.loads(record_path(folder, name).read_text(encoding="utf-8")))
    return None


def write_record(folder: Path, name: str, record: Record) -> None:
    path = record_path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, durable=True) as temporary:
        temporary.write_text(json.dumps(asdict(record), indent=1), encoding="utf-8")


def settings_key(step: Step) -> dict[str, Any]:
    """The settings that determine the output: options with defaults and the content of settings files; not where files
    are, whose content is compared, but which file of a stage is read."""
    command = step.command
    paths = {*command.inputs, command.output}
    plain = {
        name: value for name, value in step.settings.items() if name not in paths and name not in WHERE_ONLY
    }
    read = {}
    for name, value in step.stage.options.items():
        refs = [item for item in values_of(value) if reference(item)]
        if refs:
            read[name] = refs
    settings = {"command": command.name} | plain | {"reads": read}
    return json.loads(json.dumps(settings, default=str))


def input_fingerprints(step: Step, known: dict[str, Any]) -> dict[str, str | None]:
    """{option and position: fingerprint}."""
    return {
        f"{option} {number}": fingerprint(source.path, known)
        for option, sources in step.sources.items()
        for number, source in enumerate(sources)
    }


def decide(step: Step, record: Record | None, pending: set[str]) -> Decision:
    """What to do with a stage. pending: stages before it that are going to run, so their output is not known yet."""
    if record is None:
        return Decision("run", "not run yet")
    if record.output != str(step.output.absolute()):
        return Decision("run", f"writes {step.output} now")
    settings, why = settings_key(step), ""
    changed = sorted(
        name for name in {*settings, *record.settings} if settings.get(name) != record.settings.get(name)
    )
    if changed:
        why = f"changed: {', '.join(changed)}"
        if not step.command.trains or refused_change(record.settings, settings) is not None:
            return Decision("run", why, clear=True)
    if waiting := [name for name in step.upstream if name in pending]:
        return Decision("run", f"reads the output of {' and '.join(waiting)}", clear=True)
    known = dict(record.known)
    inputs = input_fingerprints(step, known)
    for name in sorted({*inputs, *record.inputs}):
        if record.inputs.get(name) != inputs.get(name):
            return Decision("run", f"another {name.split()[0]} than before", clear=True)
    if changed:
        return Decision("continue", why)
    if not record.finished:
        return Decision("resume", "was interrupted", clear=step.command.keeps)
    if missing := damaged(step.output, record.outputs):
        return Decision("run", f"{missing} is missing or damaged", clear=step.command.keeps)
    return Decision("skip", "unchanged")


def started(step: Step, before: Record | None, decision: Decision, exists: bool) -> Record:
    """The record of a stage that is about to run; `before` belongs to the same output. exists: its output."""
    known = {} if before is None else dict(before.known)
    going_on = before is not None and decision.action in ("resume", "continue")
    same = before is not None and before.output == str(step.output.absolute())
    return Record(
        settings_key(step),
        input_fingerprints(step, known),
        str(step.output.absolute()),
        created=not exists or (same and before is not None and before.created),
        seconds=before.seconds if going_on and before is not None else 0.0,
        memory=before.memory if going_on and before is not None else None,
        predicted_seconds=before.predicted_seconds if going_on and before is not None else None,
        predicted_memory=before.predicted_memory if going_on and before is not None else None,
        known=known,
    )


def finish(step: Step, record: Record) -> None:
    """Notes the outputs of a stage that has finished."""
    record.finished, record.outputs = True, sizes(step.output, step.command.trains)
