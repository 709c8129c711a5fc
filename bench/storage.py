"""Saved runs: where pytest-benchmark keeps them, and which of them a run may be compared with.

A folder holds runs of one host, one device, as many cores, and one mode (`--quick`, `--full` or neither), so the last
one in it is a fair baseline. In: that folder. Out: runs as dictionaries, oldest first; per benchmark the last run
that has it.
"""

import json
from pathlib import Path

from bench.machine import ROOT, slug

FOLDER = ROOT / ".benchmarks"


def run_folder(host: str, device: str, cores: int, mode: str) -> Path:
    """Runs of this host, device and mode, with as many cores: virtual machines of every size call themselves the same."""
    return FOLDER / slug(f"{host} {device} {cores} cores {mode}")


def saved_runs(folder: Path) -> list[dict]:
    """All runs below a folder, oldest first, each with its `source` (file name); what is no run is passed over."""
    runs = []
    for path in sorted(folder.rglob("*.json"), key=lambda path: path.name):
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(run, dict) and {"benchmarks", "machine_info"} <= run.keys():
            runs.append(run | {"source": path.stem})
    return runs


def last_results(runs: list[dict]) -> dict[str, dict]:
    """{benchmark: its result in the last run that has it, with that run's `source`}."""
    return {
        result["fullname"]: result | {"source": run["source"]} for run in runs for result in run["benchmarks"]
    }


def last_whole(runs: list[dict]) -> dict:
    """The last run that was not of a selection (pytest's -k, say), or the last one where all were."""
    whole = [run for run in runs if not run["machine_info"].get("selection")]
    return (whole or runs)[-1]
