"""Saved results: the one schema of the suite (`pytest bench/`), the tables of targets and everything measured on a GPU.

A file holds a Run as JSON: the table's name, the machine (machine.describe), when, settings, and Rows. A row keeps what
was measured: every time taken, in seconds, by name ("ours" and peers). Rates, ratios and verdicts are computed from that.
Fields with their default values are not written. Nothing is measured here.
"""

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path

from bench import machine
from bench.timing import Ratio, ratio
from lmfast.errors import UserError
from lmfast.files import atomic_write

RESULTS = machine.ROOT / "bench" / "results"
WRONG, FAILED = "WRONG", "FAILED"


@dataclass(frozen=True)
class Peer:
    """Another implementation: median seconds for the work that we were timed on, and how many times as fast we are."""

    name: str
    seconds: float
    ratio: Ratio


@dataclass
class Row:
    """One thing that was measured.

    value: what `must` and `aim` are compared with (greater is better unless at_most); without `must` there is no
    target. shown: the result as text. predicted: what was expected before measuring. wrong: how the result differs
    from its reference, or why there is none; such a row meets no target. times: seconds per round. work: what one call
    does, {tokens, bytes, flops}. data: whatever else was measured; "share" is the part of our work that peers did."""

    name: str
    value: float
    shown: str = ""
    must: float | None = None
    aim: float | None = None
    at_most: bool = False
    predicted: str = ""
    wrong: str = ""
    group: str = ""
    times: dict[str, list[float]] = field(default_factory=dict)
    work: dict[str, float] = field(default_factory=dict)
    data: dict = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        return self.group, self.name

    @property
    def verdict(self) -> str:
        if self.wrong:
            return FAILED if self.wrong.startswith(FAILED) else WRONG

        def reaches(target: float) -> bool:
            return self.value <= target if self.at_most else self.value >= target

        if self.aim is not None and reaches(self.aim):
            return "aim"
        if self.must is None:
            return "-"
        return "must" if reaches(self.must) else "missed"

    @property
    def line(self) -> str:
        """The row as it is printed."""
        limit = "at most" if self.at_most else "at least"
        targets = "" if self.must is None else f" ({limit} {self.must}, aim {self.aim})"
        predicted = f" [predicted {self.predicted}]" if self.predicted else ""
        wrong = f" {self.wrong};" if self.wrong else ""
        return f"{self.verdict:>6}  {self.name}{targets}:{wrong} {self.shown}{predicted}"

    @property
    def ours(self) -> list[float]:
        """Our seconds for the work that the peers did."""
        share = self.data.get("share", 1)
        return [taken * share for taken in self.times["ours"]]

    @property
    def median(self) -> float:
        """Of our seconds."""
        return statistics.median(self.ours)

    @property
    def peers(self) -> list[Peer]:
        """All peers that were timed, the fastest first."""
        found = [
            Peer(name, statistics.median(taken), ratio(taken, self.ours))
            for name, taken in self.times.items()
            if name != "ours"
        ]
        return sorted(found, key=lambda peer: peer.ratio.median)

    def per_second(self, unit: str) -> float | None:
        """Tokens, bytes or FLOPs per second; None if they were not counted."""
        return self.work[unit] / self.median if unit in self.work else None


@dataclass
class Run:
    """A file of results. settings: what was chosen, such as the suite's mode and selection."""

    table: str
    machine: dict
    rows: list[Row]
    datetime: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    seconds: float = 0.0
    settings: dict = field(default_factory=dict)
    ceilings: dict[str, float] = field(default_factory=dict)
    source: str = ""  # name of the file

    @property
    def device(self) -> str:
        """ "AMD EPYC, 2 cores"."""
        return f"{self.machine['gpu'] or self.machine['cpu']}, {self.machine['cores']} cores"

    def as_dict(self) -> dict:
        """What is saved."""
        rows = [
            {f.name: getattr(row, f.name) for f in fields(Row) if getattr(row, f.name) not in (f.default, {})}
            for row in self.rows
        ]
        return {k: v for k, v in vars(self).items() if k != "source"} | {"rows": rows}


def write(path: Path, run: Run) -> None:
    """Writes the file in one step: readers see the old file or the new one."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(run.as_dict(), indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> Run:
    """Raises UserError for a file that is not a result file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        run = Run(**found | {"rows": [Row(**row) for row in found["rows"]], "source": path.stem})
        for row in run.rows:
            row.peers  # noqa: B018  computing them checks the times
        missing = machine.FIELDS - run.machine.keys()
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a file of results ({error!r}); name one that bench/ saved") from None
    if missing:
        raise UserError(f"{path}: does not say {', '.join(sorted(missing))}; name a file that bench/ saved")
    return run


def readable(paths: Iterable[Path]) -> list[Run]:
    """Those of the files that hold results."""
    runs = []
    for path in paths:
        try:
            runs.append(read(path))
        except UserError:
            continue
    return runs
