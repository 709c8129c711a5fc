"""Communication of a model whose layers are split over tensor ranks (Shoeybi et al. 2019, arXiv:1909.08053).

Queries, keys, values, gate and up are column-parallel: each rank has the columns of its heads and hidden units, and reads
the whole input, whose gradient is summed. The output projections are row-parallel: each rank returns a term of a sum.
Embedding and head are split over the vocabulary. Collectives are functional, so that torch.compile traces them.

Per forward and backward pass of L blocks: a sum after the embedding and one for each of the 2 L sublayers in the forward,
one for each sublayer and one for the head in the backward, and one exchange per chunk of the loss (vocabulary_loss.py):
4 L + 2 + chunks collectives. Parallel sublayers share theirs: 2 L + 2 + chunks. All sums are of (batch, seq, d_model) in the
autocast dtype. A step adds one collective for the gradients of replicated weights and one for norm and loss
(gradients.py).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmfast.model.layers import Head
from lmfast.model.shards import Shards
from lmfast.training.parallel.functional import gathered, summed
from lmfast.training.parallel.vocabulary_loss import vocabulary_cross_entropy


class TensorShards(Shards):
    """The layers of one of the `size` ranks of `group`, the name of a process group."""

    def __init__(self, group: str, size: int):
        self.group, self.size = group, size

    def enter(self, x: Tensor) -> Tensor:
        return _Enter.apply(x, self.group)

    def leave(self, x: Tensor) -> Tensor:
        return _Leave.apply(x, self.group)


class VocabularyEmbedding(nn.Embedding):
    """The rows from `begin` on of an embedding; returns the embedded ids of the whole vocabulary."""

    def __init__(self, weight: Tensor, begin: int, shards: TensorShards):
        super().__init__(weight.shape[0], weight.shape[1], _weight=weight)
        self.begin, self.shards = begin, shards

    def forward(self, input: Tensor) -> Tensor:
        local = input - self.begin
        mine = (local >= 0) & (local < self.weight.shape[0])
        x = F.embedding(torch.where(mine, local, 0), self.weight)
        if torch.is_autocast_enabled(x.device.type):
            # The model casts the embedding anyway; casting first halves the traffic. Other ranks add exact zeros.
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return self.shards.leave(x.masked_fill(~mine.unsqueeze(-1), 0.0))


class VocabularyHead(Head):
    """The rows from `begin` on of the head; returns the loss or the logits of the whole vocabulary."""

    def __init__(self, weight: Tensor, begin: int, shards: TensorShards):
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.weight, self.bias = nn.Parameter(weight), None
        self.begin, self.shards = begin, shards

    def forward(self, input: Tensor) -> Tensor:
        """Logits of all ids, for a few tokens, without a gradient."""
        logits = super().forward(input)
        return gathered(logits, self.shards.size, self.shards.group).movedim(0, -2).flatten(-2)

    def cross_entropy(
        self,
        hidden: Tensor,
        targets: Tensor,
        ignore_index: int,
        softcap: float | None,
        z_loss: float = 0.0,
        fp8: bool = False,
    ) -> Tensor:
        """As `Head.cross_entropy`; without FP8."""
        return vocabulary_cross_entropy(
            self.shards.enter(hidden),
            self.weight,
            targets,
            self.begin,
            self.shards.size,
            self.shards.group,
            ignore_index,
            softcap,
            z_loss,
        )


class _Enter(torch.autograd.Function):
    """Identity; sums the gradient over the ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: str) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return summed(grad, ctx.group), None


class _Leave(torch.autograd.Function):
    """Sum over the ranks; every rank has the gradient already."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: str) -> Tensor:
        return summed(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None
