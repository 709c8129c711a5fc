"""What the plots of a sweep show: the setting on the horizontal axis, the setting of the lines, and the range of values."""

import statistics
from collections.abc import Sequence
from typing import Any

from lmfast.sweeps.groups import SEED, Group, finite, resolved, varying
from lmfast.sweeps.trials import VARIANT, Results

FEWEST = 3  # values of a setting on the horizontal axis that was not asked for
MOST_LINES = 8


def horizontal_setting(results: Results, groups: list[Group]) -> str | None:
    """`page.x`, else learning_rate, else the first numeric setting with three values; None if there is none."""
    wanted = results.page.get("x")
    if isinstance(wanted, str) and len(numbers_of(results, groups, wanted)) > 1:
        return wanted
    numeric = numeric_settings(results, groups)
    return "learning_rate" if "learning_rate" in numeric else next(iter(numeric), None)


def numeric_settings(results: Results, groups: list[Group]) -> list[str]:
    """The searched settings with at least three numeric values."""
    return [name for name in varying(groups) if len(numbers_of(results, groups, name)) >= FEWEST]


def numbers_of(results: Results, groups: list[Group], name: str) -> list[float]:
    """The distinct values of a setting, searched or set by a variant, in order; empty if one is not a number."""
    values = [finite(resolved(results, group).get(name)) for group in groups]
    return sorted({value for value in values if value is not None}) if None not in values else []


def line_setting(results: Results, groups: list[Group], x: str) -> str | None:
    """`page.lines`, else batch_size, else variant, if it differs between groups and has at most eight values."""
    for name in (results.page.get("lines"), "batch_size", VARIANT):
        if isinstance(name, str) and name not in (x, SEED):
            values = {repr(value_of(results, group, name)) for group in groups}
            if 1 < len(values) <= MOST_LINES:
                return name
    return None


def value_of(results: Results, group: Group, name: str) -> Any:
    """A setting of a group; the variant is one."""
    return group.values.get(name, resolved(results, group).get(name))


def is_power_of_two(value: float) -> bool:
    return value >= 1 and value == int(value) and int(value) & (int(value) - 1) == 0


def good_range(values: Sequence[float], maximize: bool) -> tuple[float, float]:
    """(lowest, highest) of the values to distinguish. Needs at least one.

    Values worse than median + 3 (median − best) are left out if they would make the range more than half as large again,
    so that one bad run does not flatten the others.
    """
    best, worst = (max(values), min(values)) if maximize else (min(values), max(values))
    middle = statistics.median(values)
    limit = middle + 3 * (middle - best)
    kept = [value for value in values if (value >= limit if maximize else value <= limit)]
    edge = min(kept) if maximize else max(kept)
    if middle != best and abs(worst - best) > 1.5 * abs(edge - best):
        worst = edge
    return (worst, best) if maximize else (best, worst)
