import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmfast.data.batches import Batches, Windows, derive_seed, first_few, permute


@given(size=st.integers(1, 5000), key=st.integers(0, 2**62))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_permute_is_a_permutation(size, key):
    assert sorted(permute(np.arange(size, dtype=np.uint64), size, key)) == list(range(size))


def test_permute_reaches_far_beyond_memory():
    image = permute(np.arange(1000, dtype=np.uint64), 10**15, 3)
    assert len(set(image.tolist())) == 1000 and image.max() > 10**14


def test_different_keys_give_different_orders():
    index = np.arange(500, dtype=np.uint64)
    assert (permute(index, 500, 1) == permute(index, 500, 2)).mean() < 0.02


def test_seeds_depend_on_every_part():
    assert len({derive_seed(a, b) for a in range(20) for b in range(20)}) == 400
    assert derive_seed(1, 2) == derive_seed(1, 2) < 2**63


def test_an_epoch_visits_every_window_once():
    context, tokens = 8, np.arange(8 * 40 + 1)
    batches = Batches(tokens, rows=13, context_length=context, seed=5)
    assert batches.windows == 39
    rows = np.concatenate([batches.step(i) for i in range(6)])
    epochs = [rows[: batches.windows], rows[batches.windows : 2 * batches.windows]]
    for epoch in epochs:
        assert len({int(row[0]) for row in epoch}) == batches.windows
        assert len({int(row[0]) % context for row in epoch}) == 1  # one offset an epoch
        assert (np.diff(epoch, axis=1) == 1).all()
    assert [r[0] for r in epochs[0]] != [r[0] for r in epochs[1]]


def test_a_step_is_a_pure_function_of_seed_and_step():
    tokens = np.random.default_rng(0).integers(0, 99, 5000).astype(np.uint16)
    a, b = (Batches(tokens, 4, 16, seed=7) for _ in range(2))
    later = a.step(1000)
    for i in range(5):
        a.step(i)
    assert np.array_equal(b.step(1000), later)
    assert not np.array_equal(Batches(tokens, 4, 16, seed=8).step(1000), later)
    assert later.dtype == np.int64 and later.shape == (4, 17)


@pytest.mark.parametrize("length", [9, 10, 16, 17, 18, 25])
def test_the_shortest_files_work(length):
    batches = Batches(np.arange(length), rows=3, context_length=8, seed=0)
    rows = np.concatenate([batches.step(i) for i in range(20)])
    assert rows.max() < length
    assert (np.diff(rows, axis=1) == 1).all()


def test_every_position_is_used_in_the_long_run():
    batches = Batches(np.arange(60), rows=4, context_length=8, seed=0)
    seen = np.unique(np.concatenate([batches.step(i) for i in range(400)]))
    assert len(seen) == 60


@given(length=st.integers(2, 200), rows=st.integers(1, 5), context=st.integers(1, 9))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_windows_cover_each_target_once(length, rows, context):
    tokens = np.arange(length)
    windows = Windows(tokens, rows, context, pad=-100)
    targets = []
    for batch in windows:
        assert batch.shape == (rows, context + 1)
        valid = batch[:, 1:] != -100
        assert (batch[:, :-1][valid] + 1 == batch[:, 1:][valid]).all()
        targets += batch[:, 1:][valid].tolist()
    assert targets == list(range(1, length))
    assert windows.targets().tolist() == targets


def test_windows_can_be_limited():
    windows = Windows(np.arange(1000), 2, 10, pad=-1, limit=3)
    assert len(list(windows)) == len(windows) == 3
    assert len(windows.targets()) == 60


def test_a_step_describes_where_its_rows_are():
    tokens = np.arange(1000)
    batches = Batches(tokens, 12, 8, seed=3)
    for step in (0, 40, 5):
        epoch, rows = re.fullmatch(
            r"epoch (\d+), rows from tokens ([\d, ]+) and 4 more", batches.describe(step)
        ).groups()
        assert int(epoch) == step * 12 // batches.windows
        assert [int(start) for start in rows.split(", ")] == batches.step(step)[:8, 0].tolist()


def test_the_first_few_numbers_and_how_many_more():
    assert first_few(np.arange(3)) == "0, 1, 2"
    assert first_few(np.arange(10)) == "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"
