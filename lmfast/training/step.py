"""One optimizer step: gradients accumulated over its forward passes, clipping, and skipping a step that is not finite.

In: the rows (rows, length + 1) of a step. Out: loss and gradient norm as scalars on the device. Nothing here waits for
the device. A step is a pure function of the weights, the seed and the step number.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lmfast.data.batches import derive_seed
from lmfast.model.device import autocast
from lmfast.settings import selected_precision
from lmfast.training.finite_guard import FiniteGuard
from lmfast.training.interfaces import Objective
from lmfast.training.loss_scale import LossScale
from lmfast.training.optimizers import Optimizer
from lmfast.training.parallel.loss import ParallelLoss
from lmfast.training.parallel.ranks import Ranks
from lmfast.training.parallel.sharded import Sharded
from lmfast.training.run_plan import Plan


class StepResult(NamedTuple):
    """Outcome of a step, taken or skipped."""

    loss: Tensor  # mean over its valid tokens
    norm: Tensor  # of the gradient before clipping
    learning_rate: float


class Stepper:
    """Takes the steps of one run.

    loss_fn: `objective.loss`, possibly compiled. steps_taken: by earlier parts of the run. sharded: the shards of the model,
    if it has any."""

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: Optimizer,
        objective: Objective,
        loss_fn: Callable[..., Tensor],
        plan: Plan,
        ranks: Ranks,
        loss_scale: LossScale | None,
        steps_taken: int,
        sharded: Sharded | None = None,
    ):
        self.optimizer, self.objective, self.plan = optimizer, objective, plan
        self.ranks, self.loss_scale = ranks, loss_scale
        self.device = next(model.parameters()).device
        self.sharded = sharded
        weights = model.parameters() if sharded is None else sharded.weights.values()
        self.weights = [p for p in weights if p.requires_grad]
        precision = selected_precision(plan)
        self.parallel = ParallelLoss(ranks, model, loss_fn, lambda: autocast(self.device, precision), sharded)
        self.guard = FiniteGuard(self.device, steps_taken)

    def take(self, step: int, rows: np.ndarray, learning_rate: float) -> StepResult:
        """Takes step number `step`, counted from 1."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["rate"]
        # Dropout masks differ between data ranks; tensor ranks apply the same masks to the same tensors.
        rank = self.ranks.data_rank
        torch.manual_seed(derive_seed(self.plan.seed, step, *([rank] if rank else [])))
        loss = self._accumulate(np.split(rows, self.plan.batch.passes_in(step - 1)))
        if self.sharded is None:
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.weights if p.grad is not None])
        else:
            norm, loss = self.sharded.gradient_norm(loss)
        limit = self.plan.grad_clip if self.plan.grad_clip > 0 else float("inf")
        # The fused optimizer kernel skips a step whose loss or gradient is not finite, without a host sync.
        if self.loss_scale is None:
            torch.nn.utils.clip_grads_with_norm_(self.weights, limit, norm)
            self.optimizer.found_inf = self.guard.check(step, loss, norm)
        else:
            norm = self.loss_scale.unscale_and_clip(self.weights, limit, norm)
            self.optimizer.found_inf = self.guard.check(step, loss, norm, self.loss_scale.update(loss, norm))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(loss, norm, learning_rate)

    def _accumulate(self, passes: list[np.ndarray]) -> Tensor:
        """Accumulates gradients of the mean loss over the step's valid tokens; returns that mean, on the device."""
        valid = max(1, sum(map(self.objective.valid_tokens, passes)))
        scale = None if self.loss_scale is None else self.loss_scale.scale
        total = torch.zeros((), device=self.device)
        for number, micro in enumerate(passes, 1):
            tensors = self.objective.tensors(self.ranks.share(micro), self.device)
            total += self.parallel.add_gradients(tensors, valid, number == len(passes), scale)
        return self.ranks.sum(total) / valid
