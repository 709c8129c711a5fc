"""Dynamic loss scaling for fp16 training, like torch.amp.GradScaler but without host synchronisation.

The loss is multiplied by a power of two before the backward, so that small gradients do not underflow in fp16, and the
fp32 gradients are divided by it before clipping. A step whose gradients overflow is skipped and halves the scale;
GROWTH_INTERVAL steps without overflow double it (Micikevicius et al. 2018, arXiv:1710.03740). GradScaler reads one number
per step on the host; here all decisions stay on the device. The state is three tensors in the checkpoint.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lmfast.errors import UserError

INITIAL, FLOOR, GROWTH_INTERVAL = 2.0**16, 1.0, 2000
"""GradScaler's initial value and interval; an overflow at scale FLOOR has another cause than the scale"""


class LossScale:
    """`scale`: factor on the loss; `good_steps`: steps since it last changed; `overflows`: steps skipped because of it."""

    def __init__(self, device: torch.device):
        self.scale = torch.full((), INITIAL, device=device)
        self.good_steps = torch.zeros((), dtype=torch.int32, device=device)
        self.overflows = torch.zeros((), dtype=torch.int64, device=device)

    @torch.no_grad()
    def unscale_and_clip(self, weights: Sequence[Tensor], limit: float, scaled_norm: Tensor) -> Tensor:
        """Divides the gradients by the scale and clips them to a global norm of `limit`; returns the norm before clipping.

        scaled_norm: of all gradients as they are. Takes one pass over the gradients, because scale and clipping factor are
        combined.
        """
        grads = [p.grad for p in weights if p.grad is not None]
        norm = scaled_norm / self.scale
        factor = (limit / (norm + 1e-6)).clamp(max=1.0) / self.scale
        torch._foreach_mul_(grads, factor)
        return norm

    def update(self, loss: Tensor, norm: Tensor) -> Tensor:
        """Updates the scale after a step; returns whether the step overflowed because of it (bool scalar).

        False if the loss itself is not finite, or if the scale is already FLOOR.
        """
        overflow = torch.isfinite(loss) & ~torch.isfinite(norm) & (self.scale > FLOOR)
        good = torch.isfinite(loss + norm)
        grow = good & (self.good_steps + 1 >= GROWTH_INTERVAL)
        factor = torch.where(overflow, 0.5, torch.where(grow, 2.0, 1.0))
        self.scale = (self.scale * factor).clamp(min=FLOOR)
        self.good_steps = torch.where(overflow | grow, 0, self.good_steps + good).to(torch.int32)
        self.overflows = self.overflows + overflow
        return overflow

    def metrics(self) -> dict[str, float]:
        """{loss_scale, overflows: steps of the run skipped because of it}; waits for the device."""
        return {"loss_scale": self.scale.item(), "overflows": self.overflows.item()}

    def state_tensors(self) -> dict[str, Tensor]:
        """The tensors stored in the optimizer file of a checkpoint, in addition to those of the optimizer."""
        fields = {"scale": self.scale, "good_steps": self.good_steps, "overflows": self.overflows}
        return {f"loss_scale.{name}": tensor for name, tensor in fields.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state_tensors`."""
        own = self.state_tensors()
        if missing := own.keys() - tensors.keys():
            raise UserError(
                f"optimizer.safetensors contains no {min(missing)}; was the run trained with --fp16?"
            )
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
