"""Skips steps with a non-finite loss or gradient, deciding on the device.

Input: loss and gradient norm of each step, as device scalars. Output: `found_inf` for the fused optimizers, 1.0 if the step
must be skipped. After PATIENCE skipped steps in a row, all later steps are skipped until the host checks, so where a run
ends does not depend on how often that happens. Steps skipped because the fp16 loss scale was too large do not count and do
not interrupt a row. Only `skipped` waits for the device.
"""

import torch
from torch import Tensor

PATIENCE = 10
"""number of consecutive steps with a non-finite loss or gradient after which the run stops"""


class FiniteGuard:
    def __init__(self, device: torch.device, step: int = 0):
        """step: the last step taken so far."""
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
        """1.0 if step `step` (from 1) must be skipped, otherwise 0.0, as an fp32 scalar on the device.

        excused: bool scalar on the device: whether to skip the step without counting it.
        """
        over = self.in_a_row >= PATIENCE
        bad = ~torch.isfinite(loss + norm)  # inf − inf is NaN, so the sum is finite only if both are
        self.taken = torch.where(bad | over, self.taken, step)
        counted = bad & ~over if excused is None else bad & ~over & ~excused
        self.recent = torch.where(counted & (self.slots == self.total % PATIENCE), step, self.recent)
        self.total = self.total + counted
        self.in_a_row = torch.where(over, self.in_a_row, (self.in_a_row + counted) * bad)
        return (bad | over).float()

    def skipped(self) -> tuple[int, list[int]]:
        """(number of steps skipped since the last call, the last PATIENCE of them in order); waits for the device."""
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
