"""How a training run ended: from its exit code, its output and its metrics.

A run has diverged if `lmfast train` gave up because the loss was not finite, or if the metric of its last step is not.
"""

import re
from pathlib import Path
from typing import Any

from lmfast.sweeps.study import Outcome
from lmfast.training.run_folder import read_metrics

GAVE_UP = re.compile(r"loss not finite for \d+ steps in a row")
"""in the message of a run that diverged (training/intervals.py)"""
TAIL_BYTES = 8192


def outcome(code: int, log: Path, folder: Path, metric: str) -> Outcome:
    """The outcome of a run that ended by itself with exit code `code`."""
    message = last_message(log)
    if code == 0:
        return _final(read_metrics(folder), metric)
    if GAVE_UP.search(message):
        return Outcome("diverged", message=message)
    return Outcome("failed", message=message or f"exit code {code} without a message; see {log}")


def _final(metrics: list[dict[str, Any]], metric: str) -> Outcome:
    values = [(line["step"], line[metric]) for line in metrics if metric in line]
    if values and values[-1][0] == metrics[-1]["step"]:
        return Outcome("complete", values[-1][1])
    # metrics.jsonl has finite values only.
    if values or (metric in ("val_loss", "train_loss", "bits_per_byte") and _evaluated(metrics)):
        return Outcome("diverged", message=f"{metric} is not finite at the end of the run")
    names = sorted({name for line in metrics for name in line} - {"step", "tokens"})
    return Outcome("failed", message=f"the run has no metric {metric}; it has {', '.join(names)}")


def _evaluated(metrics: list[dict[str, Any]]) -> bool:
    return any("skipped_steps" in line for line in metrics)


def last_message(log: Path) -> str:
    """The last line that a run printed, without "error: "."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else ""


def reported(folder: Path, metric: str, after: int) -> list[tuple[int, float]]:
    """(step, value) of the metric in a run's log, of the steps later than `after`."""
    lines = read_metrics(folder)
    return [(line["step"], line[metric]) for line in lines if metric in line and line["step"] > after]
