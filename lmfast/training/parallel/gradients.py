"""The gradients of a step on all ranks: their norm, which every rank knows, for clipping and the finite guard.

In: the gradients of this rank's weights, summed over the data ranks. Weights that are split over tensor ranks count once
each; replicated weights count once for all ranks. Their gradients are first made equal on all tensor ranks, in one
collective: those of SUMMED are summed, because each rank has the term of its heads; others are averaged, so that
non-deterministic kernels cannot make the copies differ. A second collective sums norm and loss.
"""

from collections.abc import Iterable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lmfast.training.parallel.ranks import Ranks
from lmfast.training.parallel.tensor_parts import SUMMED, split_dimension


class Gradients:
    """The gradients of `weights`, by name. shards: the ranks over which FSDP divides them further."""

    def __init__(
        self, weights: Mapping[str, nn.Parameter], ranks: Ranks, shards: dist.ProcessGroup | None = None
    ):
        named = [(name, p) for name, p in weights.items() if p.requires_grad]
        self.shards = shards
        self.group, self.size = ranks.tensor_group, ranks.tensor_size
        self.split = [p for name, p in named if split_dimension(name) is not None]
        self.summed = [p for name, p in named if name.endswith(SUMMED)]
        self.equal = [p for name, p in named if split_dimension(name) is None and not name.endswith(SUMMED)]

    @torch.no_grad()
    def norm(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """(global norm of the gradients, loss), both equal on all ranks; does not wait for the device."""
        replicated = self._equalise()
        square = torch.nn.utils.get_total_norm(_grads(self.split)).square()
        both = torch.stack([square, loss / self.size])
        dist.all_reduce(both, group=self.group)
        square, loss = both.unbind()
        if replicated:
            square = square + torch.nn.utils.get_total_norm(replicated).square()
        if self.shards is not None:
            dist.all_reduce(square, group=self.shards)
        return square.sqrt(), loss

    def _equalise(self) -> list[Tensor]:
        """Sums or averages the gradients of replicated weights over the tensor ranks; returns them."""
        equal = _grads(self.equal)
        grads = [*equal, *_grads(self.summed)]
        if not grads:
            return []
        if equal:
            torch._foreach_div_(equal, self.size)
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat, group=self.group)
        parts = flat.split([grad.numel() for grad in grads])
        torch._foreach_copy_(grads, [part.view_as(grad) for part, grad in zip(parts, grads, strict=True)])
        return grads


def _grads(weights: Iterable[Tensor]) -> list[Tensor]:
    return [p.grad for p in weights if p.grad is not None]
