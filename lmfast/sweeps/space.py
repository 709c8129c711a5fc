"""The searched settings of a sweep: lists of choices and ranges, and the points of a grid.

Input: the `space` of a sweep file. Rejects unknown settings, values of the wrong type, settings that do not belong to a
trial (out_dir), empty lists, duplicates, ranges with low above high, and ranges without steps in a grid.
"""

import itertools
import json
import math
import types
import typing
from dataclasses import dataclass
from typing import Any

from lmfast.errors import UserError
from lmfast.settings import TrainSettings, check_settings, coerce, flat_types, setting_aliases
from lmfast.suggestions import remedy
from lmfast.sweeps.trials import VARIANT

LARGEST = "largest"
"""choice of batch_size: the largest batch that fits into the memory of the device"""
NOT_SEARCHED = {
    *("config", "out_dir", "resume", "device"),
    *("log_interval", "eval_interval", "eval_batches", "checkpoint_interval", "keep_checkpoints"),
    *("sample_interval", "tensorboard", "wandb", "wandb_project", "wandb_name", "wandb_entity"),
}
"""settings that do not change what a model learns, or how it is measured"""
MOST_POINTS = 10_000
MOST_STEPS = 1e15
"""more are counted as this many, because the number may be infinite in floating point"""


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included. log: searched on a logarithmic scale. step: only low + k * step."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def values(self) -> list[float]:
        """The values of a range with steps."""
        assert self.step is not None
        values = [self.low + k * self.step for k in range(self.count())]
        return [float(f"{value:.12g}") if isinstance(value, float) else value for value in values]

    def count(self) -> int:
        """The number of values of a range with steps, without listing them: there may be billions."""
        assert self.step is not None
        return math.floor(min((self.high - self.low) / self.step, MOST_STEPS) + 1e-9) + 1

    def ends(self) -> list[float]:
        return [self.low, self.high]

    def as_dict(self) -> dict[str, Any]:
        given = {"low": self.low, "high": self.high, "log": self.log or None, "step": self.step}
        return {name: value for name, value in given.items() if value is not None}


Axis = list[Any] | Range
Point = dict[str, Any]
"""the searched settings of a trial, and the name of its variant as "variant" """


def read_space(loaded: dict[Any, Any], where: str) -> dict[str, Axis]:
    """The axes of `space`, under the settings' full names. where: the start of error messages."""
    hints, aliases = flat_types(TrainSettings), setting_aliases(TrainSettings)
    axes: dict[str, Axis] = {}
    for key, value in loaded.items():
        written = str(key).replace("-", "_")
        name = aliases.get(written, written)
        if name in NOT_SEARCHED:
            raise UserError(f"{where}: {name} cannot be searched; put it under `settings`, or remove it")
        if name not in hints:
            near = remedy(name, hints.keys() - NOT_SEARCHED, dashes="")
            raise UserError(f"{where}: unknown setting '{key}'{f'; {near}' if near else ''}")
        if name in axes:
            raise UserError(f"{where}: {name} is given twice; remove one of them")
        if isinstance(value, dict):
            axes[name] = _range(value, hints[name], f"{where}: {name}")
        elif isinstance(value, list):
            axes[name] = _choices(value, name, hints[name], f"{where}: {name}")
        else:
            raise UserError(
                f"{where}: {name} is {value!r}; expected a list of choices or a range {{low: …, high: …}} "
                "(a fixed value belongs under `settings`)"
            )
    return axes


def _choices(values: list[Any], name: str, hint: Any, where: str) -> list[Any]:
    if not values:
        raise UserError(f"{where} is an empty list; give at least one value")
    typed = [v if name == "batch_size" and v == LARGEST else coerce(v, hint, where) for v in values]
    reject_duplicates(typed, where)
    return typed


def reject_duplicates(values: list[Any], where: str) -> None:
    for i, value in enumerate(values):
        if value in values[:i]:
            raise UserError(f"{where} lists {value} twice; remove one of them")


