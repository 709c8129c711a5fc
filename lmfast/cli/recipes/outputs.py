"""The files of a stage's output: whether they are the recipe's own, moving them to FOLDER/old, removing them.

An output may be the recipe's folder itself, as in quickstart; it then consists of what is in the folder, without the
recipe's records and page and without the outputs of other stages.
"""

import shutil
from pathlib import Path

from lmfast.cli.recipes.graph import Step
from lmfast.cli.recipes.page import HEADING, PAGE
from lmfast.cli.recipes.records import RECORDS, read_record
from lmfast.cli.recipes.specification import Recipe
from lmfast.errors import UserError

OLD = "old"


def output_parts(recipe: Recipe, steps: list[Step], step: Step) -> list[Path]:
    """The files and folders that a stage's output consists of; empty if nothing is there."""
    folder = recipe.folder.absolute()
    if step.output.absolute() != folder:
        return [step.output] if step.output.exists() or step.output.is_symlink() else []
    kept = {folder / name for name in (RECORDS, OLD, PAGE, ".lock")}
    kept |= {other.output.absolute() for other in steps if other.name != step.name}
    return [path for path in sorted(folder.iterdir()) if path not in kept] if folder.is_dir() else []


def reject_other_files(recipe: Recipe, steps: list[Step]) -> None:
    """Raises UserError if a stage would overwrite a file whose name only follows from its own, but which it did not write.

    Training and the commands that refuse an existing output check that themselves."""
    for step in steps:
        command = step.command
        named = command.output is not None and step.stage.options.get(command.output)
        if named or command.trains or command.keeps or read_record(recipe.folder, step.name) is not None:
            continue
        if step.output.exists():
            raise UserError(
                f"{recipe.path}: stage {step.name} would write {step.output}, which exists and is not from this recipe; "
                "move it, or rename the stage"
            )
    page = recipe.folder / PAGE
    if page.exists() and HEADING not in page.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"{page}: exists and is not from a recipe; move it, or choose another folder")


def move_output(recipe: Recipe, steps: list[Step], step: Step) -> Path:
    """Moves a stage's output into FOLDER/old; returns where it is now."""
    name = step.name if step.output.absolute() == recipe.folder.absolute() else step.output.name
    number = 1
    while (target := recipe.folder / OLD / f"{name}-{number}").exists():
        number += 1
    target.parent.mkdir(exist_ok=True)
    parts = output_parts(recipe, steps, step)
    if parts == [step.output]:
        shutil.move(step.output, target)
        return target
    target.mkdir()
    for part in parts:
        shutil.move(part, target / part.name)
    return target


def remove_output(recipe: Recipe, steps: list[Step], step: Step) -> None:
    """Removes a stage's output; of a symbolic link only the link."""
    for part in output_parts(recipe, steps, step):
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part)
        else:
            part.unlink()
