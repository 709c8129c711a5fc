"""Learning-rate schedules over steps, time, or both.

Input: the optimizer step (from 1) and the fraction of `max_minutes` used after it (0 without a limit). Output: the learning
rate of the step. The warmup is linear from 0 to `peak` over `warmup_iters` steps. After it, the rate depends on progress,
from 0 at the end of the warmup to 1 at `decay_iters` or at the time limit, whichever is further along, so a run ended by
the clock has a complete schedule. At progress 1 the rate is exactly `floor`. Sources: Loshchilov & Hutter 2017 (cosine);
Defazio et al. 2023 (linear to zero); Hu et al. 2024, arXiv:2404.06395 (warmup, stable, decay).
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
    """step at which `floor` is reached; None: only the clock decides"""
    decay_fraction: float = 0.2
    """wsd: fraction of the steps after the warmup in which the rate decays linearly"""

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
        """The rate at `progress`, scaled to 1 at `peak` and 0 at `floor`."""
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
