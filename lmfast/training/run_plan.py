"""Inputs of the training loop: its settings (`Plan`), the state of the run (`Progress`) and its callbacks (`Hooks`)."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lmfast.data.batch_ramp import BatchRamp
from lmfast.training.forecast import Forecast
from lmfast.training.interfaces import Background, Evaluate


@dataclass(frozen=True)
class Plan:
    """The settings that the loop uses, with all derived values filled in."""

    max_iters: int | None  # None: only max_seconds ends the run
    max_seconds: float | None  # for the whole run across resumptions, including the work after its last step
    batch: BatchRamp  # forward passes of each step
    learning_rate: Callable[[int, float], float]  # (step, fraction of max_seconds used by its end)
    grad_clip: float
    seed: int
    bf16: bool
    log_interval: int
    eval_interval: int
    checkpoint_interval: int
    sample_interval: int
    flops_per_token: float
    peak_flops: float
    fp16: bool = False
    tasks_interval: int = 0


class Peak(NamedTuple):
    """The rate that MFU divides by, and its source."""

    flops: float  # per second, of one device
    source: str

    def __str__(self) -> str:
        return f"{self.flops / 1e12:.3g} TFLOP/s ({self.source})"


@dataclass
class Progress:
    """State of a run that a checkpoint stores besides weights and optimizer."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_val_loss: float | None = None
    best_step: int | None = None
    out_of_time: bool = False

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass
class Hooks:
    """Callbacks of the loop; each is optional."""

    evaluate: Evaluate | None = None  # → {val_loss, bits_per_byte}
    evaluate_tasks: Evaluate | None = None  # → {task/metric}
    checkpoint: Callable[[Progress], bool] | None = None  # → whether it was written, or has begun
    background: Background | None = None  # if it writes checkpoints in the background
    sample: Callable[[int], tuple[str | None, dict[str, float]]] | None = None  # step → text, its statistics
    begin_step: Callable[[], None] | None = None  # called before each step
    first_step: Callable[[float], None] | None = None  # called with the first step's duration in seconds
    forecast: Forecast | None = None  # called after two of the steps, with training seconds and tokens
    metrics: Callable[[], dict[str, float]] = field(default=dict)  # more values for a line of metrics
    should_stop: Callable[[], bool] = field(default=lambda: False)  # called after each step
