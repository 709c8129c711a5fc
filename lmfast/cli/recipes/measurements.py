"""The measurements that estimates need, from calibration.py in a process of its own, which imports torch.

Input: jobs. Output: {stage: measurements}. Kept in FOLDER/.recipe/calibration.json until a job changes.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from lmfast.cli.recipes.jobs import Job, write_jobs
from lmfast.cli.recipes.records import RECORDS
from lmfast.files import atomic_write

Measured = dict[str, dict[str, float]]


def measure(jobs: Mapping[str, Job]) -> Measured:
    """Runs calibration.py for the jobs; without measurements if it fails."""
    code = (
        "from lmfast.model.torch_environment import set_environment; set_environment(); "
        "from lmfast.cli.recipes.calibration import main; main()"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, input=write_jobs(jobs), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
    )  # fmt: skip
    try:
        return json.loads(done.stdout)
    except ValueError:
        return {}


def measurements(folder: Path, jobs: dict[str, Job], keep: bool) -> Measured:
    """The measurements of the jobs, those of an earlier call if nothing changed."""
    if not jobs:
        return {}
    path = folder / RECORDS / "calibration.json"
    key = json.loads(write_jobs(jobs))["jobs"]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        saved = json.loads(path.read_text(encoding="utf-8"))
        if all(saved["jobs"].get(name) == job for name, job in key.items()):
            return saved["measured"]
    print(f"measuring {', '.join(jobs)} for a few seconds", flush=True)
    measured = measure(jobs)
    if keep and measured:
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps({"jobs": key, "measured": measured}, indent=1), encoding="utf-8")
    return measured
