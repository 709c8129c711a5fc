"""The one training loop. It knows steps, not what they teach: objective and batches come from outside.

A step is a pure function of the weights, the seed and the step's number: the batch and the dropout are derived from
(seed, step), so a run that was stopped anywhere and resumed goes on to the same weights as one that never was.
Nothing in a step waits for the device; the host looks at a number only when it is logged.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lmfast.data.batches import derive_seed
from lmfast.errors import UserError
from lmfast.training.clock import Clock
from lmfast.training.sinks import Sinks

PATIENCE = 10
"""steps in a row with a loss or gradient that is not finite, after which the run stops"""


@dataclass(frozen=True)
class Plan:
    """When what happens: the loop's share of the settings, everything derived."""

    max_iters: int | None  # None: the clock alone ends the run
    max_seconds: float | None  # of the whole run over its stops, what comes after the last step included
    batch_size: int
    grad_accumulation: int
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


@dataclass
class Progress:
    """What a checkpoint must remember besides weights and optimizer."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_val_loss: float | None = None
    best_step: int | None = None
    out_of_time: bool = False

    def as_dict(self) -> dict:
        return dataclasses.asdict(self)


@dataclass
class Hooks:
    """What the loop calls at its intervals; each is optional."""

    evaluate: Callable[[], dict] | None = None  # → {val_loss, bits_per_byte}
    checkpoint: Callable[[Progress], bool] | None = None  # → whether it was written
    sample: Callable[[int], str] | None = None  # step → text
    figures: Callable[[], dict] = field(default=dict)  # more of them for each line of metrics
    should_stop: Callable[[], bool] = field(default=lambda: False)  # asked after each step


def train_loop(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    objective,
    loss_fn: Callable[..., Tensor],
    batches,
    plan: Plan,
    progress: Progress,
    sinks: Sinks,
    hooks: Hooks,
) -> bool:
    """Takes steps progress.step + 1 … until max_iters or the time is up, whichever comes first; returns False when
    `should_stop` ended it before the last.

    loss_fn: `objective.loss`, perhaps compiled. batches: anything with step(i) → array whose first dimension is
    batch_size × grad_accumulation.
    """
    device = next(model.parameters()).device
    weights = [p for p in model.parameters() if p.requires_grad]
    guard = _FiniteGuard(device, sinks)
    clock = Clock(progress.seconds, device)
    model.train()

    def ends(step: int) -> bool:
        return progress.out_of_time or (plan.max_iters is not None and step >= plan.max_iters)

    while not ends(progress.step):
        step = progress.step + 1
        time_share = clock.share_after_next_step(plan.max_seconds)
        progress.out_of_time = time_share >= 1
        last = ends(step)
        lr = plan.learning_rate(step, time_share)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["rate"]
        torch.manual_seed(derive_seed(plan.seed, step))

        rows = batches.step(step - 1)
        loss = _accumulate(model, objective, loss_fn, rows, plan, device)
        limit = plan.grad_clip if plan.grad_clip > 0 else float("inf")
        norm = torch.nn.utils.clip_grad_norm_(weights, limit)
        # A step with a loss or gradient that is not finite is skipped inside the fused kernel: no host sync.
        optimizer.found_inf = guard.see(step, loss, norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        progress.step = step
        progress.tokens += rows.shape[0] * (rows.shape[1] - 1)
        clock.trained(rows.shape[0] * (rows.shape[1] - 1))

        metrics = {}
        if step % plan.log_interval == 0 or last:
            metrics |= {"train_loss": loss.item(), "learning_rate": lr, "grad_norm": norm.item()}
            if rate := clock.tokens_per_second():
                metrics |= {
                    "tokens_per_second": rate,
                    "mfu": rate * plan.flops_per_token / plan.peak_flops,
                }
            metrics |= hooks.figures()
            guard.report()
        if hooks.evaluate and (last or (plan.eval_interval and step % plan.eval_interval == 0)):
            with clock.aside("evaluate"):
                metrics |= hooks.evaluate()
            model.train()
            best = float("inf") if progress.best_val_loss is None else progress.best_val_loss
            if metrics["val_loss"] < best:  # never where it is NaN
                progress.best_val_loss, progress.best_step = metrics["val_loss"], step
        if metrics:
            progress.seconds = clock.seconds()
            finite = {name: value for name, value in metrics.items() if np.isfinite(value)}
            sinks.log({"step": step, "tokens": progress.tokens, "seconds": progress.seconds} | finite)
        if hooks.sample and plan.sample_interval and (last or step % plan.sample_interval == 0):
            with clock.aside("sample"):
                sinks.text(step, "sample", hooks.sample(step))
            model.train()
        stopping = not last and hooks.should_stop()
        due = plan.checkpoint_interval and step % plan.checkpoint_interval == 0
        if hooks.checkpoint and (last or stopping or due):
            with clock.aside("checkpoint"):
                progress.seconds = clock.seconds()
                saved = hooks.checkpoint(progress)
            if not saved and (last or stopping):
                raise UserError(
                    f"step {step} could not be saved (see above); make room and resume from the checkpoint before it"
                )
        if stopping:
            return False
    return True


def _accumulate(model, objective, loss_fn, rows: np.ndarray, plan: Plan, device: torch.device) -> Tensor:
    """Gradients of the mean loss over all valid tokens of the step; returns that mean, on the device."""
    valid = max(1, objective.valid_tokens(rows))
    total = torch.zeros((), device=device)
    for micro in np.split(rows, plan.grad_accumulation):
        with torch.autocast(device.type, torch.bfloat16, enabled=plan.bf16):
            loss_sum = loss_fn(model, *objective.tensors(micro, device))
        (loss_sum / valid).backward()
        total += loss_sum.detach()
    return total / valid


class _FiniteGuard:
    """Decides on the device whether a step may be taken, and tells the host about it only when asked."""

    def __init__(self, device: torch.device, sinks: Sinks):
        self.sinks = sinks
        self.in_a_row, self.total, self.last_step = torch.zeros(3, device=device).unbind()
        self.reported = 0

    def see(self, step: int, loss: Tensor, norm: Tensor) -> Tensor:
        """1.0 when the step must be skipped, as the fused optimizers' `found_inf`."""
        bad = (~(torch.isfinite(loss) & torch.isfinite(norm))).float()
        self.in_a_row.add_(1).mul_(bad)
        self.total.add_(bad)
        self.last_step.lerp_(torch.full_like(bad, step), bad)
        return bad

    def report(self) -> None:
        """Says how many steps were skipped since the last report; raises when too many were, one after another."""
        total = int(self.total)
        if total > self.reported:
            self.sinks.message(
                f"loss or gradient not finite: {total - self.reported} step(s) not taken, the last one step "
                f"{int(self.last_step)}"
            )
            self.reported = total
        if int(self.in_a_row) >= PATIENCE:
            raise UserError(
                f"loss not finite for {int(self.in_a_row)} steps in a row, up to step {int(self.last_step)}; "
                "start anew with a lower learning_rate (--init-from takes the weights of the last checkpoint along)"
            )
