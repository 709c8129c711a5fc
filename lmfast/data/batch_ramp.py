"""How many forward passes, and so sequences, each optimizer step takes, and all steps before it.

A ramp grows the batch by whole forward passes whose shape never changes, so nothing recompiles. With N ramp steps from
`start` to `passes` forward passes, step i (counted from 0) takes

    start + (passes - start) * i // N    where i < N, and `passes` from step N on.

`passes_before(i)` is the exact sum over the steps before i, found without adding them up, so a ramp of any length costs
nothing: the sequences of step i begin where those of step i - 1 end, and a run resumes anywhere without replay. Small
batches suffice early in training, where gradients agree (McCandlish et al. 2018, arXiv:1812.06162).
"""

from bisect import bisect_left


class BatchRamp:
    """Forward passes of `rows` sequences: `passes` in a step, and fewer in the first `steps` steps, from `start` on.

    >>> ramp = BatchRamp(rows=8, passes=4, start=1, steps=6)
    >>> [ramp.passes_in(i) for i in range(8)]
    [1, 1, 2, 2, 3, 3, 4, 4]
    """

    def __init__(self, rows: int, passes: int = 1, start: int = 1, steps: int = 0):
        self.rows, self.passes, self.start, self.steps = rows, passes, start, steps

    def passes_before(self, step: int) -> int:
        """Forward passes of the steps before `step`, which is counted from 0."""
        ramp = min(step, self.steps)
        grown = _floor_sum(ramp, self.passes - self.start, self.steps) if ramp else 0
        return self.start * ramp + grown + (step - ramp) * self.passes

    def passes_in(self, step: int) -> int:
        """Forward passes of step `step`."""
        return self.passes_before(step + 1) - self.passes_before(step)

    def rows_before(self, step: int) -> int:
        """Sequences of the steps before `step`: the number of its first one."""
        return self.rows * self.passes_before(step)

    def steps_for(self, rows: int) -> int:
        """The fewest steps that take at least `rows` sequences."""
        passes = -(-rows // self.rows)
        beyond = passes - self.passes_before(self.steps)
        if beyond >= 0:
            return self.steps + -(-beyond // self.passes)
        return bisect_left(range(self.steps), passes, key=self.passes_before)


def _floor_sum(n: int, a: int, m: int) -> int:
    """The sum of a * i // m over i from 0 to n - 1, in as many rounds as Euclid's algorithm needs for a and m.

    Whole parts of the slope a / m are summed directly. What is left counts the lattice points below a line, which are
    counted again from the other axis, where slope and offset b are smaller.

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
