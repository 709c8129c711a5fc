"""How many forward passes, and so sequences, each optimizer step takes, and all steps before it.

A ramp grows the batch by whole forward passes whose shape never changes, so nothing recompiles. With N ramp steps from
`start` to `passes` forward passes, step i (counted from 0) takes

    start + (passes - start) * i // N    where i < N, and `passes` from step N on.

`passes_before(i)` is the exact sum over the steps before i, from a table of N + 1 numbers: the sequences of step i
begin where those of step i - 1 end, and a run resumes anywhere without replay. Small batches suffice early in training,
where gradients agree (McCandlish et al. 2018, arXiv:1812.06162).
"""

from bisect import bisect_left
from itertools import accumulate


class BatchRamp:
    """Forward passes of `rows` sequences: `passes` in a step, and fewer in the first `steps` steps, from `start` on.

    >>> ramp = BatchRamp(rows=8, passes=4, start=1, steps=6)
    >>> [ramp.passes_in(i) for i in range(8)]
    [1, 1, 2, 2, 3, 3, 4, 4]
    """

    def __init__(self, rows: int, passes: int = 1, start: int = 1, steps: int = 0):
        self.rows, self.passes, self.start, self.steps = rows, passes, start, steps
        ramp = (start + (passes - start) * i // steps for i in range(steps))
        self._before = list(accumulate(ramp, initial=0))

    def passes_before(self, step: int) -> int:
        """Forward passes of the steps before `step`, which is counted from 0."""
        ramp = min(step, self.steps)
        return self._before[ramp] + (step - ramp) * self.passes

    def passes_in(self, step: int) -> int:
        """Forward passes of step `step`."""
        return self.passes_before(step + 1) - self.passes_before(step)

    def rows_before(self, step: int) -> int:
        """Sequences of the steps before `step`: the number of its first one."""
        return self.rows * self.passes_before(step)

    def steps_for(self, rows: int) -> int:
        """The fewest steps that take at least `rows` sequences."""
        passes = -(-rows // self.rows)
        beyond = passes - self._before[-1]
        if beyond >= 0:
            return self.steps + -(-beyond // self.passes)
        return bisect_left(self._before, passes)
