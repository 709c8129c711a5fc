"""What may change between two starts of a sweep: the budget, the page, and more choices or variants of a grid.

Input: the specifications of both starts as dictionaries (`Specification.as_dict`). Anything else is an error that names
the difference, because the finished trials would not be comparable with the new ones.
"""

from typing import Any

from lmfast.errors import UserError

FREE = ("budget", "page")


def reject_changes(before: dict[str, Any], now: dict[str, Any], where: str) -> None:
    """Raises UserError naming the first difference that would make it another sweep. where: the sweep's folder."""
    grid = before["search"] == now["search"] == "grid"
    for name in now:
        if name in FREE or (grid and name in ("space", "variants", "seed")):
            continue
        if name in ("settings", "space", "variants"):
            _reject_in(before[name], now[name], name, where)
        elif before[name] != now[name]:
            raise _changed(where, name, before[name], now[name])
    if grid:
        _reject_in_grid(before["space"], now["space"], where)
        for name in before["variants"].keys() & now["variants"].keys():
            _reject_in(before["variants"][name], now["variants"][name], f"variant {name}", where)
        _reject_removed(list(before["variants"]), list(now["variants"]), "variants", where)
        if bool(before["variants"]) != bool(now["variants"]):
            raise _changed(where, "variants", list(before["variants"]), list(now["variants"]))


def _reject_in(before: dict[str, Any], now: dict[str, Any], part: str, where: str) -> None:
    for name in {**before, **now}:
        old, new = before.get(name, "not set"), now.get(name, "not set")
        if old != new:
            raise _changed(where, f"{part}: {name}", old, new)


def _reject_in_grid(before: dict[str, Any], now: dict[str, Any], where: str) -> None:
    if before.keys() != now.keys():
        raise _changed(where, "space", ", ".join(before), ", ".join(now))
    for name in now:
        old, new = before[name], now[name]
        if isinstance(old, dict) or isinstance(new, dict):
            if old != new:
                raise _changed(where, f"space: {name}", old, new)
        else:
            _reject_removed(old, new, f"space: {name}", where)


def _reject_removed(before: list[Any], now: list[Any], part: str, where: str) -> None:
    removed = [value for value in before if value not in now]
    if removed:
        raise UserError(
            f"{where}: the sweep was started with {removed[0]} in {part}, which is now missing; put it back, or choose "
            "another --out-dir"
        )


def _changed(where: str, name: str, old: Any, new: Any) -> UserError:
    return UserError(
        f"{where}: the sweep was started with {name} = {old}, not {new}; restore it, or choose another --out-dir"
    )
