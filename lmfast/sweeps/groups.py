"""Groups of trials that differ only in the seed, and which of them is best.

A trial counts as a score if it is complete and its value is finite. Groups in which a trial diverged or failed rank behind
those without, because settings that diverge for some seeds are not the best ones to take.
"""

import math
import statistics
from dataclasses import dataclass
from typing import Any

from lmfast.sweeps.trials import VARIANT, Results, Trial

SEED = "seed"


@dataclass(frozen=True)
class Group:
    """index: position in the order of settings. values: the searched settings without the seed."""

    index: int
    values: dict[str, Any]
    trials: tuple[Trial, ...]

    @property
    def scores(self) -> list[float]:
        return [value for trial in self.trials if (value := score(trial)) is not None]

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.scores) if self.scores else None

    @property
    def broke(self) -> bool:
        """Whether a trial diverged or failed."""
        return any(trial.state in ("diverged", "failed") for trial in self.trials)


def score(trial: Trial) -> float | None:
    """The value of a complete trial; None if it has none or it is not finite."""
    return finite(trial.value) if trial.state == "complete" else None


def finite(value: Any) -> float | None:
    """A number as float; None for anything else, NaN and infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def group_trials(results: Results) -> list[Group]:
    """The groups in the order of their settings."""
    found: dict[str, list[Trial]] = {}
    for trial in sorted(results.trials, key=lambda trial: trial.number):
        found.setdefault(_identity(without_seed(trial.values)), []).append(trial)
    order = sorted(found.values(), key=lambda trials: _position(results, without_seed(trials[0].values)))
    return [Group(i, without_seed(trials[0].values), tuple(trials)) for i, trials in enumerate(order)]


def best_first(results: Results, groups: list[Group]) -> list[Group]:
    """The groups by mean; then those with diverged or failed trials by mean; then those without a score."""
    sign = -1 if results.direction == "maximize" else 1

    def rank(group: Group) -> tuple[int, float, int]:
        if group.mean is None:
            return 2, 0.0, group.index
        return int(group.broke), sign * group.mean, group.index

    return sorted(groups, key=rank)


def best_group(results: Results, groups: list[Group]) -> Group | None:
    """The group with the best mean; None if no trial has a score."""
    ranked = best_first(results, groups)
    return ranked[0] if ranked and ranked[0].scores else None


def best_trial(results: Results, group: Group) -> Trial:
    """The trial with the best score of a group that has scores."""
    choose = max if results.direction == "maximize" else min
    return choose((t for t in group.trials if score(t) is not None), key=lambda t: score(t) or 0.0)


def reference_of(results: Results, group: Group, groups: list[Group]) -> Group | None:
    """The group with the first variant and otherwise the same settings; None if there is none or it is this one."""
    if VARIANT not in group.values or not results.variants:
        return None
    wanted = _identity(group.values | {VARIANT: next(iter(results.variants))})
    return next((g for g in groups if g is not group and _identity(g.values) == wanted), None)


def resolved(results: Results, group: Group) -> dict[str, Any]:
    """All settings of a group, without the seed."""
    return without_seed(results.settings_of(group.trials[0]))


def varying(groups: list[Group]) -> list[str]:
    """The searched settings in which the groups differ, in their order."""
    names = list(dict.fromkeys(name for group in groups for name in group.values))
    return [name for name in names if len({_identity({"": group.values.get(name)}) for group in groups}) > 1]


def without_seed(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != SEED}


def _identity(values: dict[str, Any]) -> str:
    """Equal for equal settings, whatever their order; values need not be hashable."""
    return repr(sorted((name, repr(value)) for name, value in values.items()))


def _position(results: Results, values: dict[str, Any]) -> list[tuple[float, str]]:
    """A sort key: numbers ascend, other choices have the order of the sweep."""
    names = [name for name in results.space if name in values]
    names += [name for name in values if name not in results.space]
    return [choice_position(results, name, values[name]) for name in names]


def choice_position(results: Results, name: str, value: Any) -> tuple[float, str]:
    """The sort key of a value among those of its setting."""
    as_number = finite(value)
    if as_number is not None:
        return as_number, ""
    choices = list(results.variants) if name == VARIANT else results.space.get(name, [])
    place = choices.index(value) if isinstance(choices, list) and value in choices else math.inf
    return place, str(value)
