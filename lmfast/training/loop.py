"""The training loop shared by pretraining, SFT and DPO; the objective and the batches are arguments.

A step is a pure function of the weights, the seed and the step number: batch and dropout are derived from (seed, step),
so a resumed run reaches the same weights as an uninterrupted one. A step never waits for the device; the host reads
device values only when it logs them. With several ranks (parallel/), each runs this loop on its slice of every batch.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lmfast.training.clock import Clock
from lmfast.training.interfaces import BatchSource, Objective
from lmfast.training.intervals import Intervals
from lmfast.training.loss_scale import LossScale
from lmfast.training.optimizers import Optimizer
from lmfast.training.parallel.ranks import SINGLE_PROCESS, Ranks
from lmfast.training.parallel.sharded import Sharded
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
    sharded: Sharded | None = None,
) -> bool:
    """Takes steps progress.step + 1, … until max_iters or the time limit, whichever comes first. Returns False if
    `should_stop` ended the run before its last step.

    loss_fn: `objective.loss`, possibly compiled. batches: the number of rows of a step is divisible by the number of its
    forward passes (plan.batch). loss_scale: for fp16 only.
    """
    clock = Clock(progress.seconds, next(model.parameters()).device)
    stepper = Stepper(model, optimizer, objective, loss_fn, plan, ranks, loss_scale, progress.step, sharded)
    intervals = Intervals(
        model, batches, plan, progress, sinks, hooks, ranks, clock, stepper.guard, loss_scale
    )
    model.train()
    first = progress.step + 1

    def is_last(step: int) -> bool:
        return progress.out_of_time or (plan.max_iters is not None and step >= plan.max_iters)

    while not is_last(progress.step):
        step = progress.step + 1
        time_share = 0.0
        if (limit := plan.max_seconds) is not None:  # one clock for all ranks
            time_share = ranks.from_first(lambda: clock.share_after_next_step(limit))
        progress.out_of_time = time_share >= 1
        last = is_last(step)
        learning_rate = plan.learning_rate(step, time_share)
        rows = batches.step(step - 1)
        if hooks.begin_step is not None:
            hooks.begin_step()
        result = stepper.take(step, rows, learning_rate)

        tokens = rows.shape[0] * (rows.shape[1] - 1)
        progress.step = step
        progress.tokens += tokens
        clock.step_done(tokens)
        if step == first and hooks.first_step is not None and clock.first_step_seconds is not None:
            hooks.first_step(clock.first_step_seconds)
        if hooks.forecast is not None and hooks.forecast.wants(step):
            hooks.forecast(step, clock.training_seconds(), progress.tokens)
        if intervals.after_step(result, last):
            return False
    return True
