"""torch's fused AdamW over a model, and its state as named tensors.

Decay applies to matrices only; norm weights are exempt, as in GPT-2 and nanoGPT. The state is named after the
parameters, so that a checkpoint does not depend on the order in which they were registered.
"""

import torch
from torch import Tensor, nn

from lmfast.errors import UserError


def make_adamw(
    model: nn.Module, learning_rate: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) in one kernel; the learning rate is set anew before each step."""
    weights = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in weights if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, betas=betas, fused=True)


def state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """{`parameter.field`: tensor} of everything the optimizer remembers."""
    names = {p: name for name, p in model.named_parameters()}
    return {
        f"{names[p]}.{field}": value
        for p, fields in optimizer.state.items()
        for field, value in fields.items()
    }


def load_state_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
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
        optimizer.state[parameter] = {
            # The step count stays in fp32 on the parameter's device, as the fused kernel keeps it.
            field: value.to(parameter.device)
            for field, value in fields_of[name].items()
        }
