"""The one training loop. It knows steps, not what they teach: objective and batches come from outside.

A step is a pure function of the weights, the seed and the step's number: the batch and the dropout are derived from
(seed, step), so a run that was stopped anywhere and resumed goes on to the same weights as one that never was.
Nothing in a step waits for the device; the host looks at a number only when it is logged. Several ranks (see
distributed.py) run this same loop, each on its slice of every batch.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lmfast.training.clock import Clock
from lmfast.training.distributed import SINGLE_PROCESS, Ranks
from lmfast.training.interfaces import BatchSource, Objective
from lmfast.training.intervals import Intervals
from lmfast.training.loss_scale import LossScale
from lmfast.training.optimizers import Optimizer
from lmfast.training.run_plan import Hooks, Plan, Progress
from lmfast.training.sinks import Sinks
from lmfast.training.step import Stepper


def train_loop(
    model: torch.nn.Module,
    optimizer: Optimizer,
    objective: Objective,
    loss_fn: Callable[..., Tensor],
    batches: BatchSource,
    plan: Plan,
    progress: Progress,
    sinks: Sinks,
    hooks: Hooks,
    ranks: Ranks = SINGLE_PROCESS,
    loss_scale: LossScale | None = None,
) -> bool:
    """Takes steps progress.step + 1 … until max_iters or the time is up, whichever comes first; returns False when
    `should_stop` ended it before the last.

    loss_fn: `objective.loss`, perhaps compiled. batches: the first dimension of a step's rows divides into its forward
    passes (plan.batch). loss_scale: of fp16.
    """
    clock = Clock(progress.seconds, next(model.parameters()).device)
    stepper = Stepper(model, optimizer, objective, loss_fn, plan, ranks, loss_scale, progress.step)
    intervals = Intervals(
        model, batches, plan, progress, sinks, hooks, ranks, clock, stepper.guard, loss_scale
    )
    model.train()
    first = progress.step + 1

    def ends(step: int) -> bool:
        return progress.out_of_time or (plan.max_iters is not None and step >= plan.max_iters)

    while not ends(progress.step):
        step = progress.step + 1
        time_share = 0.0
        if (limit := plan.max_seconds) is not None:  # by one clock
            time_share = ranks.from_first(lambda: clock.share_after_next_step(limit))
        progress.out_of_time = time_share >= 1
        last = ends(step)
        learning_rate = plan.learning_rate(step, time_share)
        rows = batches.step(step - 1)
        taken = stepper.take(step, rows, learning_rate)

        tokens = rows.shape[0] * (rows.shape[1] - 1)
        progress.step = step
        progress.tokens += tokens
        clock.step_done(tokens)
        if step == first and hooks.first_step is not None and clock.first_step_seconds is not None:
            hooks.first_step(clock.first_step_seconds)
        if hooks.forecast is not None and hooks.forecast.wants(step):
            hooks.forecast(step, clock.training_seconds(), progress.tokens)
        if intervals.after_step(taken, last):
            return False
    return True
