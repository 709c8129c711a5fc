"""The one training loop. It knows steps, not what they teach: objective and batches come from outside.

A step is a pure function of the weights, the seed and the step's number: the batch and the dropout are derived from
(seed, step), so a run that was stopped anywhere and resumed goes on to the same weights as one that never was.
Nothing in a step waits for the device; the host looks at a number only when it is logged. Several ranks (see
distributed.py) run this same loop, each on its slice of every batch.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmfast.data.batch_ramp import BatchRamp
from lmfast.data.batches import derive_seed
from lmfast.model.device import autocast
from lmfast.settings import selected_precision
from lmfast.training.clock import Clock
from lmfast.training.distributed import SINGLE_PROCESS, ParallelLoss, Ranks
from lmfast.training.finite_guard import PATIENCE, FiniteGuard
from lmfast.training.forecast import Forecast
from lmfast.training.interfaces import BatchSource, Evaluate, Objective
from lmfast.training.loss_scale import LossScale
from lmfast.training.optimizers import Optimizer
from lmfast.training.sinks import Sinks


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
    sample: Callable[[int], tuple[str | None, dict[str, float]]] | None = (
        None  # step → text, figures about it
    )
    first_step: Callable[[float], None] | None = None  # told what the first step took, in seconds
    forecast: Forecast | None = None  # told the training seconds and tokens after two of the steps
    metrics: Callable[[], dict[str, float]] = field(default=dict)  # more of them for each line of metrics
    should_stop: Callable[[], bool] = field(default=lambda: False)  # asked after each step


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

    loss_fn: `objective.loss`, perhaps compiled. batches: their rows divide into the step's forward passes (plan.batch).
    loss_scale: of fp16.
    """
    device = next(model.parameters()).device
    weights = [p for p in model.parameters() if p.requires_grad]
    precision = selected_precision(plan)
    parallel = ParallelLoss(ranks, model, loss_fn, lambda: autocast(device, precision))
    guard = FiniteGuard(device, progress.step)
    clock = Clock(progress.seconds, device)
    peak = plan.peak_flops
    model.train()
    first = progress.step + 1

    def ends(step: int) -> bool:
        return progress.out_of_time or (plan.max_iters is not None and step >= plan.max_iters)

    while not ends(progress.step):
        step = progress.step + 1
        time_share = 0.0
        if plan.max_seconds is not None:  # by one clock
            time_share = ranks.from_first(lambda: clock.share_after_next_step(plan.max_seconds))
        progress.out_of_time = time_share >= 1
        last = ends(step)
        lr = plan.learning_rate(step, time_share)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["rate"]
        # Each rank's rows get dropout masks of their own.
        torch.manual_seed(derive_seed(plan.seed, step, *([ranks.rank] if ranks.rank else [])))

        rows = batches.step(step - 1)
        passes = np.split(rows, plan.batch.passes_in(step - 1))
        scale = loss_scale.scale if loss_scale is not None else None
        loss = _accumulate(parallel, objective, passes, device, ranks, scale)
        limit = plan.grad_clip if plan.grad_clip > 0 else float("inf")
        # A step with a loss or gradient that is not finite is skipped inside the fused kernel: no host sync.
        if loss_scale is None:
            norm = torch.nn.utils.clip_grad_norm_(weights, limit)
            optimizer.found_inf = guard.check(step, loss, norm)
        else:
            norm = loss_scale.unscale_and_clip(weights, limit)
            optimizer.found_inf = guard.check(step, loss, norm, loss_scale.update(loss, norm))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        tokens = rows.shape[0] * (rows.shape[1] - 1)
        progress.step = step
        progress.tokens += tokens
        clock.step_done(tokens)
        if step == first and hooks.first_step is not None and clock.first_step_seconds is not None:
            hooks.first_step(clock.first_step_seconds)
        if hooks.forecast is not None and hooks.forecast.wants(step):
            hooks.forecast(step, clock.training_seconds(), progress.tokens)

        logging = last or step % plan.log_interval == 0
        evaluate = hooks.evaluate if last or _due(step, plan.eval_interval) else None
        sample = hooks.sample if plan.sample_interval and (last or _due(step, plan.sample_interval)) else None
        stopping = not last and ranks.any(hooks.should_stop())
        saving = last or stopping or _due(step, plan.checkpoint_interval)

        metrics: dict[str, float] = {}
        if logging or evaluate or sample or saving:
            # Looked at before anything is written, so that nothing is known of steps beyond the run's end.
            metrics |= _report_skipped(guard, batches, sinks)
            if guard.gave_up:
                _give_up(guard, plan.batch, progress, hooks, ranks)
        if logging:
            metrics |= {"train_loss": loss.item(), "learning_rate": lr, "grad_norm": norm.item()}
            if rate := clock.tokens_per_second():
                # A peak measured on a busy machine may be too low; no share of it exceeds 1.
                reached = rate * plan.flops_per_token
                if reached > peak:
                    sinks.message(
                        f"MFU: training reached {reached / 1e12:.3g} TFLOP/s, more than the peak of {peak / 1e12:.3g}; "
                        "MFU is a share of that from here on"
                    )
                    peak = reached
                metrics |= {"tokens_per_second": rate, "mfu": reached / peak}
            if loss_scale is not None:
                metrics |= loss_scale.metrics()
            metrics |= hooks.metrics()
        best_before = progress.best_val_loss, progress.best_step
        if evaluate is not None:
            with clock.excluded("evaluate"):
                metrics |= evaluate()
            model.train()
            best = float("inf") if progress.best_val_loss is None else progress.best_val_loss
            if metrics["val_loss"] < best:  # never where it is NaN
                progress.best_val_loss, progress.best_step = metrics["val_loss"], step
                saving = True
        text = None
        if sample is not None:
            with clock.excluded("sample"):
                text, figures = sample(step)
                metrics |= figures
            model.train()
        if metrics:
            progress.seconds = clock.seconds()
            finite = {name: value for name, value in metrics.items() if np.isfinite(value)}
            sinks.log({"step": step, "tokens": progress.tokens, "seconds": progress.seconds} | finite)
        if text is not None:
            sinks.text(step, "sample", text)
        if hooks.checkpoint and saving:
            with clock.excluded("checkpoint"):
                progress.seconds = clock.seconds()
                saved = hooks.checkpoint(progress)
            if not saved:
                progress.best_val_loss, progress.best_step = best_before
                if last or stopping:
                    ranks.fail(
                        f"step {step} could not be saved (see above); free some space, then resume or start again"
                    )
        if stopping:
            return False
    return True


