"""Reads the file that describes a sweep (docs/guides/sweep.md) into a `Specification`.

Input: a YAML file with base, settings, search, space, variants, metric, direction, pruner, budget, page and seed. Rejects
unknown names (with suggestions), wrong types, settings given in two places, and searches without an end. Whether the
settings of the trials work together is checked in checking.py. Imports neither torch nor optuna.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lmfast.errors import UserError
from lmfast.settings import (
    CONFIGS,
    TrainSettings,
    coerce,
    find_config,
    load_yaml,
    one_run_length,
    read_yaml,
    replace_flat,
    setting_aliases,
)
from lmfast.suggestions import nearest, remedy
from lmfast.sweeps.space import (
    LARGEST,
    Axis,
    Point,
    Range,
    axes_with_variants,
    check_grid,
    corner_points,
    grid_points,
    read_group,
    read_space,
)
from lmfast.sweeps.trials import VARIANT, Direction

SEARCHES = ("grid", "random", "tpe", "gp", "qmc", "cmaes")
PRUNERS = ("none", "median", "hyperband", "successive_halving")
DIRECTIONS = ("minimize", "maximize")
METRICS = ("val_loss", "train_loss", "bits_per_byte", "tokens_per_second", "mfu", "grad_norm", "seconds")
"""metrics of every run, for suggestions; a run may have others"""
NUMERIC = {"qmc", "cmaes"}
"""searches that choose among numbers only; they pick from a list at random"""
KEYS = (
    *("base", "settings", "search", "space", "variants", "metric", "direction", "pruner"),
    *("budget", "page", "seed"),
)


@dataclass(frozen=True)
class Budget:
    """Limits, None for none. tokens: planned tokens of all trials. minutes: running time of the command."""

    trials: int | None = None
    tokens: int | None = None
    minutes: float | None = None


@dataclass(frozen=True)
class Specification:
    """A sweep, checked. settings: those of the base file and the fixed ones, flat."""

    settings: dict[str, Any]
    search: str
    space: dict[str, Axis]
    variants: dict[str, dict[str, Any]]
    metric: str
    direction: Direction
    pruner: str
    budget: Budget
    page: dict[str, Any]
    seed: int = 0
    largest: int | None = None
    """the batch size that the word `largest` stands for, once it is known"""
    axes: dict[str, Axis] = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "axes", axes_with_variants(self._numbers(), self.variants))

    def _numbers(self) -> dict[str, Axis]:
        """`space` with a number for the word `largest`, if it is known."""
        sizes = self.space.get("batch_size")
        if self.largest is None or not isinstance(sizes, list):
            return self.space
        known: dict[str, Axis] = {
            "batch_size": list(dict.fromkeys(self.largest if v == LARGEST else v for v in sizes))
        }
        return self.space | known

    def wants_largest(self) -> bool:
        sizes = self.space.get("batch_size")
        return isinstance(sizes, list) and LARGEST in sizes

    def points(self) -> list[Point]:
        """The points of a grid, in the order in which they run."""
        return grid_points(self.axes)

    def points_to_check(self) -> list[Point]:
        """All points of a grid; of a search, the corners of its space."""
        return self.points() if self.search == "grid" else corner_points(self.axes)

    def flat(self, point: Point) -> dict[str, Any]:
        """The flat settings of a trial: shared ones, then those of its variant, then the searched ones."""
        values = {name: value for name, value in point.items() if name != VARIANT}
        return self.settings | self.variants.get(point.get(VARIANT, ""), {}) | one_run_length(values)

    def train_settings(self, point: Point) -> TrainSettings:
        return replace_flat(TrainSettings(), self.flat(point))

    def as_dict(self) -> dict[str, Any]:
        """The content of a sweep file that reads back as this specification."""
        space = {
            name: axis.as_dict() if isinstance(axis, Range) else axis for name, axis in self.space.items()
        }
        budget = {name: value for name, value in dataclasses.asdict(self.budget).items() if value is not None}
        return {
            "settings": {name: value for name, value in self.settings.items() if name not in self.space},
            "search": self.search,
            "space": space,
            "variants": self.variants,
            "metric": self.metric,
            "direction": self.direction,
            "pruner": self.pruner,
            "budget": budget,
            "page": self.page,
            "seed": self.seed,
        }


def find_sweep(name: str) -> Path:
    """Path of a sweep file, given by path or by the name of a built-in one (a file in configs/sweeps/)."""
    return find_config(name, CONFIGS / "sweeps", "sweep file")


def read_specification(path: Path) -> Specification:
    """Reads and checks a sweep file. Raises UserError."""
    loaded = load_yaml(path)
    for key in loaded:
        if key not in KEYS:
            near = remedy(str(key), KEYS, dashes="")
            raise UserError(f"{path}: unknown '{key}'; {near or 'a sweep has ' + ', '.join(KEYS)}")
    parts = {
        name: _mapping(loaded, name, path) for name in ("settings", "space", "variants", "budget", "page")
    }
    fixed = read_group(parts["settings"], f"{path}: settings")
    base = _base(loaded.get("base"), fixed, path)
    space = read_space(parts["space"], f"{path}: space")
    variants = {
        str(name): _variant(group, base, f"{path}: variants: {name}", path)
        for name, group in parts["variants"].items()
    }
    metric = coerce(loaded.get("metric", "val_loss"), str, f"{path}: metric")
    if metric not in METRICS and (near := nearest(metric, METRICS)):
        raise UserError(f"{path}: unknown metric '{metric}'; did you mean {near}?")
    search = _one_of(loaded, "search", SEARCHES, path)
    found = Specification(
        settings=base | one_run_length(fixed),
        search=search,
        space=space,
        variants=variants,
        metric=metric,
        direction="maximize" if _one_of(loaded, "direction", DIRECTIONS, path) == "maximize" else "minimize",
        pruner=_one_of(loaded, "pruner", PRUNERS, path),
        budget=_budget(parts["budget"], f"{path}: budget"),
        page=_page(parts["page"], f"{path}: page"),
        seed=_seed(loaded.get("seed", 0), f"{path}: seed"),
    )
    _check_parts(found, fixed, path)
    return found


def write_specification(path: Path, specification: Specification) -> None:
    """Writes a sweep file with everything resolved: no base, no words for numbers. Reads back as an equal sweep."""
    content = specification.as_dict()
    numbers = {k: v for k, v in specification.axes.items() if k != VARIANT}
    content["space"] = {k: v.as_dict() if isinstance(v, Range) else v for k, v in numbers.items()}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def _mapping(loaded: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    value = loaded.get(name)
    if value is not None and not isinstance(value, dict):
        raise UserError(f"{path}: {name} is {value!r}; expected lines of `name: value`")
    return value or {}


def _one_of(loaded: dict[str, Any], key: str, known: tuple[str, ...], path: Path) -> str:
    """The value of a key, by default the first of the known ones."""
    value = str(loaded.get(key) if loaded.get(key) is not None else known[0])
    if value not in known:
        near = remedy(value.lower(), known, dashes="")
        raise UserError(f"{path}: unknown {key} '{value}'; {near or 'use ' + ' or '.join(known)}")
    return value


def _base(name: Any, fixed: dict[str, Any], path: Path) -> dict[str, Any]:
    """The flat settings of the base file. Without one, those that `lmfast train` starts from."""
    if name is None:
        own_data = fixed.get("train_data_path") is not None
        return {} if own_data else read_yaml(CONFIGS / "quickstart.yaml", TrainSettings)
    if not isinstance(name, str):
        raise UserError(f"{path}: base is {name!r}; expected the name of one settings file")
    values = read_yaml(_settings_file(name, f"{path}: base", path), TrainSettings)
    return {key: value for key, value in values.items() if key not in ("out_dir", "resume")}


def _settings_file(name: str, where: str, path: Path) -> Path:
    sibling = path.parent / name
    try:
        return sibling if sibling.is_file() else find_config(name)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _variant(group: Any, base: dict[str, Any], where: str, path: Path) -> dict[str, Any]:
    """The settings of a variant, given as such or as a settings file: of a file those that differ from the base."""
    if isinstance(group, str):
        values = read_yaml(_settings_file(group, where, path), TrainSettings)
        values = {key: value for key, value in values.items() if key not in base or base[key] != value}
        return read_group(values, where)
    return one_run_length(read_group({} if group is None else group, where))


def _seed(value: Any, where: str) -> int:
    seed = coerce(value, int, where)
    if not 0 <= seed < 2**32:
        raise UserError(f"{where} is {seed}; it must be from 0 to {2**32 - 1}")
    return seed


def _budget(loaded: dict[str, Any], where: str) -> Budget:
    known = {"trials": int, "tokens": int, "minutes": float}
    values = {}
    for key, value in loaded.items():
        if key not in known:
            near = remedy(str(key), known, dashes="")
            raise UserError(f"{where}: unknown '{key}'; {near or 'a budget has trials, tokens and minutes'}")
        values[key] = coerce(value, known[key], f"{where}: {key}")
        if not (values[key] > 0 and math.isfinite(values[key])):
            raise UserError(f"{where}: {key} is {value}; it must be a number above 0")
    return Budget(**values)


def _page(loaded: dict[str, Any], where: str) -> dict[str, Any]:
    """The options of the page, with the full names of settings."""
    aliases, known = setting_aliases(TrainSettings), ("x", "lines", "fit")
    for key, value in loaded.items():
        if key not in known:
            near = remedy(str(key), known, dashes="")
            raise UserError(f"{where}: unknown '{key}'; {near or 'a page has x, lines and fit'}")
        if key == "fit" and value != "scaling_law":
            raise UserError(f"{where}: fit is {value}; the only one is scaling_law")
    return {key: aliases.get(str(value), value) for key, value in loaded.items()}


def _check_parts(found: Specification, fixed: dict[str, Any], path: Path) -> None:
    """Raises UserError for parts that do not fit together."""
    if not found.axes:
        raise UserError(f"{path}: nothing is searched; add `space` with a list of values for a setting")
    varied = [*found.axes, *(name for group in found.variants.values() for name in group)]
    for key in ("x", "lines"):
        if found.page.get(key, varied[0]) not in varied:
            raise UserError(
                f"{path}: page: {key} is {found.page[key]}, which the trials share; choose one of "
                + ", ".join(dict.fromkeys(varied))
            )
    for name in found.space:
        if name in fixed:
            raise UserError(f"{path}: {name} is in `settings` and in `space`; remove one of them")
        for variant, group in found.variants.items():
            if name in group:
                raise UserError(
                    f"{path}: {name} is in `space` and in the variant {variant}; remove one of them"
                )
    if found.search == "grid":
        check_grid(found.axes, f"{path}: space")
        return
    if found.budget == Budget():
        raise UserError(
            f"{path}: search {found.search} has no end without a budget; add for example budget: {{trials: 20}}"
        )
    if found.search in NUMERIC and not any(isinstance(axis, Range) for axis in found.space.values()):
        raise UserError(
            f"{path}: search {found.search} needs a range of numbers, and `space` has only lists; use grid or tpe"
        )
