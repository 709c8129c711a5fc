"""Balances the load of experts in training, and measures it.

In: a task and settings with num_experts. Out: the task with the auxiliary loss of Switch (`experts.load_balance_loss`, mean
over the layers, as in OLMoE; 1 if the load is even) times `load_balance` added to the loss of each token (each pair in DPO)
and with metrics of the last step, like train_loss:

    expert_load_max, expert_load_min   largest and smallest share of the tokens that an expert of any layer got; if even,
                                       experts_per_token / num_experts
    load_balance_loss                  the auxiliary loss, before its weight

A line has none of them if the loss of its step is not finite. Evaluations do not include the term. Positions that are
padding (`objectives.read_by_loss`) count in neither. Only reading the metrics waits for the device. Shares of tokens are
those of one forward pass on one rank: with several passes or ranks, the term of a step is the mean of their terms, weighted
by tokens with loss, and not that of all tokens together. The rest of the loss does not depend on how a step is split.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lmfast.model.config import ResolvedConfig
from lmfast.model.experts import load_balance_loss
from lmfast.model.transformer import TransformerLM
from lmfast.settings import TrainSettings
from lmfast.training.interfaces import Objective
from lmfast.training.parallel.ranks import Ranks
from lmfast.training.task import Task


class Balanced:
    """An objective whose loss includes the load-balancing term in training."""

    def __init__(self, objective: Objective, weight: float, config: ResolvedConfig, device: torch.device):
        self.objective, self.weight = objective, weight
        self.experts_per_token = config.experts_per_token
        self.shape = config.num_layers, config.num_experts
        # Sums over the forward passes of a step: the shares of tokens, the auxiliary loss, the number of passes, the loss.
        self.sums = torch.zeros(config.num_layers * config.num_experts + 3, device=device)

    def begin_step(self) -> None:
        """Must be called before each step."""
        self.sums.zero_()

    def tensors(self, batch: np.ndarray, device: torch.device) -> tuple[Tensor | None, ...]:
        return self.objective.tensors(batch, device)

    def valid_tokens(self, batch: np.ndarray) -> int:
        return self.objective.valid_tokens(batch)

    def count(self, *tensors: Tensor | None) -> Tensor:
        return self.objective.count(*tensors)

    def loss(self, model: TransformerLM, *tensors: Tensor | None) -> Tensor:
        """Summed loss with the term, fp32 scalar; in training, accumulates the load for `read_metrics`."""
        loss = self.objective.loss(model, *tensors)
        load = model.take_expert_load()
        if load is None:
            return loss
        term = load_balance_loss(load, self.experts_per_token).mean()
        with torch.no_grad():
            self.sums += torch.cat([load[:, 0].flatten(), torch.stack([term, torch.ones_like(term), loss])])
        return loss + self.weight * self.objective.count(*tensors) * term

    def read_metrics(self, ranks: Ranks) -> dict[str, float]:
        """The metrics of the last step over all ranks; every rank must call it."""
        *shares, term, passes, loss = ranks.sum(self.sums).tolist()
        if not passes or not math.isfinite(loss + term):
            return {}
        return {
            "expert_load_max": max(shares) / passes,
            "expert_load_min": min(shares) / passes,
            "load_balance_loss": term / passes,
        }


def with_load_balance(task: Task, settings: TrainSettings, device: torch.device, ranks: Ranks) -> Task:
    """The task with the term and its metrics; unchanged for a dense model."""
    config = settings.model.resolved()
    if not config.num_experts:
        return task
    balanced = Balanced(task.objective, settings.optimizer.load_balance, config, device)
    measure: Callable[[], dict[str, float]] = task.measure or dict
    return dataclasses.replace(
        task,
        objective=balanced,
        begin_step=balanced.begin_step,
        measure=lambda: {**measure(), **balanced.read_metrics(ranks)},
    )
