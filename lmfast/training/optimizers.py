"""Optimizers: torch's fused AdamW for all weights, or torch's Muon for the matrices of the blocks and AdamW for the rest.

Parameter groups have a `rate`, a factor on the scheduled learning rate. If the device scalar `found_inf` is 1.0, a step
changes neither weights nor state, without involving the host. The state is stored by parameter name, so that checkpoints
do not depend on the order of parameters. Weight decay applies to matrices only, as in GPT-2 and nanoGPT.

Sources: Loshchilov & Hutter 2019 (AdamW); Jordan et al. 2024, kellerjordan.github.io/posts/muon (Muon); Liu et al. 2025,
arXiv:2502.16982 (scaling Muon's update to the size of AdamW's, so that both use the same learning rate and decay).
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lmfast.errors import UserError
from lmfast.model.layers import FusedLinear, named_modules
from lmfast.training.parallel.sharded import Sharded
from lmfast.training.parallel.sharded_muon import ShardedMuon


class Optimizer(Protocol):
    """An optimizer: the part of torch.optim.Optimizer's interface that training uses."""

    param_groups: list[dict[str, Any]]
    """each with `params`, `lr` (set before each step) and `rate` (its factor on the schedule's learning rate)"""
    state: defaultdict[Tensor, Any]
    """{parameter: {field: tensor}}"""
    found_inf: Tensor | None
    """fp32 scalar on the device: where it is 1.0, `step` changes nothing; None: every step counts"""

    def step(self) -> Any: ...
    def zero_grad(self, set_to_none: bool = True) -> None: ...


class AdamW(torch.optim.AdamW):
    """torch's AdamW, whose fused kernel reads `found_inf`."""

    found_inf: Tensor | None = None


def make_adamw(
    weights: list[nn.Parameter], learning_rate: float, betas: tuple[float, float], weight_decay: float
) -> AdamW:
    """Fused AdamW."""
    groups = [
        {"params": [p for p in weights if p.ndim >= 2], "weight_decay": weight_decay, "rate": 1.0},
        {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0, "rate": 1.0},
    ]
    return AdamW([g for g in groups if g["params"]], lr=learning_rate, betas=betas, fused=True)


def make_optimizer(
    model: nn.Module,
    kind: str,
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
    muon_momentum: float = 0.95,
    muon_lr: float | None = None,
    sharded: Sharded | None = None,
) -> Optimizer:
    """kind: adamw or muon. The loop sets the learning rate of every group before each step.

    muon_lr: peak learning rate of Muon's matrices; defaults to `learning_rate`. sharded: the shards of `model`, if it is
    sharded; its `weights` are then those to update.
    """
    named: Mapping[str, nn.Parameter] = dict(model.named_parameters()) if sharded is None else sharded.weights
    weights = {name: p for name, p in named.items() if p.requires_grad}
    if kind == "adamw":
        return make_adamw([*weights.values()], learning_rate, betas, weight_decay)
    widths = {name: rows for name, rows in block_matrices(model).items() if name in weights}
    rest = [p for name, p in weights.items() if name not in widths]
    rate = 1.0 if muon_lr is None else muon_lr / learning_rate
    options = learning_rate, weight_decay, muon_momentum, rate
    if sharded is None:
        muon = Muon({weights[name]: rows for name, rows in widths.items()}, *options)
    else:
        muon = ShardedMuon(sharded.matrices(widths), sharded.group, *options)
    return MuonWithAdamW(muon, make_adamw(rest, learning_rate, betas, weight_decay) if rest else None)


def block_matrices(model: nn.Module) -> dict[str, list[int]]:
    """{weight: numbers of rows of the matrices fused in it} of all linear layers except the head."""
    return {
        f"{name}.weight": module.widths if isinstance(module, FusedLinear) else [module.out_features]
        for name, module in named_modules(model)
        if isinstance(module, nn.Linear) and name != "head"
    }


