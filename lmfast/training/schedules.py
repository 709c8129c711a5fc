"""The learning rate as a function of how far a run has come: in steps, in time, or both.

In: the number of the optimizer step, the first being 1, and the share of `max_minutes` that is used up when the step
is done (0 without such a limit). Out: the step's learning rate. A warm-up counts steps: linear from 0 to `peak` over
`warmup_iters`. What follows depends on progress alone, from 0 at the warm-up's end to 1 at `decay_iters` or when the
time is up, whichever is further, so a run that a clock ends has had its whole schedule. At progress 1 the rate is
`floor` exactly. Sources: Loshchilov & Hutter 2017 (cosine); Defazio et al. 2023 (linear to zero); Hu et al. 2024,
arXiv:2404.06395 (warm-up, stable, decay).
"""

import math
from dataclasses import dataclass
from typing import Literal

from lmfast.settings import OptimizerSettings

Kind = Literal["cosine", "linear", "wsd"]


@dataclass(frozen=True)
class Schedule:
    """schedule(step, time_share) → learning rate."""

    kind: Kind
    peak: float
    floor: float
    warmup_iters: int
    decay_iters: int | None
    """step at which `floor` is reached; None leaves it to the clock"""
    decay_fraction: float = 0.2
    """wsd: share of what follows the warm-up in which the rate falls, linearly"""

    def __call__(self, step: int, time_share: float = 0.0) -> float:
        progress = max(self._progress_in_steps(step), min(1.0, time_share))
        if progress >= 1:
            return self.floor
        warm = min(1.0, step / self.warmup_iters) if self.warmup_iters else 1.0
        return warm * (self.floor + self._height(progress) * (self.peak - self.floor))

    def _progress_in_steps(self, step: int) -> float:
        if self.decay_iters is None:
            return 0.0
        if step >= self.decay_iters:
            return 1.0
        if step <= self.warmup_iters:
            return 0.0
        return (step - self.warmup_iters) / (self.decay_iters - self.warmup_iters)

    def _height(self, progress: float) -> float:
        """1 at `peak`, 0 at `floor`."""
        if self.kind == "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        if self.kind == "linear":
            return 1 - progress
        return min(1.0, (1 - progress) / self.decay_fraction) if self.decay_fraction else 1.0


def make_schedule(opt: OptimizerSettings) -> Schedule:
    """The schedule that resolved settings describe."""
    assert opt.min_lr is not None, "not resolved"
    return Schedule(
        opt.schedule,
        opt.learning_rate,
        opt.min_lr,
        opt.warmup_iters,
        opt.lr_decay_iters,
        opt.decay_fraction,
    )
