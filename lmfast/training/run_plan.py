"""What the training loop is given: when what happens (`Plan`), how far a run is (`Progress`), what it calls (`Hooks`)."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lmfast.data.batch_ramp import BatchRamp
from lmfast.training.forecast import Forecast
from lmfast.training.interfaces import Evaluate


@dataclass(frozen=True)
class Plan:
    """When what happens: the loop's share of the settings, everything derived."""

    max_iters: int | None  # None: the clock alone ends the run
    max_seconds: float | None  # of the whole run over its stops, what comes after the last step included
    batch: BatchRamp  # forward passes of each step
    learning_rate: Callable[[int, float], float]  # (step, share of max_seconds used when it is done)
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


class Peak(NamedTuple):
    """The rate that MFU is a share of, and where the number is from."""

    flops: float  # per second, of one device
    source: str

    def __str__(self) -> str:
        return f"{self.flops / 1e12:.3g} TFLOP/s ({self.source})"


@dataclass
class Progress:
    """What a checkpoint must remember besides weights and optimizer."""

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
    """What the loop calls at its intervals; each is optional."""

    evaluate: Evaluate | None = None  # → {val_loss, bits_per_byte}
    checkpoint: Callable[[Progress], bool] | None = None  # → whether it was written
    sample: Callable[[int], tuple[str | None, dict[str, float]]] | None = None  # step → text, its statistics
    first_step: Callable[[float], None] | None = None  # told what the first step took, in seconds
    forecast: Forecast | None = None  # told the training seconds and tokens after two of the steps
    metrics: Callable[[], dict[str, float]] = field(default=dict)  # more of them for each line of metrics
    should_stop: Callable[[], bool] = field(default=lambda: False)  # asked after each step
