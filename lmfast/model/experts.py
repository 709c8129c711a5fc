"""The sparse feed-forward: a router sends each token to the experts_per_token most probable of num_experts feed-forwards.

In: activations (batch, seq, d_model). Out: the sum of the outputs of the token's experts, each times its weight, and in
training the `load` of the experts, of the positions that `counted` selects. Probabilities are a softmax over all experts, in
fp32 even under autocast. Weights are those of the chosen experts divided by their sum (Mixtral, Jiang et al. 2024,
arXiv:2401.04088); with one expert per token,
the probability itself (Switch, Fedus et al. 2022, arXiv:2101.03961), because a weight of 1 gives the router no gradient. Of
equal probabilities the lowest expert's counts as greater. No token is dropped and no expert has a capacity (Gale et al.
2022, arXiv:2211.15841; OLMoE, Muennighoff et al. 2024, arXiv:2409.02060): tokens are sorted by expert, and each expert
multiplies its own (lmfast_kernels.grouped_linear).

The matrices of all experts are one weight, below each other: `up` (num_experts · 2F, d_model) with the gate and up of
expert 0 first, `down` (num_experts · d_model, F). So they are initialised, orthogonalised (Muon) and sharded like the
matrices of a fused projection.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import lmfast_kernels
from lmfast.model.config import ResolvedConfig
from lmfast.model.projections import FusedLinear, Linear, activate
from lmfast_kernels.backend import compute_dtype, no_autocast


class Routes(NamedTuple):
    """The experts of every token, and the order in which the (token, expert) pairs are computed."""

    weights: Tensor  # (tokens, experts_per_token), fp32
    order: (
        Tensor  # (pairs,) int64: the pairs sorted by expert; pair p belongs to token p // experts_per_token
    )
    place: Tensor  # (pairs,) int64: where each pair is in that order
    ends: Tensor  # (num_experts,) int32: the end of each expert's pairs in that order
    load: Tensor  # (2, num_experts) fp32: of counted tokens: share that an expert gets; its mean probability, differentiable


def route(logits: Tensor, experts_per_token: int, counted: Tensor | None = None) -> Routes:
    """The routes of tokens with these router logits (tokens, num_experts), in fp32.

    counted (tokens,) bool: those that the load is of; None: all."""
    tokens, num_experts = logits.shape
    probabilities = logits.softmax(-1)
    number = tokens if counted is None else counted.sum().clamp(min=1)
    with torch.no_grad():
        # A stable sort, because topk does not say which of several equal values it takes.
        best = probabilities.argsort(dim=-1, descending=True, stable=True)
        chosen = best[:, :experts_per_token].contiguous()
        pairs = chosen.flatten()
        order = pairs.argsort(stable=True)
        place = order.argsort()
        selected = pairs[:, None] == torch.arange(num_experts, device=pairs.device)
        counts = selected.sum(0)
        ends = counts.cumsum(0).int()
        if counted is not None:
            counts = (selected & counted.repeat_interleave(experts_per_token)[:, None]).sum(0)
        shares = counts / number
    weights = probabilities.gather(1, chosen)
    if experts_per_token > 1:
        weights = weights / weights.sum(1, keepdim=True)
    mean = probabilities.mean(0) if counted is None else (probabilities * counted[:, None]).sum(0) / number
    return Routes(weights, order, place, ends, torch.stack([shares, mean]))


def load_balance_loss(load: Tensor, experts_per_token: int) -> Tensor:
    """The auxiliary loss of Switch (equations 4 to 6) from `Routes.load` (…, 2, num_experts): 1 if the load is even."""
    shares, probabilities = load.unbind(-2)
    return load.shape[-1] / experts_per_token * (shares * probabilities).sum(-1)


class _Gather(torch.autograd.Function):
    """x[index // copies] for a permutation `index` of len(x) · copies pairs; `inverse`: the inverse permutation.

    So that the backward gathers too: that of indexing would add atomically on a GPU, in no fixed order.
    """

    @staticmethod
    def forward(x: Tensor, index: Tensor, inverse: Tensor, copies: int) -> Tensor:
        return x[index // copies if copies > 1 else index]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, _, inverse, ctx.copies = inputs
        ctx.save_for_backward(inverse)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None]:
        (inverse,) = ctx.saved_tensors
        dx = dy[inverse]
        return dx.unflatten(0, (-1, ctx.copies)).sum(1) if ctx.copies > 1 else dx, None, None, None


class SparseFeedForward(nn.Module):
    """A mixture of num_experts feed-forwards of hidden width ffn_hidden, of which each token uses experts_per_token."""

    def __init__(self, config: ResolvedConfig):
        super().__init__()
        self.kind, self.num_experts = config.ffn, config.num_experts
        self.experts_per_token = config.experts_per_token
        d_model, hidden = config.d_model, config.ffn_hidden
        matrices = (2 if self.kind == "swiglu" else 1) * self.num_experts
        self.router = Linear(d_model, self.num_experts)
        self.up = FusedLinear(d_model, [hidden] * matrices)
        self.down = FusedLinear(hidden, [d_model] * self.num_experts)

    def forward(self, x: Tensor, counted: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """(output (batch, seq, d_model), in training `Routes.load`). counted (batch, seq): as in `route`."""
        rows = x.flatten(0, -2)
        dtype = compute_dtype(x.dtype)
        with no_autocast(x):
            logits = lmfast_kernels.linear(rows.to(dtype), self.router.weight.to(dtype))
            routes = route(logits, self.experts_per_token, None if counted is None else counted.flatten())
        inputs = _gather(rows, routes.order, routes.place, self.experts_per_token)
        up = lmfast_kernels.grouped_linear(inputs, self._stacked(self.up), routes.ends)
        out = lmfast_kernels.grouped_linear(activate(self.kind, up), self._stacked(self.down), routes.ends)
        each = (*x.shape[:-1], self.experts_per_token)
        out = _gather(out, routes.place, routes.order, 1).view(*each, -1)
        # Not a view, because FSDP2 attaches hooks to what a block returns.
        y = (out * routes.weights.view(*each, 1)).sum(-2).to(out.dtype)
        return y, routes.load if self.training else None

    def _stacked(self, layer: FusedLinear) -> Tensor:
        """The weight of a layer as (num_experts, rows, columns)."""
        return layer.weight.unflatten(0, (self.num_experts, -1))


def _gather(x: Tensor, index: Tensor, inverse: Tensor, copies: int) -> Tensor:
    gathered: Tensor = _Gather.apply(x, index, inverse, copies)
    return gathered
