"""`lmfast recipe`: runs the stages of a recipe that are not done, and writes its page.

Everything is checked first: nothing is written if a stage cannot run. A second process that runs the same recipe waits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmfast.cli.recipes.estimates import Estimate, estimate_steps, estimate_table
from lmfast.cli.recipes.graph import Step, steps_in_order, walk
from lmfast.cli.recipes.outputs import move_output, output_parts, reject_other_files, remove_output
from lmfast.cli.recipes.page import write_page
from lmfast.cli.recipes.processes import INTERRUPTED, Launch, launch
from lmfast.cli.recipes.records import (
    RECORDS,
    Decision,
    Record,
    decide,
    finish,
    read_record,
    record_path,
    started,
    write_record,
)
from lmfast.cli.recipes.specification import Recipe, read_recipe
from lmfast.counted import counted
from lmfast.errors import UserError
from lmfast.files import folder_lock
from lmfast.training.parallel.environment import number_of_ranks
from lmfast.units import duration


@dataclass(frozen=True)
class Options:
    """Of the command line."""

    recipe: str
    changes: Sequence[str] = ()
    stop_after: str | None = None
    dry_run: bool = False
    fresh: bool = False


def run_recipe(options: Options, start: Launch = launch, calibrate: bool = True) -> int:
    """Runs the recipe; returns the exit code: 0, or that of the stage that ended it. start: runs one stage."""
    if number_of_ranks() > 1:
        raise UserError("lmfast recipe starts its own processes; run it without torchrun")
    recipe = read_recipe(options.recipe, options.changes)
    steps = steps_in_order(recipe)
    if options.stop_after is not None:
        if options.stop_after not in {step.name for step in steps}:
            names = ", ".join(step.name for step in steps)
            raise UserError(f"--stop-after {options.stop_after}: no such stage; the stages are {names}")
        steps = walk(steps, options.stop_after)
    folder = recipe.folder
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; choose another folder in {recipe.path}")
    reject_other_files(recipe, steps)
    if options.dry_run:
        _announce(recipe, steps, options.fresh, calibrate, keep=False)
        return 0
    waiting = f"{folder}: another process is running this recipe; waiting"
    with folder_lock(folder / RECORDS, waiting=lambda: print(waiting)):
        if options.fresh:
            _clear(recipe, steps)
        estimates = _announce(recipe, steps, False, calibrate)
        for number, step in enumerate(steps, 1):
            print(f"{number}/{len(steps)} {step.stage.title}", flush=True)
            code = _run(recipe, steps, step, estimates.get(step.name), start)
            if code:
                _page(recipe, steps)
                return code
        page = _page(recipe, steps)
        print(f"{counted(len(steps), 'stage')} done; open {page}")
    return 0


def _announce(
    recipe: Recipe, steps: list[Step], fresh: bool, calibrate: bool, keep: bool = True
) -> dict[str, Estimate]:
    """Prints what will be done with each stage, and how long it takes; returns the estimates."""
    decisions = plan(recipe.folder, steps, fresh)
    estimates = estimate_steps(recipe.folder, steps, decisions, keep) if calibrate else {}
    for line in estimate_table(steps, decisions, estimates):
        print(line)
    return estimates


def plan(folder: Path, steps: list[Step], fresh: bool = False) -> dict[str, Decision]:
    """What will be done with each stage, as far as it is known before the first one runs."""
    decisions: dict[str, Decision] = {}
    for step in steps:
        pending = {name for name, decision in decisions.items() if decision.action != "skip"}
        record = None if fresh else read_record(folder, step.name)
        decisions[step.name] = decide(step, record, pending)
    return decisions


def _run(recipe: Recipe, steps: list[Step], step: Step, estimate: Estimate | None, start: Launch) -> int:
    """Runs a stage unless it is done; returns its exit code."""
    folder = recipe.folder
    before = read_record(folder, step.name)
    decision = decide(step, before, set())
    if decision.action == "skip":
        print(f"{step.output}: reused (same inputs and settings)")
        if step.command.kind == "report":
            print(step.output.read_text(encoding="utf-8", errors="replace").rstrip())
        return 0
    if before is not None:
        print(f"{step.name}: {decision.why}")
    _await_writer(step)
    replaces = step.command.trains or step.command.keeps
    if decision.clear and before is not None and before.created and replaces and step.output.exists():
        print(f"{step.output}: the earlier one is kept in {move_output(recipe, steps, step)}")
    record = started(step, before, decision, bool(output_parts(recipe, steps, step)))
    if estimate is not None and record.predicted_seconds is None:
        record.predicted_seconds, record.predicted_memory = estimate.seconds, estimate.memory
    write_record(folder, step.name, record)
    step.output.parent.mkdir(parents=True, exist_ok=True)
    outcome = start(step.line, step.output if step.command.output is None else None)
    record.seconds += outcome.seconds
    record.memory = max((m for m in (record.memory, outcome.memory) if m is not None), default=None)
    record.device_memory = outcome.device_memory
    if outcome.code == 0:
        finish(step, record)
        write_record(folder, step.name, record)
        print(f"{step.name}: done in {duration(outcome.seconds)}", flush=True)
        if outcome.interrupted and step is not steps[-1]:
            print("stopped; rerun the same command to resume")
            return INTERRUPTED
        return 0
    record.created = record.created and bool(output_parts(recipe, steps, step))
    write_record(folder, step.name, record)
    again = "rerun the same command to resume"
    if outcome.code == INTERRUPTED:
        print(f"{step.name}: stopped; {again}")
        return INTERRUPTED
    if outcome.code < 0:
        raise UserError(
            f"stage {step.name} was ended by signal {-outcome.code} (9: by the system if memory ran out); {again}"
        )
    print(f"{step.name}: failed; correct its cause above, then {again}")
    return outcome.code


def _await_writer(step: Step) -> None:
    """Waits for training that is still writing its run: a stage outlives a killed recipe for a moment."""
    if step.command.trains and step.output.is_dir():
        waiting = f"{step.output}: another process is writing this run; waiting"
        with folder_lock(step.output, waiting=lambda: print(waiting)):
            pass


def _clear(recipe: Recipe, steps: list[Step]) -> None:
    """Removes what the recipe created, for --fresh."""
    for step in steps:
        record = read_record(recipe.folder, step.name)
        if record is not None and record.created and record.output == str(step.output.absolute()):
            _await_writer(step)
            remove_output(recipe, steps, step)
        record_path(recipe.folder, step.name).unlink(missing_ok=True)


def _page(recipe: Recipe, steps: list[Step]) -> Path:
    records: dict[str, Record | None] = {step.name: read_record(recipe.folder, step.name) for step in steps}
    return write_page(recipe, steps, records)
