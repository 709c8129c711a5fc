"""The model that a device can train in a given time. Does not import torch.

Input: achieved FLOP/s (peak × MFU), seconds, tokens per parameter. Output: model size and token count by the rule of thumb
training FLOPs = 6 × parameters × tokens (Kaplan et al. 2020, section 2.1), and a concrete shape by the exact convention of
accounting.py, including attention. 20 tokens per parameter are compute-optimal (Hoffmann et al. 2022); more give a smaller
model that is cheaper to use. With experts, parameters are the active ones.
"""

import dataclasses
import itertools
import math
from dataclasses import dataclass

from lmfast.model.accounting import active_parameters, training_flops_per_token
from lmfast.model.bisection import largest_satisfying
from lmfast.model.config import ModelConfig

ASPECT = 64
"""d_model / num_layers of a proposed shape if the budget allows it; also its head dimension"""

SPENT = 0.85
"""minimum fraction of the budget that a proposed shape must use"""


@dataclass(frozen=True)
class Proposal:
    """A shape, its number of training tokens, and the FLOPs to train it."""

    config: ModelConfig
    parameters: int  # active
    tokens: int
    flops: float


def training_seconds(
    config: ModelConfig, sequence_length: int, tokens: int, peak_flops: float, mfu: float
) -> float:
    """Time to train on `tokens` at this fraction of the peak."""
    return tokens * training_flops_per_token(config, sequence_length) / (mfu * peak_flops)


def compute_optimal(flops: float, tokens_per_parameter: float) -> tuple[float, float]:
    """(parameters, tokens) that use `flops` at this ratio: flops = 6 × parameters² × ratio."""
    parameters = math.sqrt(flops / (6 * tokens_per_parameter))
    return parameters, tokens_per_parameter * parameters


def propose_shape(base: ModelConfig, flops: float, tokens_per_parameter: float) -> Proposal | None:
    """The shape with d_model closest to 64 × num_layers that uses between 85 and 100 % of `flops`.

    Changes num_layers, d_model, num_heads (head dimension 64), and num_kv_heads, head_dim and d_ff (derived) of `base`.
    None if no model with this vocabulary fits the budget.
    """

    def proposal(layers: int, heads: int) -> Proposal:
        config = dataclasses.replace(
            base,
            num_layers=layers,
            d_model=64 * heads,
            num_heads=heads,
            num_kv_heads=None,
            head_dim=None,
            d_ff=None,
        ).resolved()
        parameters = active_parameters(config)
        tokens = round(tokens_per_parameter * parameters)
        cost = tokens * training_flops_per_token(config, config.context_length)
        return Proposal(config, parameters, tokens, cost)

    def deepest(heads: int) -> Proposal | None:
        """The deepest shape of this width within the budget."""
        layers = largest_satisfying(lambda layers: proposal(layers, heads).flops <= flops)
        return proposal(layers, heads) if layers else None

    def slim(heads: int) -> bool:
        shape = deepest(heads)
        return shape is not None and heads < shape.config.num_layers

    # Search outwards from the ideal aspect; on each side the first width that uses enough of the budget is the closest.
    widest_slim = largest_satisfying(slim)
    candidates = []
    for widths in (range(widest_slim, 0, -1), itertools.count(widest_slim + 1)):
        for heads in widths:
            shape = deepest(heads)
            if shape is None:
                break
            candidates.append(shape)
            if shape.flops >= SPENT * flops:
                break
    enough = [c for c in candidates if c.flops >= SPENT * flops] or candidates
    return min(enough, key=_distance_from_aspect, default=None)


def _distance_from_aspect(proposal: Proposal) -> float:
    return abs(math.log(proposal.config.d_model / proposal.config.num_layers / ASPECT))
