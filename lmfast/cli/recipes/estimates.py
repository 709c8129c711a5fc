"""Time and memory of the stages of a recipe, before the first one starts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lmfast.cli.recipes.graph import Step
from lmfast.cli.recipes.records import Decision
from lmfast.units import data_size, duration


@dataclass(frozen=True)
class Estimate:
    """seconds, memory in bytes: None if unknown. note: what is missing, or assumed."""

    seconds: float | None = None
    memory: float | None = None
    note: str = ""


def estimate_steps(folder: Path, steps: list[Step], decisions: Mapping[str, Decision]) -> dict[str, Estimate]:
    return {}


def estimate_table(
    steps: list[Step], decisions: Mapping[str, Decision], estimates: Mapping[str, Estimate]
) -> list[str]:
    """The plan as aligned lines."""
    rows = [("stage", "command", "", "time", "memory", "")]
    for step in steps:
        decision, estimate = decisions[step.name], estimates.get(step.name, Estimate())
        known = decision.action != "skip"
        rows.append(
            (
                step.name,
                step.command.name,
                decision.action,
                duration(estimate.seconds) if known and estimate.seconds is not None else "",
                data_size(estimate.memory) if known and estimate.memory is not None else "",
                "; ".join(filter(None, [decision.why, estimate.note if known else ""])),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return [line.rstrip() for line in lines]


def measure(jobs: dict) -> dict:
    return {}
