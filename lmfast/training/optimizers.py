"""The optimizers: torch's fused AdamW over everything, or torch's Muon over the blocks' matrices and AdamW over the rest.

In: a model and its settings. Out: an optimizer whose groups carry `rate`, a factor on the schedule's learning rate, and
which obeys `found_inf`, a scalar on the device: where it is 1.0 a step changes neither weights nor state, and the host
need not know. The state is named after the parameters, so that a checkpoint does not depend on their order.

Decay applies to matrices only; norm weights are exempt, as in GPT-2 and nanoGPT. Refused: a state that does not fit.
Sources: Loshchilov & Hutter 2019 (AdamW); Jordan et al. 2024, kellerjordan.github.io/posts/muon (Muon); Liu et al.
2025, arXiv:2502.16982 (Muon's update at the size of AdamW's, so that one learning rate and decay serve both).
"""

from collections import defaultdict
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lmfast.errors import UserError
from lmfast.model.layers import FusedLinear


class Optimizer(Protocol):
    """What changes weights by their gradients: torch.optim.Optimizer's interface, as far as training uses it."""

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
    """AdamW in one kernel."""
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
) -> Optimizer:
    """`kind` adamw or muon; the loop sets every group's learning rate anew before each step.

    muon_lr: the peak rate of Muon's matrices, where it is not `learning_rate`.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    if kind == "adamw":
        return make_adamw(weights, learning_rate, betas, weight_decay)
    matrices = block_matrices(model)
    rest = [p for p in weights if p not in matrices]
    rate = 1.0 if muon_lr is None else muon_lr / learning_rate
    muon = Muon(matrices, learning_rate, weight_decay, muon_momentum, rate)
    return MuonWithAdamW(muon, make_adamw(rest, learning_rate, betas, weight_decay) if rest else None)


def block_matrices(model: nn.Module) -> dict[Tensor, list[int]]:
    """{matrix: rows of each matrix that it holds} of the linear layers but the head; embeddings are not among them."""
    return {
        module.weight: module.widths if isinstance(module, FusedLinear) else [module.out_features]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != "head" and module.weight.requires_grad
    }


class Muon(torch.optim.Muon):
    """torch's Muon, taught `found_inf` and fused projections.

    A fused projection is moved as the matrices it holds, each orthogonalised by itself, as if they had been registered
    apart; its momentum is one tensor all the same. torch's step has no found_inf: where a step must not count, the
    gradient is replaced by the momentum, which momentum.lerp_(gradient) then keeps to the bit, and the weights are put
    back afterwards. Their copies live within `step` only, when the activations are gone.
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
            p: [nn.Parameter(part) for part in p.detach().split(widths)] for p, widths in matrices.items()
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
            for part, view in zip(self.parts[p], whole.split(widths), strict=True):
                self.state[part]["momentum_buffer"] = view
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure=None):
        skip = None if self.found_inf is None else self.found_inf.bool()
        before = []
        for p, parts in self.parts.items():
            whole = p.grad
            assert whole is not None, "every matrix takes part in the loss"
            if skip is not None:
                torch.where(skip, self.state[p]["momentum_buffer"], whole, out=whole)
                before.append(p.clone())
            for part, grad in zip(parts, whole.split(self.widths[p]), strict=True):
                part.grad = grad
        super().step(closure)
        if skip is not None:
            for p, old in zip(self.parts, before):
                torch.where(skip, old, p, out=p)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for p in self.parts:
            p.grad = None
        super().zero_grad()


class MuonWithAdamW:
    """Two optimizers as one: all groups, one state, one step."""

    def __init__(self, muon: Muon, adamw: AdamW | None):
        self.both: list[Muon | AdamW] = [muon] if adamw is None else [muon, adamw]
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


def state_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """{`parameter.field`: tensor} of everything the optimizer remembers."""
    return {
        f"{name}.{field}": value
        for name, p in model.named_parameters()
        if p in optimizer.state
        for field, value in optimizer.state[p].items()
    }


def load_state_tensors(model: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of `state_tensors`; every parameter must be there. An empty state means no step was taken."""
    if not tensors:
        return
    fields_of: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, field = key.rpartition(".")
        fields_of.setdefault(name, {})[field] = value
    for name, parameter in model.named_parameters():
        if name not in fields_of:
            raise UserError(f"optimizer.safetensors holds no state for {name}; was the model changed?")
        state = optimizer.state[parameter]
        for field, value in fields_of[name].items():
            if field in state:
                state[field].copy_(value)  # Muon's parts look into this tensor
            else:
                # The step count stays in fp32 on the parameter's device, as the fused kernel keeps it.
                state[field] = value.to(parameter.device)