class Muon(torch.optim.Muon):
    """torch's Muon with `found_inf` and fused projections.

    The matrices of a fused projection are orthogonalised separately, as if they were separate parameters; their momentum
    is stored as one tensor. torch's Muon does not support found_inf: to skip a step, the gradient is replaced by the
    momentum, so that momentum.lerp_(gradient) does not change it, and the weights are restored afterwards. The copies of
    the weights exist only within `step`, when there are no activations.
    """

    def __init__(
        self,
        matrices: dict[Tensor, list[int]],
        learning_rate: float,
        weight_decay: float,
        momentum: float,
        rate: float,
    ):
        self.widths = matrices
        self.parts = {
            p: [nn.Parameter(part) for part in torch.split(p.detach(), widths)]
            for p, widths in matrices.items()
        }
        parts = [part for parts in self.parts.values() for part in parts]
        super().__init__(
            [{"params": parts, "rate": rate}],
            lr=learning_rate,
            weight_decay=weight_decay,
            momentum=momentum,
            adjust_lr_fn="match_rms_adamw",
        )
        for p, widths in matrices.items():
            whole = torch.zeros_like(p, requires_grad=False)
            self.state[p]["momentum_buffer"] = whole
            for part, view in zip(self.parts[p], torch.split(whole, widths), strict=True):
                self.state[part]["momentum_buffer"] = view
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        skip = None if self.found_inf is None else self.found_inf.bool()
        before: list[Tensor] = []
        for p, parts in self.parts.items():
            whole = p.grad
            assert whole is not None, "every matrix takes part in the loss"
            if skip is not None:
                torch.where(skip, self.state[p]["momentum_buffer"], whole, out=whole)
                before.append(p.clone())
            for part, grad in zip(parts, torch.split(whole, self.widths[p]), strict=True):
                part.grad = grad
        super().step(closure)  # pyright: ignore[reportUnknownMemberType]  # torch's decorator has no types
        if skip is not None:
            for p, old in zip(self.parts, before):
                torch.where(skip, old, p, out=p)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for p in self.parts:
            p.grad = None
        super().zero_grad()


class MuonWithAdamW:
    """Muon and AdamW as one optimizer, with shared parameter groups and state."""

    def __init__(self, muon: Muon | ShardedMuon, adamw: AdamW | None):
        self.both: list[Optimizer] = [muon] if adamw is None else [muon, adamw]
        self.param_groups = [group for optimizer in self.both for group in optimizer.param_groups]
        self.state = muon.state
        for optimizer in self.both:
            optimizer.state = self.state
        self.found_inf: Tensor | None = None

    def step(self) -> None:
        for optimizer in self.both:
            optimizer.found_inf = self.found_inf
            optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for optimizer in self.both:
            optimizer.zero_grad(set_to_none)


def state_tensors(weights: Mapping[str, nn.Parameter], optimizer: Optimizer) -> dict[str, Tensor]:
    """{`parameter.field`: tensor} of the optimizer state of the named parameters."""
    return {
        f"{name}.{field}": value
        for name, p in weights.items()
        if p in optimizer.state
        for field, value in optimizer.state[p].items()
    }


def load_state_tensors(
    weights: Mapping[str, nn.Parameter], optimizer: Optimizer, tensors: dict[str, Tensor]
) -> None:
    """The inverse of `state_tensors`; empty if no step was taken. Raises UserError if a parameter is missing."""
    if not tensors:
        return
    fields_of: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, field = key.rpartition(".")
        fields_of.setdefault(name, {})[field] = value
    for name, parameter in weights.items():
        if name not in fields_of:
            raise UserError(f"optimizer.safetensors contains no state for {name}; was the model changed?")
        state = optimizer.state[parameter]
        for field, value in fields_of[name].items():
            if field in state:
                state[field].copy_(value)  # in place, because Muon's parts are views of this tensor
            else:
                # The fused kernel needs the step count in fp32 on the device of the parameter.
                state[field] = value.to(parameter.device)
