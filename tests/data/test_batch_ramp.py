import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmfast.data import batch_ramp
from lmfast.data.batch_ramp import BatchRamp
from lmfast.data.batches import Batches
from lmfast.data.packing import RowBatches

RAMPS = {"passes": st.integers(1, 40), "start": st.integers(1, 40), "steps": st.integers(0, 60)}


def test_the_example():
    assert doctest.testmod(batch_ramp).failed == 0


@given(rows=st.integers(1, 9), **RAMPS)
def test_each_step_follows_its_formula_and_sums_are_exact(rows, passes, start, steps):
    start = min(start, passes)
    ramp = BatchRamp(rows, passes, start, steps)
    total = 0
    for i in range(steps + 5):
        wanted = start + (passes - start) * i // steps if i < steps else passes
        assert ramp.passes_in(i) == wanted
        assert ramp.passes_before(i) == total and ramp.rows_before(i) == rows * total
        total += wanted
    assert ramp.passes_before(10**12) == ramp.passes_before(steps) + (10**12 - steps) * passes


def test_a_ramp_of_any_length_costs_nothing():
    """A table with an entry per step would take 8 × 10^18 bytes."""
    ramp = BatchRamp(rows=3, passes=5, start=1, steps=10**18)
    assert [ramp.passes_in(i) for i in (0, 10**18 // 4 - 1, 10**18 // 4, 10**18)] == [1, 1, 2, 5]
    assert ramp.passes_before(10**18) == sum(range(1, 5)) * 10**18 // 4
    assert ramp.rows_before(ramp.steps_for(10**18)) in range(10**18, 10**18 + 3 * 5)


@given(rows=st.integers(1, 9), wanted=st.integers(0, 2000), **RAMPS)
def test_steps_for_is_minimal(rows, passes, start, steps, wanted):
    ramp = BatchRamp(rows, passes, min(start, passes), steps)
    fewest = ramp.steps_for(wanted)
    assert ramp.rows_before(fewest) >= wanted
    assert fewest == 0 or ramp.rows_before(fewest - 1) < wanted


def test_every_window_is_seen_once_per_epoch_across_the_ramp():
    """Step i begins where step i - 1 ends: the rows of a ramp are those of a constant batch, in the same order."""
    tokens = np.arange(8 * 150 + 1)
    ramp = BatchRamp(rows=3, passes=7, start=1, steps=18)
    batches = Batches(tokens, ramp, context_length=8, seed=5)
    steps = [batches.step(i) for i in range(40)]
    assert [len(rows) for rows in steps] == [3 * ramp.passes_in(i) for i in range(40)]
    seen = np.concatenate(steps)
    for epoch in range(4):
        rows = seen[epoch * batches.windows : (epoch + 1) * batches.windows]
        assert len({int(row[0]) for row in rows}) == batches.windows == len(rows)
    constant = Batches(tokens, 1, context_length=8, seed=5)
    np.testing.assert_array_equal(seen, np.concatenate([constant.step(i) for i in range(len(seen))]))


@pytest.mark.parametrize("step", [0, 5, 15, 16, 17, 18, 31, 1000])
def test_any_step_is_computed_without_the_steps_before_it(step):
    tokens = np.random.default_rng(0).integers(0, 99, 5000).astype(np.uint16)
    ramp = BatchRamp(rows=2, passes=5, start=2, steps=17)
    walked, fresh = (Batches(tokens, ramp, 16, seed=7) for _ in range(2))
    for i in range(step):
        walked.step(i)
    np.testing.assert_array_equal(walked.step(step), fresh.step(step))
    first = ramp.rows_before(step)
    assert fresh.describe(step).startswith(f"epoch {first // fresh.windows}, ")
    assert str(fresh.starts(step)[0]) in fresh.describe(step)


def test_packed_rows_ramp_too():
    rows = np.arange(30)[:, None]
    ramp = BatchRamp(rows=1, passes=4, start=1, steps=6)
    seen = np.concatenate([RowBatches(rows, ramp, seed=3).step(i) for i in range(11)])[:30]
    assert sorted(seen[:, 0]) == list(range(30))
