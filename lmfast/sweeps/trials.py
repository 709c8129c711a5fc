"""The results of a sweep, as the command prints them and the page shows them.

A trial is one training run with one combination of the searched settings. Everything else about it is in its run folder.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lmfast.settings import one_run_length

State = Literal["complete", "diverged", "pruned", "failed", "running"]
Direction = Literal["minimize", "maximize"]
VARIANT = "variant"
"""name of the axis of the named groups of settings"""


@dataclass(frozen=True)
class Trial:
    """One trial. Its curve is in folder/metrics.jsonl, also if it diverged or was pruned."""

    number: int
    values: dict[str, Any]
    """the searched settings, and the name of the variant as "variant" """
    state: State
    folder: Path
    """run folder; does not exist if the trial failed before its first step"""
    value: float | None
    """the metric at the end of the run; of a pruned trial the last reported; otherwise None"""
    message: str = ""
    """why it diverged or failed"""


@dataclass(frozen=True)
class Results:
    """A sweep and its trials so far."""

    name: str
    metric: str
    direction: Direction
    settings: dict[str, Any]
    """settings that all trials share: base and fixed ones, flat; those in their files only"""
    space: dict[str, list[Any] | dict[str, Any]]
    """the searched settings: choices, or a range; "variant" lists the names of the variants"""
    variants: dict[str, dict[str, Any]]
    """{variant: its settings}"""
    page: dict[str, Any]
    """the specification's options for the page"""
    trials: list[Trial]

    def best(self) -> Trial | None:
        """The complete trial with the best value; of equal ones the first. None if no trial is complete."""
        sign = 1 if self.direction == "minimize" else -1
        complete = [t for t in self.trials if t.state == "complete" and t.value is not None]
        return min(complete, key=lambda trial: sign * (trial.value or 0.0), default=None)

    def settings_of(self, trial: Trial) -> dict[str, Any]:
        """All settings of a trial, flat: the shared ones, those of its variant, then the searched ones."""
        values = {name: value for name, value in trial.values.items() if name != VARIANT}
        return self.settings | self.variants.get(trial.values.get(VARIANT, ""), {}) | one_run_length(values)
