"""The best settings of a sweep: as YAML, the command that trains them longer, whether they are at an edge."""

import math
import shlex
from pathlib import PurePath
from typing import Any

import yaml

from lmfast.sweeps.axes import numbers_of
from lmfast.sweeps.groups import Group, finite, resolved, varying
from lmfast.sweeps.trials import Results
from lmfast.sweeps.wording import setting_text

LONGER = 4  # times the length of the trials
LENGTHS = ("total_tokens", "max_iters", "max_minutes")
NOT_COPIED = {"seed", "out_dir", "resume", "config"}


def best_config(results: Results, group: Group) -> str:
    """The settings of a group as a settings file, without the seed and the run folder."""
    values = {
        name: _plain(value) for name, value in resolved(results, group).items() if name not in NOT_COPIED
    }
    values = {name: value for name, value in values.items() if value is not None or name not in LENGTHS}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def longer_command(results: Results, group: Group) -> str:
    """The command line that trains the settings, saved as best.yaml, four times as long as the trials."""
    settings = resolved(results, group)
    command = f"lmfast train --config best.yaml --out-dir {shlex.quote(f'runs/{results.name}-best')}"
    for name in LENGTHS:
        length = finite(settings.get(name))
        if length is not None:
            longer = LONGER * length
            shown = f"{longer:g}" if name == "max_minutes" else f"{math.ceil(longer)}"
            return f"{command} --{name.replace('_', '-')} {shown}"
    return command


def fixed_decay(results: Results, group: Group) -> bool:
    """Whether the learning rate schedule has a length of its own, which a longer run must change too."""
    return resolved(results, group).get("lr_decay_iters") is not None


def edge_notes(results: Results, groups: list[Group], best: Group) -> list[str]:
    """A sentence for each numeric setting whose best value is the smallest or the largest tried; not for run lengths."""
    notes = []
    for name in varying(groups):
        values, value = numbers_of(results, groups, name), finite(best.values.get(name))
        if name in LENGTHS or len(values) < 3 or value not in (values[0], values[-1]):
            continue
        end, other = ("smallest", "smaller") if value == values[0] else ("largest", "larger")
        notes.append(
            f"The best {name}, {setting_text(best.values[name])}, is the {end} one tried; {other} ones may be better."
        )
    return notes


def _plain(value: Any) -> Any:
    """A value that YAML can write: numbers of numpy and paths become those of Python."""
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        return value.item()
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)