def _range(loaded: dict[Any, Any], hint: Any, where: str) -> Range:
    number = next((t for t in (int, float) if t in (hint, *_members(hint))), None)
    if number is None:
        raise UserError(f"{where} is not a number, so it has no range; give a list of choices")
    for key in loaded:
        if key not in ("low", "high", "log", "step"):
            near = remedy(str(key), ("low", "high", "log", "step"), dashes="")
            raise UserError(
                f"{where}: unknown '{key}' in a range; {near or 'a range has low, high, log and step'}"
            )
    for key in ("low", "high"):
        if key not in loaded:
            raise UserError(f"{where}: a range needs low and high; add {key}")
    low, high = (coerce(loaded[key], number, f"{where}: {key}") for key in ("low", "high"))
    log = coerce(loaded.get("log", False), bool, f"{where}: log")
    step = None if loaded.get("step") is None else coerce(loaded["step"], number, f"{where}: step")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"{where}: low {low} is not below high {high}; exchange them, or give a list")
    if log and low <= 0:
        raise UserError(f"{where}: low is {low}, which has no logarithm; set it above 0, or remove `log`")
    if step is not None and not 0 < step <= high - low:
        raise UserError(f"{where}: step is {step}; it must be above 0 and at most high - low")
    if log and step is not None:
        raise UserError(f"{where}: log and step exclude each other; remove one of them, or give a list")
    return Range(low, high, log, step)


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else ()


def read_group(loaded: Any, where: str) -> dict[str, Any]:
    """The flat settings of `settings` or of a variant. Rejects those that the sweep chooses itself."""
    if not isinstance(loaded, dict):
        raise UserError(f"{where} is {loaded!r}; expected lines of `name: value`")
    values = check_settings(loaded, where, TrainSettings)
    for name in ("out_dir", "resume"):
        if name in values:
            raise UserError(f"{where}: {name} is chosen by the sweep; remove it (--out-dir names its folder)")
    return values


def choices(axis: Axis) -> list[Any]:
    """The values of an axis of a grid."""
    return axis.values() if isinstance(axis, Range) else axis


def grid_points(axes: dict[str, Axis]) -> list[Point]:
    """All combinations in the order of the axes, the last varying fastest; the seed slowest of all.

    So every combination runs once before any is repeated with another seed.
    """
    order = sorted(axes, key=lambda name: name != "seed")
    products = itertools.product(*(choices(axes[name]) for name in order))
    points = [dict(zip(order, values, strict=True)) for values in products]
    return [{name: point[name] for name in axes} for point in points]


def number_of_points(axes: dict[str, Axis]) -> int | None:
    """The number of combinations, None if there is no end of them."""
    if any(
        isinstance(axis, Range) and axis.step is None and isinstance(axis.low, float)
        for axis in axes.values()
    ):
        return None
    return math.prod(_length(axis) for axis in axes.values())


def _length(axis: Axis) -> int:
    if not isinstance(axis, Range):
        return len(axis)
    return int(axis.high - axis.low) + 1 if axis.step is None else axis.count()


def corner_points(axes: dict[str, Axis]) -> list[Point]:
    """Points at which to check the settings of a search: combinations of the choices and the ends of the ranges.

    Of more than MOST_POINTS combinations, those that differ from the first in one setting."""
    ends: dict[str, Axis] = {
        name: axis.ends() if isinstance(axis, Range) else axis for name, axis in axes.items()
    }
    if math.prod(len(choices(axis)) for axis in ends.values()) <= MOST_POINTS:
        return grid_points(ends)
    first = {name: choices(axis)[0] for name, axis in ends.items()}
    return [first, *(first | {name: value} for name, axis in ends.items() for value in choices(axis)[1:])]


def point_key(point: Point) -> str:
    """Identifies a point in the storage; equal for equal values, in whatever order."""
    return json.dumps(point, sort_keys=True, ensure_ascii=False)


def describe(point: Point) -> str:
    """ "learning_rate 0.001, variant post-norm" """
    shown = {name: f"{v:g}" if isinstance(v, float) else str(v) for name, v in point.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def check_grid(axes: dict[str, Axis], where: str) -> None:
    """Raises UserError if the axes are not those of a grid."""
    for name, axis in axes.items():
        if isinstance(axis, Range) and axis.step is None:
            raise UserError(
                f"{where}: {name} is a range without step, which a grid cannot list; add step, give a list, or choose "
                "another search, such as random"
            )
    number = number_of_points(axes) or 0
    if number > MOST_POINTS:
        raise UserError(
            f"{where}: the grid has {number:,} points, more than {MOST_POINTS:,}; shorten the lists, or use search: random"
        )


def axes_with_variants(space: dict[str, Axis], variants: dict[str, dict[str, Any]]) -> dict[str, Axis]:
    """The axes of the search, with the names of the variants as the first."""
    first: dict[str, Axis] = {VARIANT: list(variants)} if variants else {}
    return first | space
