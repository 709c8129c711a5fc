"""Saved runs of the suite, and which of them a run may be compared with.

A folder holds runs of one host, one device, as many cores, and one mode (`--quick`, `--full` or neither), so the last
one in it is a fair baseline. In: that folder. Out: runs, oldest first; per benchmark the last run that has it.
"""

from collections.abc import Iterable
from pathlib import Path

from bench.machine import ROOT, slug
from bench.results import Row, Run, readable

FOLDER = ROOT / ".benchmarks"


def run_folder(host: str, device: str, cores: int, mode: str) -> Path:
    """Runs of this host, device and mode, with as many cores: virtual machines of every size report the same name."""
    return FOLDER / slug(f"{host} {device} {cores} cores {mode}")


def saved_runs(folder: Path) -> list[Run]:
    """All runs below a folder, oldest first; other files are skipped."""
    return readable(sorted(folder.rglob("*.json"), key=lambda path: path.name))


def last_rows(runs: Iterable[Run]) -> dict[tuple[str, str], tuple[Row, Run]]:
    """{key of a row: (the row, its run) in the last run that has it}."""
    return {row.key: (row, run) for run in runs for row in run.rows}


def last_whole(runs: list[Run]) -> Run:
    """The last run that was not of a selection (pytest's -k, say), or the last one where all were."""
    return ([run for run in runs if not run.settings.get("selection")] or runs)[-1]
