"""How a training run ended: from its exit code, its output and its metrics.

A run has diverged if `lmfast train` gave up because the loss was not finite, if the metric of its last step is not finite,
or if its training loss rose above RISE times that of a uniform guess, ln(vocab_size): the end of the schedule may bring such
a loss down again, but not to that of a good model.
"""

import math
import re
from pathlib import Path
from typing import Any

from lmfast.settings import read_model
from lmfast.sweeps.study import Outcome
from lmfast.training.run_folder import read_metrics

GAVE_UP = re.compile(r"loss not finite for \d+ steps in a row")
"""in the message of a run that diverged (training/intervals.py)"""
RISE = 2.0
LOSSES = ("val_loss", "train_loss", "bits_per_byte")
NOT_FINITE = "is not finite; use an older checkpoint"
"""in the message of a run that was killed when its weights were no longer finite, and then resumed (training/weights.py)"""
TAIL_BYTES = 8192


def outcome(code: int, log: Path, folder: Path, metric: str) -> Outcome:
    """The outcome of a run that ended by itself with exit code `code`."""
    message = last_message(log)
    if code == 0:
        metrics = read_metrics(folder)
        rose = _rise(metrics, folder) if metric in LOSSES else ""
        return Outcome("diverged", message=rose) if rose else _final(metrics, metric)
    own_weights = NOT_FINITE in message and message.startswith(str(folder))
    if own_weights or GAVE_UP.search(message):
        return Outcome("diverged", message=message)
    return Outcome("failed", message=message or f"exit code {code} without a message; see {log}")


def _rise(metrics: list[dict[str, Any]], folder: Path) -> str:
    """That the training loss rose too far, or nothing."""
    if not (folder / "config.yaml").is_file():
        return ""
    uniform = math.log(read_model(folder).vocab_size)
    loss, step = max(
        ((line["train_loss"], line["step"]) for line in metrics if "train_loss" in line), default=(0, 0)
    )
    if loss <= RISE * uniform:
        return ""
    return f"the loss rose to {loss:.4g} at step {step}; a uniform guess has {uniform:.4g}"


def _final(metrics: list[dict[str, Any]], metric: str) -> Outcome:
    values = [(line["step"], line[metric]) for line in metrics if metric in line]
    if values and values[-1][0] == metrics[-1]["step"]:
        return Outcome("complete", values[-1][1])
    # metrics.jsonl has finite values only.
    if values or (metric in LOSSES and any("skipped_steps" in line for line in metrics)):
        return Outcome("diverged", message=f"{metric} is not finite at the end of the run")
    names = sorted({name for line in metrics for name in line} - {"step", "tokens"})
    return Outcome("failed", message=f"the run has no metric {metric}; it has {', '.join(names)}")


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
