"""The loss scale of fp16 training, on the device: what torch.amp.GradScaler does, without its host syncs.

The loss is multiplied by a power of two before the backward, so that small gradients do not vanish in fp16, and the
gradients are divided by it before they are clipped. A step whose gradients overflow is skipped and halves the scale;
GROWTH_INTERVAL steps without an overflow double it (Micikevicius et al. 2018, arXiv:1710.03740). GradScaler reads one
number per step on the host; here every decision stays on the device, and the state is three tensors of a checkpoint.

In: fp32 gradients. Refused: a checkpoint without the state.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lmfast.errors import UserError

INITIAL, FLOOR, GROWTH_INTERVAL = 2.0**16, 1.0, 2000
"""GradScaler's own first value and interval; an overflow at a scale of FLOOR is none of the scale's"""


class LossScale:
    """`scale` multiplies the loss; `good_steps` counts steps since it last changed, `overflows` those skipped for it."""

    def __init__(self, device: torch.device):
        self.scale = torch.full((), INITIAL, device=device)
        self.good_steps = torch.zeros((), dtype=torch.int32, device=device)
        self.overflows = torch.zeros((), dtype=torch.int64, device=device)

    @torch.no_grad()
    def unscale_and_clip(self, weights: Sequence[Tensor], limit: float) -> Tensor:
        """Divides the gradients by the scale and clips them to a global norm of `limit`; returns the norm before.

        One pass over the gradients, as clipping alone needs: the scale and clip_grad_norm_'s factor are one number.
        """
        grads = [p.grad for p in weights if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads) / self.scale
        factor = (limit / (norm + 1e-6)).clamp(max=1.0) / self.scale
        torch._foreach_mul_(grads, factor)
        return norm

    def update(self, loss: Tensor, norm: Tensor) -> Tensor:
        """Moves the scale after a step; returns whether the step overflowed for its sake (bool scalar).

        A loss that is not finite, or a gradient at a scale of FLOOR, is none of the scale's: then the result is False.
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
        """{loss_scale, overflows: steps of the run skipped for it}; waits for the device."""
        return {"loss_scale": self.scale.item(), "overflows": self.overflows.item()}

    def state_tensors(self) -> dict[str, Tensor]:
        """What a checkpoint's optimizer file holds besides the optimizer's own."""
        fields = {"scale": self.scale, "good_steps": self.good_steps, "overflows": self.overflows}
        return {f"loss_scale.{name}": tensor for name, tensor in fields.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state_tensors`."""
        own = self.state_tensors()
        if missing := own.keys() - tensors.keys():
            raise UserError(
                f"optimizer.safetensors holds no {min(missing)}; was the run trained with --fp16?"
            )
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
