"""Batch ramp: the number of forward passes, and so of sequences, in each optimizer step and in all steps before it.

A ramp grows the batch by whole forward passes of constant shape, so nothing recompiles. With N ramp steps from `start` to
`passes` forward passes, step i (from 0) takes

    start + (passes - start) * i // N    if i < N, otherwise `passes`.

`passes_before(i)` is the exact sum over the steps before i in closed form: the sequences of step i begin where those of
step i - 1 end, and a run resumes anywhere without replay. Small batches suffice early in training, where gradients agree
(McCandlish et al. 2018, arXiv:1812.06162).
"""

from bisect import bisect_left


class BatchRamp:
    """Steps of `passes` forward passes of `rows` sequences each; the first `steps` steps grow from `start` passes.

    >>> ramp = BatchRamp(rows=8, passes=4, start=1, steps=6)
    >>> [ramp.passes_in(i) for i in range(8)]
    [1, 1, 2, 2, 3, 3, 4, 4]
    """

    def __init__(self, rows: int, passes: int = 1, start: int = 1, steps: int = 0):
        self.rows, self.passes, self.start, self.steps = rows, passes, start, steps

    def passes_before(self, step: int) -> int:
        """Number of forward passes in the steps before `step` (from 0)."""
        ramp = min(step, self.steps)
        grown = _floor_sum(ramp, self.passes - self.start, self.steps) if ramp else 0
        return self.start * ramp + grown + (step - ramp) * self.passes

    def passes_in(self, step: int) -> int:
        """Number of forward passes in step `step`."""
        return self.passes_before(step + 1) - self.passes_before(step)

    def rows_before(self, step: int) -> int:
        """Number of sequences in the steps before `step`, which is the index of its first sequence."""
        return self.rows * self.passes_before(step)

    def steps_for(self, rows: int) -> int:
        """The smallest number of steps with at least `rows` sequences."""
        passes = -(-rows // self.rows)
        beyond = passes - self.passes_before(self.steps)
        if beyond >= 0:
            return self.steps + -(-beyond // self.passes)
        return bisect_left(range(self.steps), passes, key=self.passes_before)


def _floor_sum(n: int, a: int, m: int) -> int:
    """The sum of a * i // m over i from 0 to n - 1, in as many iterations as Euclid's algorithm takes for a and m.

    Sums the integer part of the slope a / m directly. The rest is the number of lattice points below a line, counted
    along the other axis, where slope and offset b are smaller.

    >>> _floor_sum(7, 3, 6) == sum(3 * i // 6 for i in range(7))
    True
    """
    total, b = 0, 0
    while True:
        total += (n - 1) * n // 2 * (a // m) + n * (b // m)
        a, b = a % m, b % m
        top = a * n + b
        if top < m:
            return total
        n, b = divmod(top, m)
        a, m = m, a
