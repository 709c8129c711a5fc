"""Decides on the device whether a step may be taken, and tells the host about it only when asked.

In: each step's loss and gradient norm, device scalars. Out: `found_inf` for the fused optimizers, 1.0 where the step
must be left out. After PATIENCE such steps in a row the guard has given up, and no later step is taken until the host
looks: where a run ends does not depend on how often it is looked at. A step that is left out because fp16's loss scale
was too large is excused: it is not counted, and neither ends a row nor makes it longer. No operation here waits for
the device but `skipped`.
"""

import torch
from torch import Tensor

PATIENCE = 10
"""steps in a row with a loss or gradient that is not finite, after which the run stops"""


class FiniteGuard:
    def __init__(self, device: torch.device, step: int = 0):
        """step: the last one taken so far."""
        self.taken = torch.full((), step, dtype=torch.int64, device=device)
        self.in_a_row = torch.zeros((), dtype=torch.int64, device=device)
        self.total = torch.zeros((), dtype=torch.int64, device=device)
        self.recent = torch.zeros(
            PATIENCE, dtype=torch.int64, device=device
        )  # the last skipped steps, a ring
        self.slots = torch.arange(PATIENCE, device=device)
        self.reported = 0
        self.gave_up = False
        self.last_step = 0
        self.last_taken = step

    def check(self, step: int, loss: Tensor, norm: Tensor, excused: Tensor | None = None) -> Tensor:
        """1.0, as fp32 scalar, when step `step` (the first is 1) must be skipped, else 0.0.

        excused: whether a step that is skipped is not counted, a bool scalar of the device.
        """
        over = self.in_a_row >= PATIENCE
        bad = ~torch.isfinite(loss + norm)  # an infinity and its opposite make a NaN
        self.taken = torch.where(bad | over, self.taken, step)
        counted = bad & ~over if excused is None else bad & ~over & ~excused
        self.recent = torch.where(counted & (self.slots == self.total % PATIENCE), step, self.recent)
        self.total = self.total + counted
        self.in_a_row = torch.where(over, self.in_a_row, (self.in_a_row + counted) * bad)
        return (bad | over).float()

    def skipped(self) -> tuple[int, list[int]]:
        """(steps skipped since the last call, the last of them in order, at most PATIENCE); waits for the device."""
        total = int(self.total)
        number, before = total - self.reported, self.reported
        if not number:
            return 0, []
        ring = self.recent.tolist()
        self.reported = total
        self.gave_up = int(self.in_a_row) >= PATIENCE
        steps = [ring[i % PATIENCE] for i in range(max(before, total - PATIENCE), total)]
        self.last_step, self.last_taken = steps[-1], int(self.taken)
        return number, steps
