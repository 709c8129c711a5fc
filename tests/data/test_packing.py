import numpy as np
import pytest

from lmfast.data.chat import Rendered
from lmfast.data.chat_records import Message
from lmfast.data.packing import (
    RowBatches,
    best_fit,
    hold_out,
    mean_span,
    pack,
    pack_row,
    positions,
    prompt_hash,
    sequential_batches,
)
from lmfast.errors import UserError


def document(*ids: int) -> Rendered:
    return Rendered(np.array(ids, np.int32), np.array([i % 2 == 0 for i in ids]))


def test_best_fit_takes_the_fullest_row_that_fits():
    assert best_fit([3, 6, 2, 5], 8) == [[1, 2], [3, 0]]
    assert best_fit([5, 4, 3, 3], 8) == [[0, 2], [1, 3]]
    assert best_fit([], 8) == []
    with pytest.raises(ValueError, match="document 1 has 9"):
        best_fit([1, 9], 8)


def test_best_fit_keeps_everything_within_capacity_and_packs_tightly():
    lengths = np.random.default_rng(0).integers(5, 120, 2000).tolist()
    rows = best_fit(lengths, 256)
    assert sorted(i for row in rows for i in row) == list(range(2000))
    assert max(sum(lengths[i] for i in row) for row in rows) <= 256
    assert len(rows) <= 1.01 * np.ceil(sum(lengths) / 256)


def test_a_row_separates_documents_and_pads_without_loss():
    row = pack_row([document(4, 6, 7), document(8, 10)], 8, pad=99)
    assert row["id"].tolist() == [4, 6, 7, 8, 10, 99, 99, 99]
    assert row["document"].tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    # A document's first token is not a target, because the token before it belongs to another document.
    assert row["loss"].tolist() == [False, True, False, False, True, False, False, False]
    assert positions(row["document"][None]).tolist() == [[0, 1, 2, 0, 1, 0, 1, 2]]
    assert mean_span(row["document"][None]) == (3 * 3 + 2 * 2 + 3 * 3) / 8


def test_pack_with_and_without_packing():
    documents = [document(*range(1, n)) for n in (4, 6, 3)]
    assert pack(documents, 8, 0).shape == (2, 8)
    alone = pack(documents, 8, 0, packing=False)
    assert alone.shape == (3, 8) and alone["id"][2].tolist() == [1, 2, 0, 0, 0, 0, 0, 0]


def test_batches_visit_each_row_once_per_epoch_and_depend_only_on_seed_and_step():
    rows = pack([document(i, i) for i in range(10)], 2, 0)
    batches = RowBatches(rows, 5, seed=3)
    first = np.concatenate([batches.step(0), batches.step(1)])["id"][:, 0]
    second = np.concatenate([batches.step(2), batches.step(3)])["id"][:, 0]
    assert sorted(first) == sorted(second) == list(range(10)) and first.tolist() != second.tolist()
    np.testing.assert_array_equal(RowBatches(rows, 5, seed=3).step(3), batches.step(3))
    order = batches.order(1)
    assert batches.describe(1) == f"rows {', '.join(map(str, order))}" and len(order) == 5
    assert RowBatches(rows, 10, seed=3).describe(0).endswith(" and 2 more")
    # A step has the same size however many rows remain in the epoch.
    uneven = RowBatches(rows, 4, seed=3)
    seen = np.concatenate([uneven.step(i) for i in range(5)])["id"][:, 0]
    assert seen.tolist() == [*first, *second]


def test_pairs_stay_side_by_side():
    pairs = np.stack(
        [np.stack([pack_row([document(i)], 3, 0), pack_row([document(-i)], 3, 0)]) for i in range(6)]
    )
    for batch in (RowBatches(pairs, 4, 0).step(1), sequential_batches(pairs, 4)[0]):
        assert batch.shape == (8, 3)
        assert (batch["id"][0::2, 0] == -batch["id"][1::2, 0]).all()
    assert [len(batch) for batch in sequential_batches(pairs, 4)] == [8, 4]


def test_the_same_prompts_are_held_out_whatever_their_order():
    hashes = [prompt_hash([Message("user", str(i % 50))]) for i in range(60)]
    held = hold_out(hashes, 10)
    assert len(held) == 10 and held == hold_out(hashes[::-1], 10) and held <= set(hashes)
    assert hold_out(hashes, 0) == set()
    assert [len(hold_out(list(map(str, range(n))))) for n in (1, 2, 20, 500, 3000)] == [0, 1, 2, 50, 100]
    with pytest.raises(UserError, match="only 50 distinct prompts"):
        hold_out(hashes, 50)
    with pytest.raises(UserError, match="held_out is -1"):
        hold_out(hashes, -1)
    assert prompt_hash([Message("user", "a")]) != prompt_hash([Message("system", "a")])


def test_sequential_batches_up_to_a_limit():
    rows = np.arange(10).reshape(10, 1)
    assert [batch[:, 0].tolist() for batch in sequential_batches(rows, 4, 2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert len(sequential_batches(rows, 4, 0)) == 3
