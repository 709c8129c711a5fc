"""Muon over matrices whose rows or columns are split over ranks: each rank orthogonalises whole matrices in turn.

In: this rank's part of each matrix, as pieces (fused projections are cut into their matrices first). Out: the same weights
and momentum as lmfast.training.optimizers.Muon, to the bit for equal gradients. The N ranks of the group take N matrices at
a time: one all-to-all collects the rows of each matrix on its rank, another one distributes the rows of the result, both in
bf16, to which torch's Muon rounds before it orthogonalises.
"""

from collections import defaultdict
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim._muon import (  # what torch.optim.Muon applies to a whole matrix
    DEFAULT_A,
    DEFAULT_B,
    DEFAULT_C,
    DEFAULT_NS_STEPS,
    EPS,
    _adjust_lr,
    _zeropower_via_newtonschulz,
)


class ShardedMatrix(NamedTuple):
    """One matrix of a weight. rows: begin and end of this rank's rows within its local part of the weight."""

    weight: nn.Parameter
    rows: tuple[int, int]
    counts: list[int]  # rows of each rank of the group
    width: int
    transposed: bool = False  # split by columns: counts are columns, width is the number of rows


class ShardedMuon:
    """An Optimizer (lmfast/training/optimizers.py) for the matrices of a model that is sharded (sharded.py)."""

    def __init__(
        self,
        matrices: list[ShardedMatrix],
        group: dist.ProcessGroup,
        learning_rate: float,
        weight_decay: float,
        momentum: float,
        rate: float,
    ):
        self.matrices, self.group = matrices, group
        self.weight_decay, self.momentum = weight_decay, momentum
        weights = list(dict.fromkeys(matrix.weight for matrix in matrices))
        self.param_groups: list[dict[str, Any]] = [{"params": weights, "lr": learning_rate, "rate": rate}]
        self.state: defaultdict[Tensor, Any] = defaultdict(dict)
        for weight in weights:
            self.state[weight]["momentum_buffer"] = torch.zeros_like(weight, requires_grad=False)
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self) -> None:
        size = self.group.size()
        for begin in range(0, len(self.matrices), size):
            matrices = self.matrices[begin : begin + size]
            updates = self._orthogonalised(matrices, [self._update(matrix) for matrix in matrices])
            for matrix, update in zip(matrices, updates, strict=True):
                self._apply(matrix, update)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                weight.grad = None

    def _update(self, matrix: ShardedMatrix) -> Tensor:
        """Updates the momentum of this rank's rows; returns their part of the update (Nesterov), in bf16."""
        rows = slice(*matrix.rows)
        assert matrix.weight.grad is not None, "every matrix takes part in the loss"
        grad, momentum = matrix.weight.grad[rows], self.state[matrix.weight]["momentum_buffer"][rows]
        if self.found_inf is not None:  # lerp_ then changes nothing
            torch.where(self.found_inf.bool(), momentum, grad, out=grad)
        momentum.lerp_(grad, 1 - self.momentum)
        update = grad.lerp(momentum, self.momentum).bfloat16()
        return update.t() if matrix.transposed else update

    def _orthogonalised(self, matrices: list[ShardedMatrix], updates: list[Tensor]) -> list[Tensor]:
        """This rank's rows of the orthogonalised updates of at most N matrices."""
        rank, size = self.group.rank(), self.group.size()
        own = matrices[rank] if rank < len(matrices) else None
        sent = [update.numel() for update in updates] + [0] * (size - len(updates))
        received = [0] * size if own is None else [count * own.width for count in own.counts]
        mine = torch.cat([update.flatten() for update in updates])
        whole = mine.new_empty(sum(received))
        dist.all_to_all_single(whole, mine, received, sent, group=self.group)
        if own is not None:
            coefficients = (DEFAULT_A, DEFAULT_B, DEFAULT_C)
            update = whole.view(-1, own.width)
            update = update.t() if own.transposed else update
            result = _zeropower_via_newtonschulz(update, coefficients, DEFAULT_NS_STEPS, EPS)
            whole = (result.t() if own.transposed else result).contiguous().flatten()
        dist.all_to_all_single(mine, whole, sent, received, group=self.group)
        return [part.view_as(update) for part, update in zip(mine.split(sent), updates)]

    def _apply(self, matrix: ShardedMatrix, update: Tensor) -> None:
        learning_rate = self.param_groups[0]["lr"]
        weight = matrix.weight[slice(*matrix.rows)]
        before = weight.clone()
        if matrix.transposed:
            update = update.t()
        shape = torch.Size((sum(matrix.counts), matrix.width))  # or transposed, which gives the same rate
        weight.mul_(1 - learning_rate * self.weight_decay)
        weight.add_(update, alpha=-_adjust_lr(learning_rate, "match_rms_adamw", shape))
        if self.found_inf is not None:
            torch.where(self.found_inf.bool(), before, weight, out=weight)