def _due(step: int, interval: int) -> bool:
    return bool(interval) and step % interval == 0


def _accumulate(
    parallel: ParallelLoss,
    objective: Objective,
    passes: list[np.ndarray],
    device: torch.device,
    ranks: Ranks,
    scale: Tensor | None,
) -> Tensor:
    """Gradients of the mean loss over all valid tokens of the step; returns that mean, on the device."""
    valid = max(1, sum(map(objective.valid_tokens, passes)))
    total = torch.zeros((), device=device)
    for number, micro in enumerate(passes, 1):
        tensors = objective.tensors(ranks.share(micro), device)
        total += parallel.add_gradients(tensors, valid, number == len(passes), scale)
    return ranks.sum(total) / valid


def _report_skipped(guard: FiniteGuard, batches: BatchSource, sinks: Sinks) -> dict[str, int]:
    """A line on the steps that were not taken since the last look, and where their data is; {} where there are none."""
    number, steps = guard.skipped()
    if not number:
        return {}
    where = "; ".join(f"step {step} ({batches.describe(step - 1)})" for step in steps)
    others = f", the last {len(steps)} being" if number > len(steps) else ":"
    sinks.message(f"loss or gradient not finite: {number} step(s) not taken{others} {where}")
    return {"skipped_steps": number}


def _give_up(guard: FiniteGuard, batch: BatchRamp, progress: Progress, hooks: Hooks, ranks: Ranks) -> None:
    """Ends a run whose steps cannot be taken, with a checkpoint of the last one that was."""
    taken = guard.last_taken
    # Every pass has the same number of tokens.
    progress.tokens = progress.tokens // batch.passes_before(progress.step) * batch.passes_before(taken)
    progress.step, progress.out_of_time = taken, False
    saved = taken > 0 and hooks.checkpoint and hooks.checkpoint(progress)
    ranks.fail(
        f"loss not finite for {PATIENCE} steps in a row, up to step {guard.last_step}; "
        + (f"the checkpoint of step {taken} is from before; " if saved else "")
        + "start anew with a lower learning_rate"
        + (" (--init-from takes its weights along)" if saved else "")
    )
